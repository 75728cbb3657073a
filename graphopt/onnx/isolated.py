"""Running models in a child process, so that one that crashes, hangs or hoards costs a sentence.

ONNX Runtime trusts its models: INT_MIN / -1 kills it with SIGFPE, a Loop may never end, an Expand
may want all memory there is. The child is started on first use and shared.
"""

from __future__ import annotations

import atexit
import itertools
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from graphopt import errors
from graphopt.errors import InputError, LimitError
from graphopt.limits import max_memory, max_seconds

_LOST = (EOFError, OSError, pickle.UnpicklingError)


class Died(InputError):
    """The child process ended in the middle of a request."""


class Child:
    """The process and its pipes; `generation` counts how often it was started."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self.process: subprocess.Popen[bytes] | None = None
        self.generation = self.owner = 0
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
        if self.process is None or self.process.poll() is not None:
            self.generation, self.owner = self.generation + 1, os.getpid()
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
            pickle.dump((closed, method, args), _pipe(process.stdin), protocol=5)
            _pipe(process.stdin).flush()
            ready, _, _ = select.select([process.stdout], [], [], seconds)
            if not ready:
                self.close()
                raise LimitError(f"running it takes over {seconds:g} s, the limit (--max-seconds)")
            answer = pickle.load(_pipe(process.stdout))
        except _LOST as why:
            raise Died(f"ONNX Runtime crashes on it ({self._cause()})") from why
        except BaseException:  # an interrupt: the answer would be taken for that of the next request
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


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _environment() -> dict[str, str]:
    """So that the child finds the same graphopt as this process."""
    root = str(Path(__file__).absolute().parents[2])
    above = [p for p in (root, os.environ.get("PYTHONPATH")) if p]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(above)}


_child = Child()
_numbers = itertools.count()
atexit.register(_child.close)


def start() -> None:
    """Start the child now, beside other work, because it will be needed."""
    _child.start()


def evaluate(model: bytes, feeds: Mapping[str, Any], seconds: float) -> list[Any]:
    """Run a small model in the child (errors as in `Child.call`)."""
    return _child.call("evaluate", model, dict(feeds), seconds=min(seconds, max_seconds()))


class Remote:
    """A model opened in the child; opened again where another model took the child down."""

    def __init__(self, source: bytes | Path, threads: int | None) -> None:
        """Open it (errors as in `Child.call`)."""
        given = source if isinstance(source, bytes) else source.absolute()
        self._given, self._number = (given, threads), next(_numbers)
        self._generation = -1
        self.name = self._open()
        weakref.finalize(self, _child.forgotten.append, self._number)

    def _open(self) -> str:
        name = _child.call("open", self._number, *self._given)
        self._generation = _child.generation
        return name

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs in order (errors as in `Child.call`)."""
        if _child.process is None or self._generation != _child.generation:
            self._open()
        return _child.call("run", self._number, dict(feeds))

