"""Where a target keeps bfloat16 constants as such: `widen-constants` and `narrow-constants`.

    widen:   f(x, cast(w'))  -> f(x, w), w a float32 constant that remembers its bfloat16 numbers
    narrow:  f(x, reorder(w)) -> f(x, cast(reorder(w')))

Between the two run the passes that choose algorithms and layouts, which look for constants. What
they make other numbers of (filters of minimal filtering) is float32 from then on. Both are exact:
a float32 constant whose numbers are bfloat16 can be stored as either, so the target says for each
use which of the two is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from graphopt.ir.builtin import Const
from graphopt.ir.core import Graph, Module, Op, Use, Value
from graphopt.ir.data import Computed, Data
from graphopt.ir.types import Array, DType
from graphopt.ops.elementwise import Cast
from graphopt.ops.movement import Reorder
from graphopt.pipeline import Catalog, Context, Effect, Pass, PassResult
from graphopt.rewrite import Remark


@dataclass(frozen=True, eq=False)
class Widened:
    """Numbers of a shorter constant (bfloat16, or bytes of weights) as float32."""

    half: Data

    @property
    def dtype(self) -> DType:
        """float32."""
        return DType.f32

    @property
    def shape(self) -> tuple[int, ...]:
        """The constant's."""
        return self.half.shape

    def numpy(self) -> Array:
        """The numbers; made anew each time, since they take twice the memory."""
        return self.half.numpy().astype(np.float32)


def moved(
    parts: Sequence[Data], shape: Sequence[int], move: Callable[[Sequence[Array]], Array]
) -> Data:
    """A constant made of elements of others: bfloat16 inside if they all are.

    Args:
        parts: the constants.
        shape: of the result.
        move: makes it of their numbers, changing none.
    """
    halves = [p.half for p in parts if isinstance(p, Widened)]
    if len(halves) == len(parts):
        same = {h.dtype for h in halves}
        if len(same) == 1:
            numbers = lambda: move([h.numpy() for h in halves])  # noqa: E731
            return Widened(Computed(same.pop(), tuple(shape), numbers))
    dtype = parts[0].dtype
    return Computed(dtype, tuple(shape), lambda: move([p.numpy() for p in parts]))


@dataclass(frozen=True)
class WidenConstants(Pass, name="widen-constants"):
    """Make float32 constants of bfloat16 ones that are cast, so that passes see constants."""

    effect: ClassVar[Effect] = "exact"

    def run(self, module: Module, ctx: Context) -> PassResult:
        """cast(const of bf16) -> const of f32."""
        found = [op for op in module.main.walk() if _widens(op)]
        for op in found:
            maker = op.operand(0).op
            assert op.graph and maker and isinstance(maker.kind, Const)
            wide = Op(Const(Widened(maker.kind.data)), [], [op.result.type], loc=maker.loc,
                      hints=[maker.result.hint])  # fmt: skip
            op.graph.insert(wide, before=op)
            op.result.replace_all_uses_with(wide.result)
            op.graph.erase(op)
        return PassResult(bool(found))


def _widens(op: Op) -> bool:
    if not isinstance(op.kind, Cast) or op.kind.to is not DType.f32:
        return False
    maker = op.operand(0).op
    return maker is not None and isinstance(maker.kind, Const) and (
        maker.result.tensor.dtype is DType.bf16)  # fmt: skip


@dataclass(frozen=True)
class NarrowConstants(Pass, name="narrow-constants"):
    """Store constants whose numbers are bfloat16 as such, where kernels read that faster."""

    effect: ClassVar[Effect] = "exact"

    def run(self, module: Module, ctx: Context) -> PassResult:
        """f(const of f32) -> f(cast(const of bf16)), for each use that the target wants so."""
        if ctx.catalog is None:
            return PassResult(False)
        remarks: list[Remark] = []
        for op in [op for op in module.main if isinstance(op.kind, Const)]:
            if isinstance(op.kind, Const) and isinstance(op.kind.data, Widened):
                _Narrowing(module.main, op, op.kind.data.half, ctx.catalog).run(remarks)
        return PassResult(any(r.applied for r in remarks), tuple(remarks))


class _Narrowing:
    """The uses of one constant, as it is and in other layouts."""

    def __init__(self, graph: Graph, const: Op, half: Data, catalog: Catalog) -> None:
        self.graph, self.const, self.half, self.catalog = graph, const, half, catalog
        self.made: dict[str, Value] = {}  # by layout

    def run(self, remarks: list[Remark]) -> None:
        """Narrow each use for which the target wants it."""
        for use in list(self.const.result.uses):
            if isinstance(use.op.kind, Reorder):
                reorder = use.op
                for inner in list(reorder.result.uses):
                    self.use(inner, reorder.result, remarks)
                if not reorder.result.uses:
                    self.graph.erase(reorder)
            else:
                self.use(use, self.const.result, remarks)
        if not self.const.result.uses:
            self.graph.erase(self.const)

    def use(self, use: Use, stored: Value, remarks: list[Remark]) -> None:
        """One use of the constant in a layout."""
        why = self.catalog.keeps_wide(use.op, use.index)
        if use.op.graph is not self.graph or why:
            remarks.append(Remark("narrow", use.op.loc, False, why or "it is in a region"))
            return
        tag = stored.tensor.layout
        cast = Op(Cast(DType.f32), [self.narrow(tag)], [stored.type], loc=use.op.loc,
                  hints=[stored.hint])  # fmt: skip
        self.graph.insert(cast, before=use.op)
        use.op.set_operand(use.index, cast.result)
        remarks.append(Remark("narrow", use.op.loc, True, str(stored.type)))

    def narrow(self, tag: str) -> Value:
        """The constant as bfloat16 in a layout."""
        if tag not in self.made:
            type_ = replace(self.const.result.tensor, dtype=self.half.dtype)
            hint = self.const.result.hint
            if not tag:
                op = Op(Const(self.half), [], [type_], loc=self.const.loc, hints=[hint])
                self.graph.insert(op, before=self.const)
            else:
                dense = self.narrow("")
                op = Op(Reorder(), [dense], [replace(type_, layout=tag)], loc=self.const.loc,
                        hints=[hint])  # fmt: skip
                self.graph.insert(op, before=dense.op.next if dense.op else None)
            self.made[tag] = op.result
        return self.made[tag]
