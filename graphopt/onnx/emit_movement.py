"""Writing kinds that move elements, and reductions."""

from __future__ import annotations

from typing import Any

from graphopt.ir.core import Op, OpKind
from graphopt.ir.types import DType
from graphopt.onnx.emitter import EMITTERS, Emitter, NeedsOpset, emits, kind_of
from graphopt.ops import movement as mv
from graphopt.ops import reduce

Strs = list[str]


@emits(mv.Reshape)
def _reshape(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    e.node("Reshape", [*ins, e.ints(kind_of(op).shape)], outs)


@emits(mv.Concat)
def _concat(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    e.node("Concat", ins, outs, axis=kind_of(op).axis)


@emits(mv.Split)
def _split(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    kind = kind_of(op)
    if e.opset < 13:
        e.node("Split", ins, outs, axis=kind.axis, split=kind.sizes)
        return
    e.node("Split", [*ins, e.ints(kind.sizes)], outs, axis=kind.axis)


@emits(mv.Slice)
def _slice(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """Steps exist from opset 10 on."""
    kind = kind_of(op)
    if e.opset < 10:
        if any(s != 1 for s in kind.steps):
            raise NeedsOpset(10, "Slice with a step")
        e.node("Slice", ins, outs, starts=kind.starts, ends=kind.ends, axes=kind.axes)
        return
    plain = all(s == 1 for s in kind.steps)
    parts = [kind.starts, kind.ends, kind.axes, *([] if plain else [kind.steps])]
    e.node("Slice", [*ins, *map(e.ints, parts)], outs)


@emits(mv.Gather)
def _gather(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    e.node("Gather", ins, outs, axis=kind_of(op).axis)


@emits(mv.Pad)
def _pad(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """Pads and value are attributes before opset 11, where only floats are padded."""
    kind, dtype = kind_of(op), op.operand(0).tensor.dtype
    if kind.mode == "wrap" and e.opset < 19:
        raise NeedsOpset(19, "Pad with mode wrap")
    if e.opset < 11:
        if not dtype.is_float:
            raise NeedsOpset(11, "Pad of integers")
        e.node("Pad", ins, outs, pads=kind.pads, mode=kind.mode, value=float(kind.value))
        return
    value = [e.number(kind.value, dtype)] if kind.mode == "constant" and kind.value != 0 else []
    e.node("Pad", [*ins, e.ints(kind.pads), *value], outs, mode=kind.mode)


@emits(mv.Expand)
def _expand(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """Before opset 8: a product with ones, which broadcasts."""
    shape, dtype = kind_of(op).shape, op.operand(0).tensor.dtype
    if e.opset >= 8:
        e.node("Expand", [*ins, e.ints(shape)], outs)
        return
    if not dtype.is_float and dtype not in (DType.i32, DType.i64):
        raise NeedsOpset(8, f"Expand of {dtype}")
    ones = e.temp("Tile", [e.temp("Reshape", [e.number(1, dtype), e.ints((1,) * len(shape))]),
                           e.ints(shape)])  # fmt: skip
    e.node("Mul", [*ins, ones], outs)


@emits(mv.Squeeze, mv.Unsqueeze)
def _squeeze(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    op_type = "Squeeze" if isinstance(op.kind, mv.Squeeze) else "Unsqueeze"
    axes = kind_of(op).axes
    if e.opset < 13:
        e.node(op_type, ins, outs, axes=axes)
        return
    e.node(op_type, [*ins, e.ints(axes)], outs)


@emits(mv.Tile)
def _tile(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    e.node("Tile", [*ins, e.ints(kind_of(op).repeats)], outs)


@emits(mv.DepthToSpace)
def _depth_to_space(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """Mode CRD exists from opset 11 on; before, it is reshape, transpose, reshape."""
    kind = kind_of(op)
    if kind.mode == "DCR" or e.opset >= 11:
        mode = kind.mode if e.opset >= 11 else None
        e.node("DepthToSpace", ins, outs, blocksize=kind.block, mode=mode)
        return
    shape, b = op.operand(0).tensor.static, kind.block
    if shape is None:
        raise NeedsOpset(11, "DepthToSpace with mode CRD of a dynamic shape")
    n, c, h, w = shape
    d = c // (b * b)
    split = e.temp("Reshape", [*ins, e.ints((n, d, b, b, h, w))])
    moved = e.temp("Transpose", [split], perm=(0, 1, 4, 2, 5, 3))
    e.node("Reshape", [moved, e.ints((n, d, h * b, w * b))], outs)


@emits(mv.SpaceToDepth)
def _space_to_depth(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    e.node("SpaceToDepth", ins, outs, blocksize=kind_of(op).block)


@emits(mv.Shape)
def _shape(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """A part of the shape: an attribute from opset 15 on, a slice before."""
    kind = kind_of(op)
    if kind.start == 0 and kind.end is None:
        e.node("Shape", ins, outs)
    elif e.opset >= 15:
        e.node("Shape", ins, outs, start=kind.start, end=kind.end)
    else:
        rank = op.operand(0).tensor.rank
        if rank is None:
            raise NeedsOpset(15, "a part of the shape of an unknown rank")
        start, end, _ = slice(kind.start, kind.end).indices(rank)
        part = mv.Slice((start,), (max(start, end),), (0,), (1,))
        _slice(e, Op(part, [op.result], [op.result.type]), [e.temp("Shape", ins)], outs)


_REDUCTIONS: dict[type[OpKind], str] = {
    reduce.ReduceSum: "ReduceSum", reduce.ReduceMean: "ReduceMean", reduce.ReduceMax: "ReduceMax",
    reduce.ReduceMin: "ReduceMin", reduce.ReduceProd: "ReduceProd", reduce.ReduceL1: "ReduceL1",
    reduce.ReduceL2: "ReduceL2", reduce.ReduceSumSquare: "ReduceSumSquare",
    reduce.ReduceLogSumExp: "ReduceLogSumExp",
}  # fmt: skip


def _reduce(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """Axes are an operand from opset 13 (the sum) or 18 (the others) on."""
    kind, op_type = kind_of(op), _REDUCTIONS[type(op.kind)]
    if _is_global_pool(op, kind):
        e.node("GlobalAveragePool", ins, outs)
    elif not kind.axes:
        _unreduced(e, op, ins, outs)
    elif e.opset >= (13 if op_type == "ReduceSum" else 18):
        e.node(op_type, [*ins, e.ints(kind.axes)], outs, keepdims=int(kind.keepdims))
    else:
        e.node(op_type, ins, outs, keepdims=int(kind.keepdims), axes=kind.axes)


def _is_global_pool(op: Op, kind: Any) -> bool:
    """The mean over all spatial axes, kept: runtimes and their quantizers know that pool best."""
    x = op.operand(0).tensor
    if not isinstance(kind, reduce.ReduceMean) or x.shape is None or len(x.shape) < 3:
        return False
    spatial = kind.axes == tuple(range(2, len(x.shape))) and kind.keepdims
    return spatial and x.dtype in (DType.f32, DType.f16) and 0 not in x.shape


def _unreduced(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """ONNX reads an empty list of axes as all of them, so reducing none is written out."""
    forms: dict[type[OpKind], str] = {
        reduce.ReduceL1: "Abs", reduce.ReduceL2: "Abs", reduce.ReduceSumSquare: "Mul",
    }  # fmt: skip
    op_type = forms.get(type(op.kind), "Identity")
    e.node(op_type, ins * (2 if op_type == "Mul" else 1), outs)


EMITTERS.update((kind, _reduce) for kind in _REDUCTIONS)


@emits(reduce.ArgMax, reduce.ArgMin)
def _arg_reduce(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    kind = kind_of(op)
    last = 1 if kind.select_last else None  # an attribute from opset 12 on
    op_type = "ArgMax" if isinstance(kind, reduce.ArgMax) else "ArgMin"
    keep = int(kind.keepdims)
    e.node(op_type, ins, outs, axis=kind.axis, keepdims=keep, select_last_index=last)
