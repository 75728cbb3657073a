"""calibrate: run samples, and note the range of each value that will be integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from graphopt.analysis.histogram import (
    Histogram,
    best,
    divergence,
    minmax,
    percentile,
    squares,
)
from graphopt.errors import InputError
from graphopt.ir.core import Graph, Module, Op, Value
from graphopt.ops.quant import Calibrated
from graphopt.passes.quantize.consumers import choose
from graphopt.passes.quantize.points import Points, moved, name_layers, points
from graphopt.pipeline import Ahead, Context, Effect, Pass, PassResult

Range = tuple[float, float]
METHODS: dict[str, Callable[[Histogram, float], Range]] = {
    "minmax": lambda h, _: minmax(h),
    "percentile": percentile,
    "entropy": lambda h, _: best(h, divergence),
    "mse": lambda h, _: best(h, squares),
}


@dataclass(frozen=True)
class Calibrate(Pass, name="calibrate"):
    """Note the range of every value to quantize, from what it is on samples.

    `method`: minmax (all that was seen), percentile (all but (100 - `percent`) %), entropy (the
    least Kullback-Leibler divergence), mse (the least squared error of 8-bit integers), consumer
    (of several of these, that of the least error of the layers that read the value). `samples`:
    runs of the model to look at, at most. `residual`: as that of `quantize`. Memory: one histogram
    of 64 kB a value, whatever the number of samples, besides the values of one run.
    """

    effect: ClassVar[Effect] = "exact"
    method: Literal["minmax", "percentile", "entropy", "mse", "consumer"] = "mse"
    percent: float = 99.99
    samples: int = 512
    residual: Literal["one", "both"] = "one"

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Put `calibrated` after each value.

        Raises:
            InputError: no samples, or an option out of its range.
        """
        self.check(Ahead(module, ctx))
        erase_notes(module.main)
        name_layers(module.main)
        found = points(module.main, both=self.residual == "both")
        roots = [v for v in found.groups if not moved(v)]
        if not roots:
            return PassResult(False)
        tried = [_shared(found, roots, r) for r in self._ranges(module, roots, ctx)]
        assert ctx.samples
        shared = choose(module, found, tried, ctx.samples) if len(tried) > 1 else tried[0]
        for value in found.groups:
            _note(module.main, value, shared[found.find(value)])
        return PassResult(True)

    def check(self, ahead: Ahead) -> None:
        """Raise InputError for an option out of its range, missing samples (see `Pass.check`)."""
        ctx = ahead.ctx
        if not 50 < self.percent <= 100:
            raise InputError(f"percent={self.percent:g} isn't between 50 and 100")
        if self.samples < 1:
            raise InputError(f"samples={self.samples} is no number of samples")
        if ctx.samples is None or not ctx.samples.runs:
            raise InputError("there are no samples to calibrate on; give some with --data")

    def _ranges(self, module: Module, values: list[Value], ctx: Context) -> list[list[Range]]:
        """By each method that is to be tried, those of the values."""
        assert ctx.samples
        histograms = [Histogram() for _ in values]
        for i, array in ctx.samples.watch(module, values, self.runs(ctx.samples.runs)):
            histograms[i].add(array)
        methods = TRIED if self.method == "consumer" else ((self.method, self.percent),)
        return [[_rounded(METHODS[name](h, percent)) for h in histograms]
                for name, percent in methods]  # fmt: skip

    def runs(self, there: int) -> int:
        """How many runs to look at: half of many, so that the rest can tell the loss."""
        return min(self.samples, there if there < ENOUGH else there // 2)


TRIED = (("mse", 100.0), ("minmax", 100.0), ("percentile", 99.999), ("percentile", 99.99),
         ("percentile", 99.9))  # fmt: skip
ENOUGH = 64  # runs, of which half are enough to calibrate on


def _shared(found: Points, roots: list[Value], ranges: list[Range]) -> dict[Value, Range]:
    """The range of each group: what its values' ranges span."""
    shared: dict[Value, Range] = {}
    for value, (low, high) in zip(roots, ranges, strict=True):
        group = found.find(value)
        a, b = shared.get(group, (0.0, 0.0))
        shared[group] = min(a, low), max(b, high)
    return shared


def _rounded(ends: Range) -> Range:
    """As float32, which scales are."""
    low, high = (float(np.float32(v)) for v in ends)
    return min(low, 0.0), max(high, 0.0)


def _note(graph: Graph, value: Value, ends: Range) -> None:
    """Let every user but the outputs read the value through a note of its range."""
    uses = [u for u in value.uses if u.op.kind.name != "return"]
    before = value.op.next if value.op else graph.first
    loc: dict[str, Any] = {"loc": value.op.loc} if value.op else {}
    note = Op(Calibrated(*ends), [value], hints=[value.hint], **loc)
    graph.insert(note, before)
    for use in uses:
        use.op.set_operand(use.index, note.result)


def erase_notes(graph: Graph) -> None:
    """Take out all notes of an earlier calibration."""
    for op in graph:
        if isinstance(op.kind, Calibrated):
            op.result.replace_all_uses_with(op.operand(0))
            graph.erase(op)


def notes(graph: Graph) -> dict[Value, Op]:
    """The notes of a graph by the value they are about."""
    return {op.operand(0): op for op in graph if isinstance(op.kind, Calibrated)}
