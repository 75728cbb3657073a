"""Running models in a child process, so that one that crashes, hangs or hoards costs a sentence.

ONNX Runtime trusts its models: INT_MIN / -1 kills it with SIGFPE, a Loop may never end, an Expand
may want all memory there is. The child is started on first use and shared.
"""

from __future__ import annotations

import atexit
import itertools
import os
import select
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from graphopt import errors
from graphopt.errors import InputError, LimitError, MismatchError
from graphopt.limits import MEMORY, max_memory, max_seconds
from graphopt.onnx import frames

_LOST = (EOFError, OSError, frames.FrameError)


class Died(InputError):  # noqa: N818  what happened, not an error of the caller
    """The child process ended in the middle of a request."""


class Child:
    """The process and its pipes; `generation` counts how often it was started."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self.process: subprocess.Popen[bytes] | None = None
        self.generation = self.owner = 0
        self.stated: str | None = None  # the memory limit when it was started
        self.lock = threading.Lock()
        self.forgotten: deque[int] = deque()  # models that nobody has any more

    def call(self, method: str, *args: Any, seconds: float | None = None) -> Any:
        """Have a method of `serve.Server` called there.

        Raises:
            Died: the process crashed.
            LimitError: it took too long, or too much memory.
            InputError: the model can't be run.
        """
        with self.lock:
            return self._call(method, args, seconds or max_seconds())

    def start(self) -> None:
        """Start the process, if it doesn't run, without waiting for it."""
        with self.lock:
            self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        if self.owner != os.getpid():
            self.process = None  # that of the process which this one was forked from
        if self.stated != os.environ.get(MEMORY):
            self.close()  # it holds to another limit
        if self.process is None or self.process.poll() is not None:
            self.generation, self.owner = self.generation + 1, os.getpid()
            self.stated = os.environ.get(MEMORY)
            limits = [str(max_memory()), str(os.getpid())]
            self.process = subprocess.Popen(
                [sys.executable, "-m", "graphopt.onnx.serve", *limits], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment(),
            )  # fmt: skip
        return self.process

    def _call(self, method: str, args: tuple[Any, ...], seconds: float) -> Any:
        process = self._start()
        try:
            closed = [self.forgotten.popleft() for _ in range(len(self.forgotten))]
            frames.write(_pipe(process.stdin), (closed, method, args))
            ready, _, _ = select.select([_pipe(process.stdout)], [], [], seconds)
            if not ready:
                self.close()
                raise LimitError(f"running it takes over {seconds:g} s, the limit (--max-seconds)")
            answer = frames.read(_pipe(process.stdout))
        except _LOST as why:
            raise Died(self._cause()) from why
        except BaseException:  # an interrupt: its answer would be taken for the next
            self.close()
            raise
        if answer[0] == "ok":
            return answer[1]
        raise getattr(errors, answer[1], InputError)(answer[2])

    def _cause(self) -> str:
        """How the process ended."""
        status = self.process.wait() if self.process else 0
        self.close()
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"

    def close(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            try:
                _pipe(pipe).close()
            except OSError:
                continue  # what was not yet written can't be any more


def _pipe(stream: IO[bytes] | None) -> BinaryIO:
    assert stream is not None
    return cast("BinaryIO", stream)


def _environment() -> dict[str, str]:
    """So that the child finds the same graphopt as this process."""
    root = str(Path(__file__).absolute().parents[2])
    above = [p for p in (root, os.environ.get("PYTHONPATH")) if p]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(above)}


_child = Child()
_numbers = itertools.count()
atexit.register(_child.close)


def start_child() -> None:
    """Start the child now, beside other work, because it will be needed."""
    _child.start()


def evaluate(model: bytes, feeds: Mapping[str, Any], seconds: float) -> list[Any]:
    """Run a small model in the child (errors as in `Child.call`)."""
    with _blaming():
        return _child.call("evaluate", model, dict(feeds), seconds=min(seconds, max_seconds()))


@contextmanager
def _blaming() -> Generator[None, None, None]:
    """Say that it was ONNX Runtime that died."""
    try:
        yield
    except Died as why:
        raise InputError(f"ONNX Runtime crashes on it ({why})") from why


def run_bundle(
    folder: Path, feeds: Sequence[Mapping[str, Any]], threads: int
) -> list[dict[str, Any]]:
    """The outputs of a compiled bundle by name, for each of the inputs.

    Raises:
        MismatchError: it crashes.
        LimitError: it takes too long, or too much memory.
    """
    seconds = max_seconds() * max(len(feeds), 1)
    given = [dict(f) for f in feeds]
    try:
        return _child.call("bundle", folder.absolute(), given, threads, seconds=seconds)
    except Died as why:
        raise MismatchError(
            f"the compiled bundle crashes ({why}), and the original doesn't"
        ) from why


class Remote:
    """A model opened in the child; opened again where another model took the child down."""

    def __init__(self, source: bytes | Path, threads: int | None) -> None:
        """Open it.

        Raises:
            InputError: it can't be run, or crashes.
            LimitError: it takes too long, or too much memory.
        """
        given = source if isinstance(source, bytes) else source.absolute()
        self._given, self._number = (given, threads), next(_numbers)
        self._generation = -1
        self.name = self._open()
        weakref.finalize(self, _child.forgotten.append, self._number)

    def _open(self) -> str:
        with _blaming():
            name = _child.call("open", self._number, *self._given)
        self._generation = _child.generation
        return name

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs in order (errors as when it is opened)."""
        if _child.process is None or self._generation != _child.generation:
            self._open()
        with _blaming():
            return _child.call("run", self._number, dict(feeds))
