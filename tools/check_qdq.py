"""Does a QDQ file mean the same in ONNX Runtime as in the compiled library, op by op?

    python tools/check_qdq.py MODEL.onnx DATA.npz [--passes TEXT] [--runs N] [--markdown FILE]

MODEL is quantized by `--passes` (default: default,calibrate,quantize); "": it is a QDQ file.
Each `quantize` with what stands between it and the integers that it depends on is a part of the
model of its own. Every part gets the integers of our numpy evaluator on a few samples, and its
results are compared: ours, by the definition of int8 (the pass `integers`), with those of ONNX
Runtime, its optimizer on (integer kernels, where it has them) and off (floats, as the file says).
Requantization is one float32 product in ours and another sequence of roundings there, so results
may be 1 apart; at least 99.9 % of the elements have to be within that. A part that isn't ends with
status 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tables import Sheet, markdown, show

import graphopt
from graphopt.analysis.interpret import interpret
from graphopt.ir.builtin import Const
from graphopt.ir.clone import clone_graph, extract
from graphopt.ir.core import Graph, Module, Op
from graphopt.onnx import Reference
from graphopt.onnx.evaluate import evaluate_opaque
from graphopt.ops.quant import Quantize
from graphopt.pipeline import Context, parse_pipeline, run_pipeline

Array = np.ndarray[Any, Any]
NEAR = 0.999  # of the elements have to be within 1


@dataclass
class Apart:
    """How many of a part's results differ by so much; `most` is the largest difference."""

    count: int = 0
    equal: int = 0
    near: int = 0
    most: int = 0

    def add(self, a: Array, b: Array) -> None:
        """Take in two results of one run."""
        d = np.abs(a.astype(np.int32) - b.astype(np.int32))
        self.count += d.size
        self.equal += int(np.count_nonzero(d == 0))
        self.near += int(np.count_nonzero(d <= 1))
        self.most = max(self.most, int(d.max(initial=0)))

    @property
    def share(self) -> float:
        """That of the elements that are within 1."""
        return self.near / max(self.count, 1)

    @property
    def ok(self) -> bool:
        """Whether enough are."""
        return self.share >= NEAR


@dataclass
class Part:
    """A quantize and what it depends on: `optimized` and `plain` compare with ONNX Runtime."""

    op: Op
    graph: Graph
    optimized: Apart = field(default_factory=Apart)
    plain: Apart = field(default_factory=Apart)

    @property
    def kinds(self) -> str:
        """What is computed between the integers."""
        known = ("const", "dequantize", "quantize", "return")
        return " ".join(o.kind.name for o in self.graph if o.kind.name not in known) or "move"


def before(op: Op) -> list[Op]:
    """The ops between a quantize and the integers that it depends on, in order."""
    found: set[Op] = set()
    todo = [op]
    while todo:
        at = todo.pop()
        found.add(at)
        for v in at.operands:
            inner = v.op if v else None
            if inner and inner not in found and not isinstance(inner.kind, Quantize | Const):
                todo.append(inner)
    assert op.graph
    return [o for o in op.graph if o in found]


def parts(graph: Graph) -> list[Part]:
    """Each quantize of something computed from integers, with those as inputs."""
    found: list[Part] = []
    for op in graph:
        if isinstance(op.kind, Quantize):
            part, inputs, _ = extract(before(op), "part")
            if inputs and all(v.tensor.dtype.is_int for v in inputs):
                found.append(Part(op, part))
    return found


def compare(module: Module, feeds: Sequence[Mapping[str, Array]]) -> list[Part]:
    """Every part of a quantized module on samples; values to quantize get names."""
    for i, op in enumerate(o for o in module.main if isinstance(o.kind, Quantize)):
        op.result.hint = f"integers{i}"
    found = parts(module.main)
    theirs = [[Reference(_alone(module, p.graph), optimize=on) for on in (True, False)]
              for p in found]  # fmt: skip
    ours = [_alone(module, clone_graph(p.graph, {})) for p in found]
    for one in ours:
        run_pipeline(parse_pipeline("integers"), one, Context())
    for feed in feeds:
        values = _values(module, feed)
        for part, engines, lowered in zip(found, theirs, ours, strict=True):
            given = {a.hint: values[a.hint] for a in part.graph.args}
            name = part.op.result.hint
            got = interpret(lowered, given, opaque=evaluate_opaque)[name]
            for apart, engine in zip((part.optimized, part.plain), engines, strict=True):
                apart.add(got, engine.run(given)[name])
    return found


def _alone(module: Module, graph: Graph) -> Module:
    return Module(graph, "part", dict(module.opsets))


def _values(module: Module, feed: Mapping[str, Array]) -> dict[str, Array]:
    """All values by name."""
    values: dict[str, Array] = {}

    def keep(op: Op, results: Sequence[Array]) -> None:
        values.update(zip((r.hint for r in op.results), results, strict=True))

    interpret(module, dict(feed), observe=keep, opaque=evaluate_opaque)
    return values | dict(feed)


def samples(path: Path, count: int) -> Iterator[dict[str, Array]]:
    """The first samples of a file, each a batch of 1."""
    with np.load(path) as file:
        arrays = {n: file[n] for n in file.files if n != "labels"}
    for i in range(min(count, *(len(a) for a in arrays.values()))):
        yield {n: a[i : i + 1] for n, a in arrays.items()}


def quantized(model: Path, data: Path, passes: str) -> Module:
    """The module to check."""
    if not passes:
        return graphopt.load(model)
    return graphopt.optimize(model, None, passes, str(data), check=False).module


def sheet(name: str, found: Sequence[Part], bad: Sequence[Part]) -> Sheet:
    """The parts, the worst first."""
    order = sorted(found, key=lambda p: (p.optimized.share, p.plain.share))
    told = [[*_node(p), *_cells(p.optimized), *_cells(p.plain)] for p in order]
    title = f"{name}: {len(found)} parts, {len(bad)} of them not within 1 on 99.9 % of elements"
    return Sheet(title, HEADS, told)


HEADS = ("part", "ops", "elements", "optimizer on: within 1 %", "equal %", "most",
         "elements", "off: within 1 %", "equal %", "most")  # fmt: skip


def _node(part: Part) -> tuple[str, str]:
    nodes = part.op.loc.nodes
    return (nodes[0] if nodes else part.op.result.hint), part.kinds


def _cells(a: Apart) -> tuple[str, ...]:
    return (
        str(a.count), f"{100 * a.share:.3f}", f"{100 * a.equal / max(a.count, 1):.2f}", str(a.most)
    )  # fmt: skip


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="an .npz keyed by input name")
    parser.add_argument("--passes", default="default,calibrate,quantize", metavar="TEXT")
    parser.add_argument("--runs", type=int, default=4, help="samples to compare on")
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args()


def main() -> int:
    """Check a model."""
    o = options()
    module = quantized(o.model, o.data, o.passes)
    found = compare(module, list(samples(o.data, o.runs)))
    if not found:
        print(f"{o.model}: nothing is quantized")
        return 1
    bad = [p for p in found if not (p.optimized.ok and p.plain.ok)]
    told = [sheet(o.model.stem, found, bad)]
    show(told)
    if o.markdown:
        o.markdown.write_text(markdown(told))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
