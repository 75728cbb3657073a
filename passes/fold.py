"""Fold what is known before the model runs: constants, shapes, parameters of opaque ops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.ir.builtin import Const, Fused, Opaque
from graphopt.ir.core import Module, Op, OpKind, Value
from graphopt.ir.data import Computed, Data, Inline, Rand, Splat, nbytes
from graphopt.ir.types import Array, Dim, DType, TensorType, same
from graphopt.ops import movement as mv
from graphopt.ops.elementwise import Elementwise
from graphopt.ops.quant import Dequantize
from graphopt.passes.branches import if_constant
from graphopt.passes.numbers import Numbers, known
from graphopt.passes.table import RulePass
from graphopt.pipeline import Context, PassResult
from graphopt.rewrite import Miss, Rewriter, Rule, const

LAZY = 1 << 16  # bytes: a larger result is computed when its numbers are first wanted
KEPT = {"DequantizeLinear"}  # as Dequantize of a quantized weight: folding would undo it
# Of one number everywhere these give the same number everywhere.
UNIFORM = (mv.Reshape, mv.Transpose, mv.Expand, mv.Slice, mv.Squeeze, mv.Unsqueeze, mv.Tile)


@dataclass(frozen=True)
class Fold(RulePass, name="fold"):
    """Replace what doesn't depend on the input by constants; make opaque ops modelled ones.

    Never makes a constant over the context's `fold_bytes`, unless it is no larger than what it was
    computed from.
    """

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Rewrite until nothing changes: a shape known late can help an op visited before."""
        result = super().run(module, ctx)
        applied = [r for r in result.remarks if r.applied]
        again = result
        while again.changed:
            again = super().run(module, ctx)
            applied += [r for r in again.remarks if r.applied]
        missed = [r for r in again.remarks if not r.applied]
        return PassResult(result.changed, tuple(applied + missed))

    def rules(self, ctx: Context) -> Iterable[Rule[Any]]:
        """The rules, with the limits of the context."""
        return Folder(ctx).rules()


class Folder:
    """The rules of `fold`, and what they know of the module."""

    def __init__(self, ctx: Context) -> None:
        """Know nothing yet."""
        self.ctx, self.numbers = ctx, Numbers()

    def rules(self) -> tuple[Rule[Any], ...]:
        """In the order they are tried."""
        return (
            Rule("constants", OpKind, self.constants),
            Rule("known-numbers", OpKind, self.known_numbers),
            Rule("known-sizes", Opaque, self.known_sizes),
            Rule("remodel", Opaque, self.remodel),
            Rule("result-types", Opaque, self.result_types),
            if_constant,
        )

    def constants(self, rw: Rewriter, op: Op, kind: OpKind) -> tuple[Value, ...] | None:
        """kind(constants) -> constants."""
        datas = [const(v) for v in op.operands]
        absent = any(d is None and v is not None for d, v in zip(datas, op.operands, strict=True))
        if absent or not _foldable(op, kind):
            return None
        uniform = _uniform(op, kind, datas)
        if uniform is not None:
            return (rw.const(uniform),)
        self._check_size(op, datas)
        results = self._opaque(op, datas) if isinstance(kind, Opaque) else _modelled(op, datas)
        return tuple(rw.const(d) for d in results)

    def _check_size(self, op: Op, datas: Sequence[Data | None]) -> None:
        sizes = [r.tensor.nbytes for r in op.results]
        if any(s is None for s in sizes):
            raise Miss("the size of the result isn't known")
        total, had = sum(s or 0 for s in sizes), sum(map(_held, datas))
        if total > max(self.ctx.fold_bytes, had):
            raise Miss(f"the result would take {total} bytes, over the limit {self.ctx.fold_bytes}")

    def _opaque(self, op: Op, datas: Sequence[Data | None]) -> list[Data]:
        if self.ctx.evaluate is None:
            raise Miss("nothing here can evaluate it")
        try:
            results = list(self.ctx.evaluate(op.kind, _arrays(datas), op.regions))
        except GraphoptError as why:
            raise Miss(str(why)) from why
        return [Inline(np.asarray(r)) for r in results[: len(op.results)]]

    def known_numbers(self, rw: Rewriter, op: Op, kind: OpKind) -> Value | None:
        """integers that follow from shapes -> constant."""
        if isinstance(kind, Const) or len(op.results) != 1:
            return None
        fact = self.numbers.of(op.result)
        if fact is None or not known(fact):
            return None
        return rw.const(fact.astype(op.result.tensor.dtype.numpy))

    def known_sizes(self, rw: Rewriter, op: Op, kind: Opaque) -> Value | None:
        """reshape(x, [x.0, 8, M]), expand(x, [x.0, 8]) -> sizes as attributes, 0 or 1 for x.0."""
        if kind.domain or kind.op_type not in ("Reshape", "Expand") or kind.attr("allowzero"):
            return None
        x, sizes = op.operand(0), op.operand(1)
        fact, dims = self.numbers.of(sizes), self.numbers.dims(x)
        if fact is None or dims is None or known(fact):
            return None  # numbers alone are for `remodel`
        want = tuple(fact.reshape(-1))
        if kind.op_type == "Expand":
            return rw.make(mv.Expand(expand_sizes(dims, want)), x)
        return rw.make(mv.Reshape(reshape_sizes(dims, want)), x)

    def remodel(self, rw: Rewriter, op: Op, kind: Opaque) -> Value | tuple[Value, ...] | None:
        """opaque op whose parameters are constant now -> modelled op."""
        from graphopt.onnx.remodel import MISFIT, remodel

        made: list[Op] = []
        try:
            for step in remodel(op) or []:
                operands = [made[v].result if isinstance(v, int) else v for v in step.operands]
                made.append(rw.op(step.kind, *operands))
        except MISFIT as why:
            raise Miss(str(why)) from why
        if not made:
            return None
        new = made[-1]
        unused = (new.results[0],) * len(op.results)  # nothing uses what the kind doesn't give
        return (*new.results, *unused)[: len(op.results)]

    def result_types(self, rw: Rewriter, op: Op, kind: Opaque) -> tuple[Value, ...] | None:
        """opaque(x), the shape of x known by now -> the same, of the shape that follows."""
        from graphopt.onnx.reinfer import reinfer

        types = reinfer(op)
        return None if types is None else tuple(rw.op(kind, *op.operands, types=types).results)


