"""Mutated models through load, opt and optimize: none may end in more than one sentence.

python tools/fuzz.py --count 2000 --seed 0 --stage all
python tools/fuzz.py --replay fuzz-failures/17-opt-traceback
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.fuzz import models
from tests.fuzz.harness import STAGES, Outcome, Settings, requests, run, whole


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=2000, help="how many models")
    parser.add_argument("--seed", type=int, default=0, help="the first one's seed")
    parser.add_argument("--stage", choices=[*STAGES, "all"], default="all")
    parser.add_argument("--share", type=int, default=8, help="with `all`, optimize 1 in so many")
    parser.add_argument("--memory-mb", type=int, default=2048, help="address space of a worker")
    parser.add_argument("--seconds", type=float, default=20.0, help="most for one model")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="for bad inputs")
    parser.add_argument("--log", type=Path, help="write every outcome there, a JSON line each")
    parser.add_argument("--replay", type=Path, help="a kept folder, or a model, to try again")
    return parser.parse_args()


def tell(outcome: Outcome) -> None:
    """Print a failure as it is found."""
    if not outcome.good:
        print(f"{outcome.result}: seed {outcome.seed} at {outcome.stage}: {outcome.what}")
        print(f"  {outcome.text[-1500:]}")
        print(f"  replay: python tools/fuzz.py --replay {outcome.kept}", flush=True)


def summary(outcomes: list[Outcome], seconds: float) -> None:
    """Print the counts by result."""
    for stage in STAGES:
        counts = collections.Counter(
            f"{o.result} (exit {o.code})" if o.result == "refused" else o.result
            for o in outcomes if o.stage == stage
        )  # fmt: skip
        if counts:
            print(f"{stage:9}", ", ".join(f"{n} {what}" for what, n in sorted(counts.items())))
    slow = max(outcomes, key=lambda o: o.seconds)
    print(f"{len(outcomes)} runs in {seconds:.0f} s; "
          f"the slowest, seed {slow.seed} at {slow.stage}, took {slow.seconds:.1f} s")  # fmt: skip


def main() -> int:
    """Run; exit code 1 where anything failed."""
    given = options()
    settings = Settings(given.memory_mb, given.seconds, given.jobs, given.keep.absolute())
    if given.replay:
        path = given.replay.absolute()
        file = str(path / "model.onnx" if path.is_dir() else path)
        stages = STAGES if given.stage == "all" else (given.stage,)
        settings.jobs, settings.keep = 1, None
        todo = [{"file": file, "stage": s} for s in stages]
    else:
        todo = list(requests(range(given.seed, given.seed + given.count), given.stage, given.share))
    if not given.replay and given.stage in ("optimize", "all"):
        warm = replace(settings, seconds=300.0, jobs=1)
        run(whole([*models.SMALL, *models.real()], "optimize"), warm, tell)
    began = time.perf_counter()
    outcomes = run(todo, settings, tell)
    if given.log:
        given.log.write_text("".join(json.dumps(vars(o)) + "\n" for o in outcomes))
    summary(outcomes, time.perf_counter() - began)
    return 0 if all(o.good for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
