"""Operators left, seconds and peak memory: graphopt against onnxslim, onnxsim and ONNX Runtime.

    python tools/bench_size.py --zoo DIR [MODEL...] [--peer-python VENV/bin/python] [--json FILE]

For each model (every .onnx below DIR, and those named): the nodes of the standard ONNX that each
tool writes; then, dynamic sizes fixed for both, the calls of graphopt's x86 program, plus the ops
that it leaves to ONNX Runtime (`+ORT`), against the nodes of ONNX Runtime's EXTENDED level, which
fuses likewise. Each tool runs in a process of its own (see tools/peers.py). Exit code 1 where
graphopt leaves more than the best peer.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import peers
from peers import Figures

import graphopt
from graphopt.analysis.bind import Shapes, bind
from graphopt.analysis.cost import operators
from graphopt.api import context, default_passes, load, save
from graphopt.data import seeded_runs
from graphopt.onnx import Reference
from graphopt.pipeline import run_pipeline
from graphopt.targets.base import parse_target
from graphopt.targets.program import Program

SIMPLIFIERS = ("onnxslim", "onnxsim", "ort-basic")
TOOLS = ("count", "graphopt", *SIMPLIFIERS, "ort-extended")


@dataclass
class Row:
    """One model: the figures of every tool, and the calls of the compiled program."""

    model: str
    tools: dict[str, Figures]
    calls: int = 0
    outside: int = 0
    extended: int = 0
    error: str = ""

    @property
    def best(self) -> int:
        """The fewest nodes that a peer leaves."""
        return min((self.tools[t].nodes for t in SIMPLIFIERS if not self.tools[t].error), default=0)

    @property
    def behind(self) -> list[str]:
        """Which goals are missed."""
        ours = self.tools["graphopt"]
        problems = [self.error or ours.error] if self.error or ours.error else []
        if self.best and ours.nodes > self.best:
            problems.append(f"{ours.nodes} nodes, a peer leaves {self.best}")
        if self.extended and self.calls + self.outside > self.extended:
            problems.append(f"{self.calls}+{self.outside} calls, EXTENDED has {self.extended}")
        return problems


def fixed_shapes(path: Path) -> Shapes:
    """The batch and all other dynamic sizes fixed, as ONNX Runtime runs them."""
    module = load(path)
    bind(module)
    (feed,), _ = seeded_runs(module, Reference(path).run, 1)
    return {name: tuple(getattr(value, "shape", ())) for name, value in feed.items()}


def program(path: Path, shapes: Shapes, target: str) -> Program:
    """The program of a model; nothing is compiled."""
    module = load(path, input_shapes=shapes)
    machine = parse_target(target)
    run_pipeline(default_passes(None, machine), module, context())
    return machine.lower(module)


def outside(found: Program) -> int:
    """Operators in the segments that run in ONNX Runtime."""
    return sum(operators(load(call.model).main) for call in found.fallbacks())


def extended(path: Path, shapes: Shapes, python: str) -> int:
    """The nodes that ONNX Runtime EXTENDED leaves of the model with the same shapes fixed."""
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        save(load(path, input_shapes=shapes), fixed := Path(folder) / "fixed.onnx")
        return peers.measure("ort-extended", fixed, python).nodes


def measure(path: Path, name: str, o: argparse.Namespace) -> Row:
    """All the figures of one model."""
    mine = ("count", "graphopt")
    row = Row(name, {t: peers.measure(t, path, sys.executable if t in mine else o.peer_python)
                     for t in TOOLS})  # fmt: skip
    try:
        shapes = fixed_shapes(path)
        found = program(path, shapes, o.target)
        row.outside = outside(found)
        row.calls = len(found.steps) - sum(1 for _ in found.fallbacks())
        both = (row.tools["ort-extended"].nodes, extended(path, shapes, o.peer_python))
        row.extended = min(filter(None, both), default=0)
    except graphopt.GraphoptError as why:
        row.error = str(why)
    return row


def size_cells(row: Row) -> Iterator[Any]:
    """A line of the table: nodes, seconds and memory of each tool."""
    yield row.model
    yield row.tools["count"].nodes
    for tool in ("graphopt", *SIMPLIFIERS):
        figures = row.tools[tool]
        yield None if figures.error else figures.nodes
    for what in ("seconds", "peak_mb"):
        for tool in ("graphopt", *SIMPLIFIERS):
            yield None if row.tools[tool].error else getattr(row.tools[tool], what)
    yield row.calls
    yield row.outside
    yield row.extended


HEADS = (
    "model", "nodes", "ours", "slim", "sim", "basic", "s ours", "slim", "sim", "basic",
    "MB ours", "slim", "sim", "basic", "calls", "+ORT", "extended",
)  # fmt: skip


def main() -> int:
    """Measure every model, print the table and what is behind."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    parser.add_argument("--zoo", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--target", default="x86")
    parser.add_argument("--json", type=Path)
    o = parser.parse_args()
    rows: list[Row] = []
    for path in peers.find_models([*o.zoo, *o.models]):
        rows.append(measure(path, path.stem, o))
        print(f"{path.stem}: {'; '.join(rows[-1].behind) or 'ok'}", file=sys.stderr, flush=True)
    print(peers.table([list(size_cells(r)) for r in rows], HEADS))
    problems = [f"{r.model}: {p}" for r in rows for p in r.behind]
    for row in rows:
        for figures in row.tools.values():
            if figures.error and figures.tool != "graphopt":
                print(f"{row.model}: {figures.tool} failed: {figures.error}")
    print("\n".join(problems) or "at or below every peer on every model")
    if o.json:
        o.json.write_text(json.dumps([{**asdict(r), "behind": r.behind} for r in rows], indent=1))
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
