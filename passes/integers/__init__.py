"""integers: compute in integers what is between `dequantize` and `quantize` in a quantized model.

A quantized model says what its numbers are, in floats: `quantize(relu(conv(dequantize(x),
dequantize(w))))`. This pass says how they are computed: `requantize(conv_integer(x, w) + b)`. What
floats do to one 8-bit number becomes a table. Float ops that have no integer form stay between
their `dequantize` and `quantize`; where nothing needs a constant's integers any more, its
`dequantize` is folded.

The sums are exact, and the scales are multiplied beforehand (in float32, as QLinearConv does), so a
result may differ by 1 from that of floats where these round to the other side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.ir.core import Module
from graphopt.passes.cse import Cse
from graphopt.passes.integers.moves import MOVES, signed, unsigned
from graphopt.passes.integers.sums import SUMS
from graphopt.passes.integers.tables import TABLES
from graphopt.passes.integers.transposed import TRANSPOSED
from graphopt.passes.integers.values import BYTES, REST, VALUES
from graphopt.passes.table import RulePass
from graphopt.pipeline import Context, Effect, PassResult
from graphopt.rewrite import Rule, rewrite

RULES = (*MOVES, *VALUES, *SUMS, *TRANSPOSED, *TABLES)


@dataclass(frozen=True)
class Integers(RulePass, name="integers"):
    """Compute the quantized parts of a model in integers, by the one definition of int8."""

    effect: ClassVar[Effect] = "reassociating"

    def rules(self, ctx: Context) -> Iterable[Rule[Any]]:
        """In the order they are tried."""
        return RULES

    def run(self, module: Module, ctx: Context) -> PassResult:
        """One signedness; then the rules; then weights that meet floats."""
        alike = signed if ctx.catalog and ctx.catalog.signed else unsigned
        first = rewrite(module.main, (alike,), ctx.permit)
        Cse().run(module, ctx)
        result = super().run(module, ctx)
        rest = [rewrite(module.main, rules, ctx.permit) for rules in (BYTES, REST)]
        remarks = (*first.remarks, *result.remarks, *(r for done in rest for r in done.remarks))
        changed = first.changed or result.changed or any(done.changed for done in rest)
        return PassResult(changed, remarks)
