"""Compiling kernels in worker processes, with a content-keyed cache. TVM is never imported here.

    kernels --(cache?)--> pool of workers --> key.o in the cache folder

A worker that dies (LLVM can abort a process) costs one retry of the kernel it was at, alone in a
fresh worker; if that dies too, the kernel is a CompileFailure.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Protocol

from graphopt.errors import InputError
from graphopt.limits import max_seconds
from graphopt.targets.cache import cache_folder
from graphopt.targets.machine import Machine
from graphopt.targets.program import is_whole

FORMAT = 1  # part of every key: raise it when templates change their meaning


class KernelText(Protocol):
    """What is compiled; `targets.program.Kernel` is one."""

    @property
    def symbol(self) -> str:
        """The C name."""
        ...

    @property
    def key(self) -> str:
        """The content hash; the name of the object file."""
        ...

    @property
    def text(self) -> str:
        """The IR of the region."""
        ...

    @property
    def knobs(self) -> str:
        """The schedule of its template; empty: the best by rule."""
        ...


@dataclass(frozen=True)
class CompileFailure:
    """A kernel that has no object file, and why."""

    key: str
    reason: str


Progress = Callable[[str, bool, float], None]  # key, whether it was cached, seconds


@cache
def versions() -> str:
    """What else decides the machine code: TVM's version and the text of our templates."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted((*here.glob("*.py"), *(here / "kernels").glob("*.py"))):
        if path.name not in ("compile.py", "worker.py"):
            digest.update(path.read_bytes())
    try:
        tvm = metadata.version("apache-tvm")
    except metadata.PackageNotFoundError:
        tvm = "none"
    return f"{FORMAT}:{tvm}:{digest.hexdigest()}"


def salt(machine: Machine) -> str:
    """What besides the text decides a kernel's machine code; part of every key."""
    return f"{machine.to_json()}\n{versions()}"


def default_cache() -> Path:
    """The folder of compiled kernels, in the user's cache."""
    return cache_folder("kernels")


@dataclass
class Job:
    """One kernel to compile; `tries` counts workers that it took with it."""

    request: dict[str, str]
    tries: int = 0


