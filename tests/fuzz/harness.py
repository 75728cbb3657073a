# pyright: basic
# Mutations put anything anywhere: the point is that types do not hold.
"""Many mutated models through worker processes: what became of each, and the bad ones kept."""

from __future__ import annotations

import json
import os
import queue
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
GOOD = ("ok", "refused")  # all else is a failure
STAGES = ("load", "opt", "optimize")


@dataclass(frozen=True)
class Outcome:
    """What became of one input at one stage.

    `result` is ok, refused, or a failure: traceback, message (no single sentence), leftover, oom,
    crash (a signal), hang.
    """

    seed: int
    stage: str
    result: str
    code: int
    text: str = ""
    what: str = ""
    sort: str = ""
    seconds: float = 0.0
    kept: str = ""

    @property
    def good(self) -> bool:
        """Whether this is how bad input may end."""
        return self.result in GOOD


@dataclass
class Settings:
    """The limits of a worker, and where things are."""

    memory_mb: int = 2048
    seconds: float = 20.0
    jobs: int = 2
    keep: Path | None = None
    cache: Path = field(default_factory=lambda: Path(tempfile.gettempdir()) / "graphopt-fuzz-cache")


Request = dict[str, Any]


def requests(seeds: Iterable[int], stage: str, share: int = 8) -> Iterator[Request]:
    """What to try: each seed at a stage; `all`: at load and opt, and every `share`th at optimize."""
    for seed in seeds:
        for name in STAGES if stage == "all" else (stage,):
            if stage != "all" or name != "optimize" or (seed // 5) % share == 0:
                yield {"seed": seed, "stage": name}


def whole(names: Iterable[str], stage: str) -> Iterator[Request]:
    """Models as they are: what shows that the harness is right, and fills the cache of kernels."""
    return ({"model": name, "stage": stage} for name in names)


class Worker:
    """One worker process; started again when it died or was killed."""

    def __init__(self, settings: Settings) -> None:
        """Start it, in a temporary folder."""
        self.settings = settings
        self.home = Path(tempfile.mkdtemp(prefix="graphopt-fuzz-"))
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the worker)
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        place = [str(self.home), str(self.settings.memory_mb)]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(self.settings.cache),
               "TMPDIR": str(self.home / "tmp"), "OPENBLAS_NUM_THREADS": "1",
               "GRAPHOPT_MAX_SECONDS": str(self.settings.seconds / 2)}  # fmt: skip
        self.errors.seek(0)
        self.errors.truncate()
        return subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", *place], cwd=ROOT, env=env,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
            start_new_session=True,
        )  # fmt: skip

    def ask(self, request: Request) -> Outcome:
        """Try one input; a crash or a hang is an outcome too."""
        self._pipe(self.process.stdin).write(json.dumps(request).encode() + b"\n")
        self._pipe(self.process.stdin).flush()
        pipe = self._pipe(self.process.stdout)
        ready, _, _ = select.select([pipe], [], [], self.settings.seconds)
        line = pipe.readline() if ready else b""
        seed, stage = int(request.get("seed", 0)), str(request["stage"])
        if line.endswith(b"\n"):
            outcome = Outcome(seed, stage, **json.loads(line))
        else:
            what = self.home / "what"
            words = what.read_text() if what.exists() else ""
            outcome = Outcome(seed, stage, *self._lost(bool(ready)), what=words)
        return outcome if outcome.good else self._keep(outcome)

    def _lost(self, ended: bool) -> tuple[str, int, str]:
        """Find out how the worker was lost, and start another."""
        if not ended:
            self.kill()
        status = self.process.wait()
        self.errors.seek(0)
        words = self.errors.read().decode("utf-8", "replace")[-2000:]
        self.process = self._start()
        if not ended:
            return "hang", status, words
        return "crash", status, f"{_signal(status)}: {words}"

    def _keep(self, outcome: Outcome) -> Outcome:
        """Copy the input of a failure."""
        if self.settings.keep is None or not (self.home / "in").exists():
            return outcome
        place = self.settings.keep / f"{outcome.seed}-{outcome.stage}-{outcome.result}"
        shutil.rmtree(place, ignore_errors=True)
        _copy(self.home / "in", place)
        (place / "outcome.json").write_text(json.dumps(vars(outcome), indent=1))
        return Outcome(**{**vars(outcome), "kept": str(place)})

    def kill(self) -> None:
        """End it and what it started."""
        os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End it and remove its folder."""
        self._pipe(self.process.stdin).close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
        self._pipe(self.process.stdout).close()
        self.errors.close()
        shutil.rmtree(self.home, ignore_errors=True)

    @staticmethod
    def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
        assert stream is not None
        return stream


def _copy(source: Path, place: Path) -> None:
    """Copy files and links; leave pipes and folders."""
    place.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_symlink() or path.is_file():
            shutil.copy2(path, place / path.name, follow_symlinks=False)


def _signal(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"


def run(
    todo: Iterable[Request], settings: Settings, tell: Callable[[Outcome], None] = lambda o: None
) -> list[Outcome]:
    """Try every request in `settings.jobs` workers; gives the outcomes, by seed."""
    waiting: queue.SimpleQueue[Request] = queue.SimpleQueue()
    for request in todo:
        waiting.put(request)
    found: list[Outcome] = []

    def serve() -> None:
        worker = Worker(settings)
        try:
            while True:
                outcome = worker.ask(waiting.get_nowait())
                found.append(outcome)
                tell(outcome)
        except queue.Empty:
            worker.close()

    threads = [threading.Thread(target=serve) for _ in range(settings.jobs)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return sorted(found, key=lambda o: (o.seed, STAGES.index(o.stage)))
