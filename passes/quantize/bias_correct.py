"""bias_correct: take the mean of what quantization changes out of the biases.

    y' = y + e -> y' - E[e], by output channel

Rounded weights and clipped activations shift a layer's mean (Nagel et al. 2019, arXiv 1906.04721,
section 3.2). The shift is measured on samples (its appendix D), each layer by itself: beside the
float layer and on its inputs, quantized (`beside`), so that layers don't correct each other's
errors twice. What noise does to means in the non-linear ops between layers is left; the last layers
take up its sum, as the whole model gives it. It can have the other sign than what the layers do,
and be hidden by that; so the last layers alone are tried, too, and what is nearer is kept.

Without samples, E[e] of rounded weights is (w' - w) E[x], where BatchNorm tells E[x] (the paper's
section 4.2.1; `graphopt.analysis.moments`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from graphopt.analysis.moments import Moments
from graphopt.errors import InputError
from graphopt.ir.core import Graph, Module, Op, Value
from graphopt.ir.types import Array
from graphopt.ops.elementwise import Div, Mul, Sub
from graphopt.ops.nn import Conv, ConvTranspose
from graphopt.ops.reduce import ReduceMean
from graphopt.passes.quantize.beside import Beside, Layer, layers, watch
from graphopt.passes.quantize.bias import SHIFTED, shift, shifted
from graphopt.passes.quantize.channels import layer
from graphopt.passes.quantize.nearer import kept_if_nearer
from graphopt.passes.quantize.needs import declined
from graphopt.passes.quantize.pairs import Pair, nothing, pairs
from graphopt.passes.quantize.points import source
from graphopt.passes.quantize.weights import channel_axis
from graphopt.pipeline import Activations, Ahead, Context, Effect, Pass, PassResult
from graphopt.rewrite import Remark, const


@dataclass(frozen=True)
class BiasCorrect(Pass, name="bias_correct"):
    """Take the mean error of each quantized layer out of its bias, if the outputs gain by it.

    `method`: empirical, on samples; or analytic, of the weights' rounding alone, by what the
    model's BatchNorms remember of the layers' inputs (those that `equalize` or `smooth` scaled are
    left), whatever the outputs on samples say. Generated images have other means than real ones:
    on these nothing is corrected empirically. `samples`: runs of the model to take the mean over,
    at most. Means are taken as the model runs, so the memory is that of one run of the float model,
    twice.
    """

    effect: ClassVar[Effect] = "lossy"
    method: Literal["empirical", "analytic"] = "empirical"
    samples: int = 64

    def check(self, ahead: Ahead) -> None:
        """Raise InputError for an option out of its range (see `Pass.check`)."""
        if self.samples < 1:
            raise InputError(f"samples={self.samples} is no number of samples")

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Change the biases.

        Raises:
            InputError: no samples, or an option out of its range.
        """
        self.check(Ahead(module, ctx))
        floats = ctx.unquantized
        if not layers(module) or floats is None:
            return nothing("bias_correct")
        if self.method == "analytic":
            return _analytic(module, ctx)
        if (left := declined("bias_correct", ctx, "take means of")) is not None:
            return left
        assert ctx.samples
        wanted = self._means(floats, _twins(module, floats), ctx.samples)
        return kept_if_nearer(
            "bias_correct", module, ctx,
            lambda m: self._repair(m, ctx, wanted, each=False),
            lambda m: self._repair(m, ctx, wanted, each=True),
        )  # fmt: skip

    def _repair(
        self, module: Module, ctx: Context, wanted: Mapping[str, Array], *, each: bool
    ) -> PassResult:
        """Layer by layer, if asked, then the last ones as the whole model gives them."""
        assert ctx.unquantized and ctx.samples
        remarks = self._each(layers(module), ctx, ctx.unquantized, ctx.samples) if each else []
        ends = [op for op in last(module.main) if _name(op) in wanted]
        means = self._means(module, [(op, shifted(op)) for op in ends], ctx.samples)
        for op in ends:
            remarks += _corrected(op, means[_name(op)] - wanted[_name(op)], ctx)
        return PassResult(bool(remarks), tuple(remarks))

    def _each(
        self, found: list[Layer], ctx: Context, before: Module, samples: Activations
    ) -> list[Remark]:
        """Correct what each layer does to the float model's values."""
        means = Means()
        for i, error in watch(before, found, _mean_error, samples, self.samples):
            means.add(i, error)
        return [r for i, mean in means.of() for r in _corrected(found[i].op, mean, ctx)]

    def _means(
        self, module: Module, ends: Sequence[tuple[Op, Value]], samples: Activations
    ) -> dict[str, Array]:
        """The means by output channel of layers' values in a module, by the layers' names."""
        found = Means()
        for i, x in samples.watch(module, [v for _, v in ends], self.samples) if ends else ():
            found.add(i, x.mean(_others(ends[i][0], x.ndim), dtype=np.float64))
        return {_name(ends[i][0]): mean for i, mean in found.of()}


