"""Tuning: the schedules of a model's kernels are tried on this computer, and the best kept.

    program --(kernels by time)--> worker processes --(trials)--> database --> plan

The plan maps a computation (`lower.text_key`) to the knobs of its template. It goes into the
manifest, so that the same plan gives the same bundle. A schedule that kills its worker is skipped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from graphopt.errors import InputError
from graphopt.targets.cache import cache_folder, keep
from graphopt.targets.lower import text_key
from graphopt.targets.machine import Machine
from graphopt.targets.program import Kernel, KernelCall, Program
from graphopt.targets.roofline.host import this_host
from graphopt.targets.tvm.compile import Worker, salt

LONGEST = 60.0  # seconds that one trial may take before its process is ended
LEAST = 1.0  # seconds that a kernel gets at least: its rule's choice and a few others
Told = Callable[[str, float, float, int, int], None]  # node, us by rule, best us, done, of how many


@dataclass(frozen=True)
class Found:
    """What the trials of one kernel gave: `knobs` (empty: the rule's choice), microseconds."""

    knobs: str
    us: float
    rule_us: float
    trials: int


class Database:
    """Results by CPU, threads, machine, templates and computation; one small file each."""

    def __init__(self, machine: Machine, threads: int, folder: Path | None = None) -> None:
        """Use a folder; None: the user's own."""
        where = f"{this_host().text}\n{threads}\n{salt(machine)}"
        name = hashlib.sha256(where.encode()).hexdigest()[:24]
        self.folder = (folder or cache_folder("tuning")) / name

    def get(self, key: str) -> Found | None:
        """The result for a computation."""
        try:
            return Found(**json.loads((self.folder / f"{key}.json").read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def put(self, key: str, found: Found) -> None:
        """Keep a result; a folder that can't be written keeps none."""
        keep(self.folder / f"{key}.json", json.dumps(asdict(found)).encode())


@dataclass(frozen=True)
class Tuner:
    """Tries schedules for a machine, which must be this computer, with a number of threads."""

    machine: Machine
    threads: int
    database: Database
    told: Told | None = None

    def plan(self, program: Program, seconds: float) -> dict[str, str]:
        """The knobs of the program's kernels, trying what isn't known for up to `seconds`.

        Time goes to kernels by their multiply-accumulates; those without have no knobs worth it.
        """
        until = time.monotonic() + seconds
        wanted = list(_by_work(program))
        left = sum(work for _, work, _ in wanted)
        for done, (kernel, work, node) in enumerate(wanted):
            key, rest = text_key(kernel.text), until - time.monotonic()
            if self.database.get(key) is None and rest > 0:
                found = self.tune(kernel, max(LEAST, rest * work / max(left, 1)))
                if found:
                    self.database.put(key, found)
                    if self.told:
                        self.told(node, found.rule_us, found.us, done + 1, len(wanted))
            left -= work
        known = {text_key(k.text): self.database.get(text_key(k.text)) for k, _, _ in wanted}
        return {key: found.knobs for key, found in known.items() if found and found.knobs}

    def tune(self, kernel: Kernel, seconds: float) -> Found | None:
        """Try one kernel's schedules, in a process that a schedule may take with it."""
        skip: list[str] = []
        for _ in range(3):
            worker, trying = Worker(self.threads), ""
            request = {"key": kernel.key, "text": kernel.text, "machine": self.machine.to_json(),
                       "seconds": seconds, "skip": skip}  # fmt: skip
            try:
                answer = worker.receive(LONGEST) if worker.send(request) else None
                while answer is not None and not answer.get("done") and "error" not in answer:
                    trying = answer["trial"]
                    answer = worker.receive(LONGEST)
            except BaseException:  # an interrupt: nobody waits for the rest of its trials
                worker.process.kill()
                raise
            finally:
                worker.close()
            if answer is not None:
                return _found(answer)
            if not trying:
                return None
            skip.append(trying)
        return None


def _found(answer: Mapping[str, Any]) -> Found | None:
    if "error" in answer or not answer["trials"]:
        return None
    return Found(answer["best"], answer["us"], answer["rule"], answer["trials"])


def _by_work(program: Program) -> Sequence[tuple[Kernel, int, str]]:
    """The kernels that multiply, with their work in the whole program, most first, and nodes."""
    kernels = {k.symbol: k for k in program.kernels}
    work: dict[str, int] = {}
    nodes: dict[str, str] = {}
    for step in program.steps:
        if isinstance(step, KernelCall) and step.macs:
            work[step.kernel] = work.get(step.kernel, 0) + step.macs
            nodes.setdefault(step.kernel, step.nodes[0] if step.nodes else step.kernel)
    order = sorted(work, key=lambda s: (-work[s], s))
    return [(kernels[s], work[s], nodes[s]) for s in order]


def read_plan(path: Path) -> dict[str, str]:
    """The plan of a bundle's manifest, or of a file of its own.

    Raises:
        InputError: the file can't be read, or holds no plan.
    """
    try:
        held: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as why:
        raise InputError(f"{path}: can't read a plan: {why}") from why
    extra = _object(_object(held).get("extra", held))
    plan = _object(extra.get("plan"))
    if "plan" not in extra or not all(isinstance(v, str) for v in plan.values()):
        raise InputError(f"{path}: holds no plan; the manifest.json of a tuned bundle does")
    return plan


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
