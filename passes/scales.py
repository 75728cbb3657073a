"""scales: what constant scales let kernels leave out, with the same integers for every input.

    quantize(clip(x), s, z) -> quantize(x, s, z)                 saturation implies the bounds
    quantize(x, s, z) -> quantize_by_inverse(x, i, r, z)         i + r = 1 / s: no division
    requantize(x, s, z) -> requantize(x, s, z) {small=true}      no clamp before the conversion

A division takes a CPU some ten times longer than the two products that stand for it, if it rounds
their sum once: so it wants a machine with fused multiply-adds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.core import Op, Value
from graphopt.ops.elementwise import Add, Relu
from graphopt.ops.inverse import QuantizeByInverse, inverses
from graphopt.ops.quant import Dequantize, Quantize, Requantize, limits
from graphopt.passes.integers.read import like
from graphopt.passes.integers.values import clipped, rounded
from graphopt.passes.table import RulePass
from graphopt.pipeline import Context, Effect
from graphopt.rewrite import Miss, Rewriter, Rule, const, rule

SMALL = 2.0**30  # numbers that surely are of 32 bits once they are rounded
SUMS = 2.0**31  # no sum is larger
DEPTH = 8  # ops before a `quantize` that are looked at


def largest(value: Value, depth: int = DEPTH) -> float:
    """A number that the magnitudes of a float value's elements stay below; inf: none is known."""
    op = value.op
    match op.kind if op and depth else None:
        case Dequantize() if op and (scale := const(op.operand(1))):
            low, high = limits(op.operand(0).tensor.dtype)
            most = high - low if op.operands[2] else max(high, -low)
            return 1.001 * most * float(np.abs(scale.numpy()).max())
        case Add() if op:
            return sum(largest(op.operand(i), depth - 1) for i in range(2))
        case Relu() if op:
            return largest(op.operand(0), depth - 1)
        case _:
            return np.inf


@rule(Quantize)
def implied_bounds(rw: Rewriter, op: Op, kind: Quantize) -> Value | None:
    """quantize(clip(x), s, z) -> quantize(x, s, z), where what is cut off saturates."""
    maker = op.operand(0).op
    found = clipped(maker)
    if maker is None or found is None or maker.result.use_count != 1:
        return None
    scale, zero = like(op, kind)
    low, high = (rounded(b, scale, zero, kind.dtype) for b in found)
    if not scale > 0 or (low, high) != limits(kind.dtype):
        raise Miss("the bounds are inside what the integers hold")
    rw.absorb(maker)
    return rw.make(kind, maker.operand(0), *op.operands[1:])


@dataclass
class Inverting:
    """The rule that needs fused multiply-adds, and what it knows of the target."""

    ctx: Context

    def by_inverse(self, rw: Rewriter, op: Op, kind: Quantize) -> Value | None:
        """quantize(x, s, z) -> quantize_by_inverse(x, i, r, z), i + r = 1/s to 48 bits."""
        scale = const(op.operand(1))
        if scale is None:
            return None
        found = inverses(scale.numpy(), kind.dtype)
        if found is None:
            raise Miss("some float would become another integer, or the scale is no usual number")
        small = bool(largest(op.operand(0)) <= SMALL * scale.numpy().min())
        made = rw.make(QuantizeByInverse(kind.dtype, kind.axis, small), op.operand(0),
                       *map(rw.const, found), *op.operands[2:])  # fmt: skip
        if self.ctx.catalog and made.op and self.ctx.catalog.family(made.op) is None:
            raise Miss("the target has no kernel for it")
        return made


@rule(Requantize)
def small_sums(rw: Rewriter, op: Op, kind: Requantize) -> Value | None:
    """requantize(x, s, z) -> requantize(x, s, z) {small=true}, s below a half."""
    scale = const(op.operand(1))
    if kind.small or scale is None:
        return None
    if not (np.abs(scale.numpy()) <= SMALL / SUMS).all():
        raise Miss("a product of a sum and its scale may be of more than 32 bits")
    return rw.make(replace(kind, small=True), *op.operands)


@dataclass(frozen=True)
class Scales(RulePass, name="scales"):
    """Leave out the division, the clamps and the bounds that constant scales show to be idle.

    `fused`: the machine has fused multiply-adds.
    """

    effect: ClassVar[Effect] = "exact"
    fused: bool = True

    def rules(self, ctx: Context) -> Iterable[Rule[Any]]:
        """Bounds first: they are looked for before what divides."""
        by_inverse = Rule("by-inverse", Quantize, Inverting(ctx).by_inverse)
        return (implied_bounds, *((by_inverse,) if self.fused else ()), small_sums)