def _twins(module: Module, before: Module) -> list[tuple[Op, Value]]:
    """The last layers of a module, each with what the float model calls its value."""
    known = {r.hint: r for op in before.main for r in op.results}
    return [(op, known[name]) for op in last(module.main) if (name := _name(op)) in known]


def _analytic(module: Module, ctx: Context) -> PassResult:
    """Take (w' - w) E[x] out of each layer whose E[x] is known."""
    known: Mapping[str, Moments] = ctx.samples.expected() if ctx.samples else {}
    remarks = [r for pair in pairs(module, ctx) for r in _by_moments(pair, known, ctx)]
    if any(r.applied for r in remarks):
        return PassResult(True, tuple(remarks))
    told = "bias_correct{method=analytic}: no BatchNorm tells what a quantized layer reads"
    return PassResult(False, tuple(remarks), notes=(told,))


def _by_moments(pair: Pair, known: Mapping[str, Moments], ctx: Context) -> Iterator[Remark]:
    found = known.get(source(pair.twin.operand(0)).hint)
    at = layer(pair.twin)
    if found is None or at is None or len(found.mean) != at.inputs:
        yield Remark("bias_correct", pair.op.loc, False, "no BatchNorm tells what it reads")
        return
    axis = channel_axis(pair.op)
    shape = [-1 if a == axis % pair.weight.ndim else 1 for a in range(pair.weight.ndim)]
    error = pair.integers * pair.scale.astype(np.float64).reshape(shape) - pair.weight
    yield from _corrected(pair.op, at.response(error, found.mean), ctx)


@dataclass
class Means:
    """Running means by number."""

    sums: dict[int, Array] = field(default_factory=dict[int, Array])
    turns: dict[int, int] = field(default_factory=dict[int, int])

    def add(self, i: int, x: Array) -> None:
        """Take in one run's."""
        self.sums[i] = self.sums.get(i, 0) + x.astype(np.float64)
        self.turns[i] = self.turns.get(i, 0) + 1

    def of(self) -> list[tuple[int, Array]]:
        """All of them, in order."""
        return [(i, self.sums[i] / self.turns[i]) for i in sorted(self.sums)]


def _corrected(op: Op, mean: Array, ctx: Context) -> Iterator[Remark]:
    """Take a mean error out of a layer's bias, if it can take it."""
    if mean.any() and ctx.permit("bias_correct", op.loc) and shift(op, -mean):
        told = f"a shift of up to {np.abs(mean).max():.1e}"
        yield Remark("bias_correct", op.loc, True, told)


def last(graph: Graph) -> list[Op]:
    """The quantized layers that an output comes from through ops of one operand that varies."""
    quantized = {one.op for one in layers(Module(graph))}
    found: dict[Op, None] = {}
    for value in graph.outputs:
        op = value.op
        while op and op not in quantized and not op.regions:
            vary = [v for v in op.operands if v and const(v) is None]
            op = vary[0].op if len(vary) == 1 else None
        if op and op in quantized:
            found[op] = None
    return list(found)


def _name(op: Op) -> str:
    """What the float model calls the value that is corrected."""
    return shifted(op).hint.removesuffix(SHIFTED)


def _others(op: Op, rank: int) -> tuple[int, ...]:
    """The axes of a layer's result that aren't its output channels."""
    channel = 1 if isinstance(op.kind, Conv | ConvTranspose) else rank - 1
    return tuple(a for a in range(rank) if a != channel)


def _mean_error(beside: Beside, wanted: Value, got: Value) -> tuple[Value]:
    """The mean of the difference, by output channel."""
    assert wanted.op
    rank = wanted.tensor.rank or 0
    error, there = beside.add(Sub(), got, wanted), beside.rows(wanted)
    axes = ReduceMean(_others(wanted.op, rank), False)
    if there is None:
        return (beside.add(axes, error),)
    part = beside.add(ReduceMean(tuple(range(rank)), False), there)
    return (beside.add(Div(), beside.add(axes, beside.add(Mul(), error, there)), part),)
