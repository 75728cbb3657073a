"""Every model end to end: read, optimize, compile for x86, verify; one line each.

    python tools/bench_all.py --zoo DIR [MODEL...] [--json FILE]

Each model runs through `graphopt.optimize(model, target="x86")` in a process of its own, so that a
crash loses one line. A model whose inputs keep a dynamic shape is compiled a second time at fixed
sizes, the smallest tried that ONNX Runtime runs, as with `--input-shape`. `error` is the largest
difference from ONNX Runtime with its optimizer off, relative to the output's range; `limit` is the
tolerance derived for the model. Exit code 1 when a model fails; its sentence is printed. A model
that ONNX Runtime itself can't run is listed, and is no failure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import peers

import graphopt
from graphopt.analysis.bind import Shapes, bind
from graphopt.analysis.cost import operators
from graphopt.data import seeded_runs
from graphopt.onnx import Reference
from graphopt.targets.base import Build
from graphopt.targets.program import Program


@dataclass
class Outcome:
    """One model through `optimize`; `failure` is empty when it is verified."""

    model: str
    shapes: str = ""
    nodes: int = 0
    after: int = 0
    calls: int = 0
    segments: int = 0
    outside: int = 0
    mac_share: float = 0.0
    error: float | None = None
    limit: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    total: float = 0.0
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    failure: str = ""
    unrunnable: str = ""


def fixed_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Sizes for the inputs that stay dynamic once the batch is bound; empty if none does.

    They are the first ones that ONNX Runtime runs (see `graphopt.data.seeded_runs`).
    """
    module = graphopt.load(path)
    if not any("keeps a dynamic shape" in note for note in bind(module)):
        return {}
    (feed,), _ = seeded_runs(module, Reference(path).run, 1)
    return {name: tuple(array.shape) for name, array in feed.items()}


def runs_at_all(path: Path, shapes: Shapes) -> str:
    """Why ONNX Runtime can't run the model on our seeded inputs; empty if it can."""
    module = graphopt.load(path)
    try:
        bind(module, shapes)
        seeded_runs(module, Reference(path).run, 1)
    except graphopt.GraphoptError as why:
        return str(why)
    return ""


def optimize(path: Path, shapes: Shapes, o: argparse.Namespace) -> Outcome:
    """One model, in this process."""
    outcome = Outcome(
        path.stem, ",".join(f"{k}={'x'.join(map(str, v))}" for k, v in shapes.items())
    )
    began = time.perf_counter()
    try:
        result = graphopt.optimize(
            path, target=o.target, input_shapes=shapes or None, threads=o.threads,
            build=Build(jobs=o.jobs, cache=o.cache),
        )  # fmt: skip
    except graphopt.GraphoptError as why:
        outcome.failure = f"{type(why).__name__}: {why}"
        outcome.unrunnable = runs_at_all(path, shapes)
        return outcome
    outcome.total = time.perf_counter() - began
    report = result.report
    outcome.nodes, outcome.after = report.before.operators, report.after.operators
    outcome.seconds = dict(report.seconds)
    check = report.checks[-1]
    outcome.error = max((e.relative for e in check.outputs), default=None)
    outcome.limit = max((check.tolerance.at(e.name) for e in check.outputs), default=0.0)
    assert result.program
    describe(outcome, result.program)
    return outcome


def describe(outcome: Outcome, program: Program) -> None:
    """Enter what the program compiles and what it leaves to ONNX Runtime."""
    left = list(program.fallbacks())
    outcome.calls = len(program.steps) - len(left)
    outcome.segments = len(left)
    outcome.outside = sum(operators(graphopt.load(call.model).main) for call in left)
    total = sum(step.macs for step in program.steps) or 1
    outcome.mac_share = sum(call.macs for call in left) / total
    outcome.reasons = {kind: why for call in left for kind, why in call.reasons}


def child(path: Path, o: argparse.Namespace) -> None:
    """Print a JSON line for the model as it is, and one for fixed shapes where it is dynamic."""
    print(json.dumps(asdict(optimize(path, {}, o))), flush=True)
    try:
        shapes = fixed_shapes(path)
    except graphopt.GraphoptError:
        return
    if shapes:
        print(json.dumps(asdict(optimize(path, shapes, o))), flush=True)


def measure(path: Path, o: argparse.Namespace) -> list[Outcome]:
    """Run a model in a process of its own."""
    options = ["--target", o.target, "--threads", str(o.threads), "--jobs", str(o.jobs)]
    options += ["--cache", str(o.cache)] if o.cache else []
    command = [sys.executable, __file__, "--child", str(path), *options]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=o.timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return [Outcome(path.stem, failure=f"took more than {o.timeout} s")]
    found = [
        Outcome(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")
    ]
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["no message"])[-1]
        found.append(
            Outcome(path.stem, failure=f"CRASH, exit code {done.returncode}: {words[:300]}")
        )
    return found


def grouped(reasons: dict[str, str]) -> dict[str, list[str]]:
    """The kinds by why they aren't compiled, in a few words."""
    found: dict[str, list[str]] = {}
    for kind, why in reasons.items():
        short = DYNAMIC if DYNAMIC in why else why.removeprefix(f"{kind} ")
        found.setdefault(short, []).append(kind)
    return found


DYNAMIC = "its shape isn't known when compiling"
HEADS = ("model", "nodes", "after", "calls", "segments", "+ORT", "MACs in ORT", "error", "limit",
         "compile s", "total s")  # fmt: skip


def cells(r: Outcome) -> list[object]:
    """A line of the table."""
    name = r.model + (" (fixed)" if r.shapes else "")
    if r.failure:
        return [name, *[None] * 6, "no peer" if r.unrunnable else "FAILS", *[None] * 3]
    error = None if r.error is None else f"{r.error:.1e}"
    return [name, r.nodes, r.after, r.calls, r.segments, r.outside, f"{100 * r.mac_share:.0f} %",
            error, f"{r.limit:.1e}", r.seconds.get("compile"), r.total]  # fmt: skip


def report(outcomes: Sequence[Outcome]) -> bool:
    """Print the table, the reasons of fallbacks and the failures; whether all is well."""
    print(peers.table([cells(r) for r in outcomes], HEADS))
    for r in outcomes:
        for why, kinds in grouped(r.reasons).items():
            print(f"{r.model}{' (fixed)' if r.shapes else ''}: outside: {', '.join(kinds)}: {why}")
    for r in outcomes:
        if r.unrunnable:
            print(f"{r.model}: ONNX Runtime can't run it: {r.unrunnable}")
    failed = [r for r in outcomes if r.failure and not r.unrunnable]
    for r in failed:
        print(f"{r.model}{' (fixed)' if r.shapes else ''}: FAILS: {r.failure}")
    verified = sum(not r.failure for r in outcomes)
    print(f"{verified} of {len(outcomes)} verified, {len(failed)} failed")
    return not failed


def main() -> int:
    """Run every model; print the table and the failures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    parser.add_argument("--zoo", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--target", default="x86")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.child:
        child(o.child, o)
        return 0
    outcomes: list[Outcome] = []
    for path in peers.find_models([*o.zoo, *o.models]):
        outcomes += measure(path, o)
        print(f"{path.stem}: {outcomes[-1].failure or 'ok'}", file=sys.stderr, flush=True)
    if o.json:
        o.json.write_text(json.dumps([asdict(r) for r in outcomes], indent=1))
    return not report(outcomes)


if __name__ == "__main__":
    sys.exit(main())