@dataclass
class Pool:
    """Threads, each the master of one worker process."""

    machine: Machine
    progress: Progress | None
    todo: queue.SimpleQueue[Job] = field(default_factory=queue.SimpleQueue[Job])
    done: dict[str, Path | CompileFailure] = field(
        default_factory=dict[str, "Path | CompileFailure"]
    )
    unwritable: str = ""  # why files can't be written, where they can't
    stopped: bool = False
    workers: list[Worker] = field(default_factory=list["Worker"])

    def run(self, jobs: int) -> None:
        """Compile all that is queued; then, alone, what a worker died at.

        Nothing more is begun once a file couldn't be written. An interrupt ends the workers.
        """
        try:
            self._round(jobs)
            self._round(1)
        except BaseException:
            self.stopped = True
            for worker in tuple(self.workers):
                worker.process.kill()
            raise

    def _round(self, jobs: int) -> None:
        count = min(jobs, self.todo.qsize())
        again: queue.SimpleQueue[Job] = queue.SimpleQueue()
        threads = [threading.Thread(target=self._serve, args=(again,)) for _ in range(count)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.todo = again

    def _serve(self, again: queue.SimpleQueue[Job]) -> None:
        worker: Worker | None = None
        while (job := self._next()) is not None:
            worker = worker or self._hired()
            answer = worker.ask(job.request, max_seconds())
            if answer is None:
                worker = self._died(worker, job, again)
                continue
            self._finish(job, answer)
        if worker:
            worker.close()

    def _hired(self) -> Worker:
        worker = Worker()
        self.workers.append(worker)
        if self.stopped:  # it was begun beside the interrupt
            worker.process.kill()
        return worker

    def _next(self) -> Job | None:
        if self.stopped or self.unwritable:
            return None
        try:
            return self.todo.get_nowait()
        except queue.Empty:
            return None

    def _died(self, worker: Worker, job: Job, again: queue.SimpleQueue[Job]) -> None:
        status = worker.close()
        job.tries += 1
        if job.tries < 2 and not worker.late:
            again.put(job)
            return
        key = job.request["key"]
        why = f"the compiler process ended with status {status}: {worker.last_words()}"
        if worker.late:
            why = f"compiling it takes over {max_seconds():g} s, the limit (--max-seconds)"
        self.done[key] = CompileFailure(key, why)

    def _finish(self, job: Job, answer: dict[str, Any]) -> None:
        key = job.request["key"]
        self.unwritable = self.unwritable or answer["unwritable"]
        if answer["ok"]:
            self.done[key] = Path(job.request["out"])
        else:
            self.done[key] = CompileFailure(key, str(answer["error"]))
        if self.progress:
            self.progress(key, False, float(answer["seconds"]))


class Worker:
    """One process of `graphopt.targets.tvm.worker`."""

    def __init__(self, threads: int = 1) -> None:
        """Start it; `threads` is what kernels that it times may use."""
        command = [sys.executable, "-m", "graphopt.targets.tvm.worker"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": _python_path(), "OPENBLAS_NUM_THREADS": "1",
                 "TVM_NUM_THREADS": str(threads)},
        )  # fmt: skip
        self.errors: list[bytes] = []
        self.late = False  # whether it was ended because it took too long
        self.reader = threading.Thread(target=self._drain, daemon=True)
        self.reader.start()

    def _drain(self) -> None:
        for line in _pipe(self.process.stderr):
            self.errors = [*self.errors[-19:], line]

    def ask(self, request: dict[str, str], seconds: float) -> dict[str, Any] | None:
        """Send a request and wait for its answer; None if the process died, or had to be ended."""
        return self.receive(seconds) if self.send(request) else None

    def send(self, request: Mapping[str, object]) -> bool:
        """Send a request; tell whether the process took it."""
        try:
            _pipe(self.process.stdin).write(json.dumps(request).encode() + b"\n")
            _pipe(self.process.stdin).flush()
        except OSError:
            return False
        return True

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """Wait for an answer; None if the process died, or had to be ended."""
        try:
            ready, _, _ = select.select([_pipe(self.process.stdout)], [], [], seconds)
            if not ready:
                self.late = True
                self.process.kill()
            line = _pipe(self.process.stdout).readline()
        except OSError:
            return None
        return json.loads(line) if line.endswith(b"\n") else None

    def close(self) -> int:
        """Let it end; give its exit status."""
        with contextlib.suppress(OSError):  # where it is gone already
            _pipe(self.process.stdin).close()
        status = self.process.wait()
        self.reader.join(timeout=5)
        _pipe(self.process.stdout).close()
        return status

    def last_words(self) -> str:
        """The last line it printed on stderr."""
        lines = [line.decode("utf-8", "replace").strip() for line in self.errors]
        return next((line for line in reversed(lines) if line), "it said nothing")[:500]


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _python_path() -> str:
    """So that the worker finds the same graphopt as this process."""
    root = str(Path(__file__).absolute().parents[3])
    above = [p for p in (root, os.environ.get("PYTHONPATH")) if p]
    return os.pathsep.join(above)


def compile_kernels(
    kernels: Iterable[KernelText],
    machine: Machine,
    *,
    jobs: int | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Mapping[str, Path | CompileFailure]:
    """Compile every kernel that the cache lacks.

    Args:
        kernels: what to compile; equal keys are compiled once.
        machine: the CPU to compile for.
        jobs: worker processes (default: one a core).
        cache_dir: where object files (of a portable machine: C files) are kept, one a key
            (default: `default_cache()`).
        progress: told of each kernel as it is ready.

    Returns:
        The object file, or the failure, of each key.

    Raises:
        InputError: the cache folder can't be written.
    """
    folder = cache_dir or default_cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as why:
        raise InputError(f"{folder}: can't make the cache folder: {why.strerror}") from why
    pool = Pool(machine, progress)
    for kernel in {k.key: k for k in kernels}.values():
        out = folder / f"{kernel.key}.{'c' if machine.portable else 'o'}"
        if is_whole(out):
            pool.done[kernel.key] = out
            if progress:
                progress(kernel.key, True, 0.0)
            continue
        pool.todo.put(Job({"key": kernel.key, "symbol": kernel.symbol, "text": kernel.text,
                           "knobs": kernel.knobs, "machine": machine.to_json(),
                           "out": str(out)}))  # fmt: skip
    pool.run(jobs or os.cpu_count() or 1)
    if pool.unwritable:
        raise InputError(f"{folder}: can't write compiled kernels: {pool.unwritable}; make room, "
                         "or set XDG_CACHE_HOME to another folder")  # fmt: skip
    return pool.done
