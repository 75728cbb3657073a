"""tiles: lay out weights for a matrix unit, where the target has one.

    conv_integer(x, reorder{t}(w)) -> conv_integer(x, reorder{t'}(w)), t' as it loads rows
    matmul(x, reorder{t}(w))       -> matmul(x, reorder{t'}(w)), x and w bfloat16 made float32

Runs after `layout`, which knows vectors alone. The target says which ops its unit computes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphopt.ir.builtin import Const
from graphopt.ir.core import Module, Op
from graphopt.ir.types import DType
from graphopt.ops.movement import Reorder
from graphopt.passes.halves import Widened
from graphopt.pipeline import Context, Pass, PassResult
from graphopt.rewrite import Remark


@dataclass(frozen=True)
class Tiles(Pass, name="tiles"):
    """Lay out the weights of convolutions and products for the target's matrix unit."""

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Change the layouts in the main graph."""
        remarks: list[Remark] = []
        for op in list(module.main):
            tag = ctx.catalog.tiled_weights(op) if ctx.catalog else ""
            maker = op.operand(1).op if tag else None
            if maker is None or not isinstance(maker.kind, Reorder) or not _fits(maker):
                continue
            kind = replace(maker.result.tensor, layout=tag)
            new = Op(
                Reorder(), [maker.operand(0)], [kind], loc=maker.loc, hints=[maker.result.hint]
            )
            module.main.insert(new, before=op)
            op.set_operand(1, new.result)
            if not maker.result.uses:
                module.main.erase(maker)
            remarks.append(Remark("tiles", op.loc, True, tag))
        return PassResult(bool(remarks), tuple(remarks))


def _fits(maker: Op) -> bool:
    """Whether weights are integers, or of bfloat16 numbers."""
    source = maker.operand(0).op
    data = source.kind.data if source and isinstance(source.kind, Const) else None
    if isinstance(data, Widened):
        return data.half.dtype is DType.bf16
    return data is not None and data.dtype.is_int
