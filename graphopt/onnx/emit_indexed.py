"""Writing kinds that index, sort or accumulate."""

from __future__ import annotations

from graphopt.ir.core import Op
from graphopt.ir.types import DType
from graphopt.onnx.emitter import Emitter, NeedsOpset, emits, kind_of
from graphopt.ops import indexed, ordered

Strs = list[str]


@emits(indexed.GatherElements)
def _gather_elements(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    e.node("GatherElements", ins, outs, axis=kind_of(op).axis)


@emits(indexed.GatherND)
def _gather_nd(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """Common axes exist from opset 12 on."""
    e.node("GatherND", ins, outs, batch_dims=kind_of(op).batch_dims or None)


@emits(indexed.ScatterElements)
def _scatter_elements(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """Named Scatter before opset 11."""
    kind = kind_of(op)
    how = _reduction(e, kind.reduction)
    old = e.opset < 11 and how is None
    e.node("Scatter" if old else "ScatterElements", ins, outs, axis=kind.axis, reduction=how)


@emits(indexed.ScatterND)
def _scatter_nd(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    e.node("ScatterND", ins, outs, reduction=_reduction(e, kind_of(op).reduction))


def _reduction(e: Emitter, how: str) -> str | None:
    """The attribute: add and mul exist from opset 16 on, min and max from 18."""
    if how in ("min", "max") and e.opset < 18:
        raise NeedsOpset(18, f"scattering with {how}")
    return None if how == "set" else how


@emits(indexed.OneHot)
def _one_hot(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """The depth in a type for which ONNX Runtime has a kernel: it has few combinations."""
    kind = kind_of(op)
    indices, values = (op.operand(i).tensor.dtype for i in (0, 1))
    mixed = indices is DType.i64 and values is DType.i32
    depth = e.number(kind.depth, DType.f32 if mixed else indices)
    e.node("OneHot", [ins[0], depth, ins[1]], outs, axis=kind.axis)


@emits(indexed.Trilu)
def _trilu(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    kind = kind_of(op)
    k = [e.number(kind.k, DType.i64)] if kind.k else []
    e.node("Trilu", [*ins, *k], outs, upper=int(kind.upper))


@emits(indexed.ReverseSequence)
def _reverse_sequence(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    kind = kind_of(op)
    e.node("ReverseSequence", ins, outs, time_axis=kind.time_axis, batch_axis=kind.batch_axis)


@emits(ordered.CumSum, ordered.CumProd)
def _cumulate(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    kind = kind_of(op)
    op_type = "CumSum" if isinstance(kind, ordered.CumSum) else "CumProd"
    flags = {"exclusive": int(kind.exclusive) or None, "reverse": int(kind.reverse) or None}
    e.node(op_type, [*ins, e.number(kind.axis, DType.i64)], outs, **flags)


@emits(ordered.TopK)
def _top_k(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """k is an attribute before opset 10; the smallest exist from opset 11 on."""
    kind = kind_of(op)
    smallest = None if kind.largest else 0
    if e.opset < 10:
        if not kind.largest or not op.operand(0).tensor.dtype.is_float:
            raise NeedsOpset(11, "TopK of the smallest, or of integers")
        e.node("TopK", ins, outs, axis=kind.axis, k=kind.k)
    else:
        e.node("TopK", [*ins, e.ints((kind.k,))], outs, axis=kind.axis, largest=smallest)
