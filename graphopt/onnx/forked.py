"""Calls of onnx's C++ (shape inference, inlining) in a forked process, because they may crash.

ONNX trusts its models too: its shape inference follows null pointers and reserves what attributes
say. A fork shares what is loaded, so that it costs milliseconds, where `isolated` takes a second.
"""

from __future__ import annotations

import os
import select
import signal
import time
import warnings
from collections.abc import Callable

from graphopt.errors import GraphoptError
from graphopt.limits import limit_memory, max_memory, max_seconds

MOST_SECONDS = 60.0


class LostError(GraphoptError):
    """The process crashed, or took too long; the text says which."""


def forked(work: Callable[[], bytes]) -> bytes:
    """What `work` returns, computed in a copy of this process.

    Raises:
        LostError: that crashed, or took too long.
        ValueError: `work` raised an exception; the text is that one's.
    """
    if not hasattr(os, "fork"):  # Windows
        return work()
    out, into = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other threads' locks: the child takes none of Python's
        limit = max_memory()
        child = os.fork()
    if child == 0:
        _answer(work, into, limit)
    os.close(into)
    try:
        data = _read(out, time.monotonic() + min(max_seconds(), MOST_SECONDS))
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(out)
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) or not data:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        raise LostError(f"crashed ({signal.Signals(number).name if number else 'no answer'})")
    if data[0]:
        raise ValueError(data[1:].decode("utf-8", "replace"))
    return data[1:]


def _answer(work: Callable[[], bytes], into: int, limit: int) -> None:
    """The child's whole life."""
    try:
        limit_memory(limit)
        data = b"\0" + work()
    except BaseException as why:
        data = b"\1" + str(why).encode("utf-8", "replace")
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(into, view) :]
    finally:
        os._exit(0)


def _read(out: int, until: float) -> bytes:
    pieces: list[bytes] = []
    while True:
        ready, _, _ = select.select([out], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise LostError("takes too long")
        piece = os.read(out, 1 << 20)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
