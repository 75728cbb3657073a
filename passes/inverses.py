"""inverses: quantize by products instead of a division, which takes a CPU some ten times longer.

    quantize(x, scale, zero) -> quantize_by_inverse(x, 1 / scale, the rest of it, zero)

For constant scales of which it is proven that the integers are the same for every x. It wants a
machine with fused multiply-adds, which are what rounds the sum of both products once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.ir.core import Op, Value
from graphopt.ops.inverse import QuantizeByInverse, inverses
from graphopt.ops.quant import Quantize
from graphopt.passes.table import RulePass
from graphopt.pipeline import Context, Effect
from graphopt.rewrite import Miss, Rewriter, Rule, const


@dataclass(frozen=True)
class Inverses(RulePass, name="inverses"):
    """Multiply by the inverse of scales where `quantize` divides, if all integers stay the same."""

    effect: ClassVar[Effect] = "exact"

    def rules(self, ctx: Context) -> Iterable[Rule[Any]]:
        """One."""
        return (Rule("by-inverse", Quantize, Inverting(ctx).by_inverse),)


@dataclass
class Inverting:
    """The rule, and what it knows of the target."""

    ctx: Context

    def by_inverse(self, rw: Rewriter, op: Op, kind: Quantize) -> Value | None:
        """quantize(x, s, z) -> quantize_by_inverse(x, i, r, z), i + r = 1/s to 48 bits."""
        scale = const(op.operand(1))
        if scale is None:
            return None
        found = inverses(scale.numpy(), kind.dtype)
        if found is None:
            raise Miss("some float would become another integer, or the scale is no usual number")
        factors = map(rw.const, found)
        made = rw.make(QuantizeByInverse(kind.dtype, kind.axis), op.operand(0), *factors,
                       *op.operands[2:])  # fmt: skip
        if self.ctx.catalog and made.op and self.ctx.catalog.family(made.op) is None:
            raise Miss("the target has no kernel for it")
        return made