def _held(data: Data | None) -> int:
    """The bytes that a constant takes now: none where it is a formula."""
    return 0 if data is None or isinstance(data, Splat | Rand) else nbytes(data)


def _foldable(op: Op, kind: OpKind) -> bool:
    if isinstance(kind, Const | Fused) or op.regions or not op.results or not kind.pure():
        return False
    if isinstance(kind, Dequantize) or (isinstance(kind, Opaque) and kind.op_type in KEPT):
        return False
    return all(isinstance(r.type, TensorType) for r in op.results)


def _uniform(op: Op, kind: OpKind, datas: Sequence[Data | None]) -> Data | None:
    """The result where every operand is one number everywhere: so is the result."""
    splats = [d for d in datas if isinstance(d, Splat)]
    if not splats or len(splats) != len(datas) or len(op.results) != 1:
        return None
    type_ = op.result.tensor
    if type_.static is None or type_.dtype is DType.string:
        return None
    if isinstance(kind, UNIFORM):
        return Splat(type_.dtype, type_.static, splats[0].value)
    if not isinstance(kind, Elementwise):
        return None
    numbers = [np.asarray(s.value, s.dtype.numpy) for s in splats]
    return Splat(type_.dtype, type_.static, kind.evaluate(*numbers)[0].item())


def _arrays(datas: Sequence[Data | None]) -> tuple[Array | None, ...]:
    return tuple(None if d is None else d.numpy() for d in datas)


def _modelled(op: Op, datas: Sequence[Data | None]) -> list[Data]:
    """Evaluate with numpy: at once, or, where the result is large, when it is wanted."""
    kind, kept = op.kind, tuple(datas)

    def evaluate(index: int) -> Array:
        return kind.evaluate(*_arrays(kept))[index]

    types = [r.tensor for r in op.results]
    if sum(t.nbytes or 0 for t in types) > LAZY:
        return [
            Computed(t.dtype, t.static or (), lambda i=i: evaluate(i)) for i, t in enumerate(types)
        ]
    try:
        results = kind.evaluate(*_arrays(kept))
    except (ValueError, IndexError, ArithmeticError, GraphoptError) as why:
        raise Miss(str(why)) from why
    return [Inline(r) for r in results]


def reshape_sizes(have: tuple[Dim, ...], want: tuple[Dim, ...]) -> tuple[int, ...]:
    """The sizes of a `reshape` kind from `have` to `want`: 0 where a size stays, one -1 at most.

    Raises:
        Miss: more sizes than one can't be said.
    """
    sizes: list[int] = []
    for i, d in enumerate(want):
        kept = i < len(have) and not isinstance(d, int) and same(d, have[i])
        sizes.append(d if isinstance(d, int) else 0 if kept else -1)
    if sizes.count(-1) > 1:
        raise Miss(f"more than one size of [{', '.join(map(str, want))}] isn't known")
    return tuple(sizes)


def expand_sizes(have: tuple[Dim, ...], want: tuple[Dim, ...]) -> tuple[int, ...]:
    """The sizes of an `expand` kind from `have` to `want`: 1 keeps the operand's size.

    Raises:
        Miss: a size is neither a number nor the operand's.
    """
    offset = len(want) - len(have)
    sizes: list[int] = []
    for i, d in enumerate(want):
        kept = i >= offset and not isinstance(d, int) and same(d, have[i - offset])
        if not isinstance(d, int) and not kept:
            raise Miss(f"the size {d} isn't known before the model runs")
        sizes.append(d if isinstance(d, int) else 1)
    return tuple(sizes)
