"""Converters of ONNX ops that move elements."""

from __future__ import annotations

import numpy as np

from graphopt.ir.builtin import Const
from graphopt.ir.data import Inline, Mapped, Splat, size
from graphopt.ir.types import DType
from graphopt.onnx.node import MAX_PARAMETER, Modelled, NodeView, Step, converts, normal
from graphopt.ops import movement as mv
from graphopt.ops.elementwise import Identity

Ints = tuple[int, ...]
MAX_SPLAT = 2**40  # elements of a ConstantOfShape; more is surely damage


@converts("Constant")
def _constant(n: NodeView) -> Modelled | None:
    """Every form; sparse ones come as dense data, which ONNX Runtime makes of them too."""
    value = n.attr("value", n.attr("sparse_value"))
    if isinstance(value, Inline | Mapped):
        return Step(Const(value), ())
    forms = (
        ("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64),
        ("value_ints", np.int64), ("value_string", object), ("value_strings", object),
    )  # fmt: skip
    for name, dtype in forms:
        if name in n.attrs:
            return Step(Const(Inline(np.array(n.attrs[name], dtype))), ())
    return None


@converts("ConstantOfShape")
def _constant_of_shape(n: NodeView) -> Modelled | None:
    shape, value = n.ints(0), n.attr("value")
    if shape is None or any(d < 0 for d in shape):
        return None
    if value is None:
        value = Splat(DType.f32, (1,), 0.0)
    splat = Splat(value.dtype, shape, value.numpy().reshape(-1)[0].item())
    return Step(Const(splat), ()) if size(splat) <= MAX_SPLAT else None


@converts("Range")
def _range(n: NodeView) -> Modelled | None:
    """Of constant integers; floats, runtimes round each in their own way."""
    dtype, numbers = n.dtype(0), [n.number(i) for i in range(3)]
    if dtype not in (DType.i32, DType.i64) or None in numbers or not numbers[2]:
        return None
    found = range(*numbers)
    if len(found) > MAX_PARAMETER:
        return None
    return Step(Const(Inline(np.array(found, dtype.numpy))), ())


@converts("Reshape")
def _reshape(n: NodeView) -> Modelled | None:
    shape = n.ints(1)
    if shape is None or (n.attr("allowzero", 0) and 0 in shape):
        return None
    return Step(mv.Reshape(shape), n.operands[:1])


@converts("Flatten")
def _flatten(n: NodeView) -> Modelled | None:
    """[d0, d1 | d2, d3] to a matrix: one of the two sizes must be static, or be d0 alone."""
    shape = n.shape(0)
    if shape is None or any(d == 0 for d in shape):
        return None
    axis = n.attr("axis", 1)
    axis += len(shape) if axis < 0 else 0
    before, after = _product(shape[:axis]), _product(shape[axis:])
    rows = 0 if axis == 1 else before
    if rows is None and after is None:
        return None
    columns = -1 if after is None else after
    return Step(mv.Reshape((-1 if rows is None else rows, columns)), n.operands)


def _product(dims: tuple[object, ...]) -> int | None:
    total = 1
    for d in dims:
        if not isinstance(d, int):
            return None
        total *= d
    return total


@converts("Transpose")
def _transpose(n: NodeView) -> Modelled | None:
    perm, rank = n.attr("perm"), n.rank(0)
    if perm is None and rank is None:
        return None
    return Step(mv.Transpose(tuple(range(rank or 0))[::-1] if perm is None else perm), n.operands)


@converts("Concat")
def _concat(n: NodeView) -> Modelled | None:
    rank = next((r for i in range(len(n.operands)) if (r := n.rank(i)) is not None), None)
    axis = n.attr("axis", 1)
    return Step(mv.Concat(axis + rank if axis < 0 and rank else axis), n.operands)


@converts("Split")
def _split(n: NodeView) -> Modelled | None:
    shape, count = n.shape(0), len(n.outputs)
    axes = None if shape is None else normal((n.attr("axis", 0),), len(shape))
    sizes = n.list("split", 1, 13)
    if shape is None or axes is None or sizes is None:
        return None
    if not sizes:
        total = shape[axes[0]]
        sizes = _even(total, count) if isinstance(total, int) else None
    if sizes is None or len(sizes) != count:
        return None
    return Step(mv.Split(axes[0], sizes), n.operands[:1])


def _even(total: int, count: int) -> Ints | None:
    """Equal parts, the last one smaller where they don't come out even."""
    part = -(-total // count)
    last = total - part * (count - 1)
    return (*(part,) * (count - 1), last) if last >= 0 else None


@converts("Slice")
def _slice(n: NodeView) -> Modelled | None:
    starts, ends, axes = (n.list(k, i, 10) for k, i in (("starts", 1), ("ends", 2), ("axes", 3)))
    steps = n.ints(4) if n.version >= 10 and n.has(4) else ()
    rank = n.rank(0)
    if starts is None or ends is None or axes is None or steps is None or rank is None:
        return None
    axes = normal(axes or tuple(range(len(starts))), rank)
    steps = steps or (1,) * len(starts)
    if axes is None or not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        return None
    return Step(mv.Slice(starts, ends, axes, steps), n.operands[:1])


@converts("Gather")
def _gather(n: NodeView) -> Modelled | None:
    axis, rank = n.attr("axis", 0), n.rank(0)
    return Step(mv.Gather(axis + rank if axis < 0 and rank else axis), n.operands)


@converts("Pad")
def _pad(n: NodeView) -> Modelled | None:
    """All axes, unless operand 3 lists some; the value is an operand from opset 11 on."""
    rank, mode, pads = n.rank(0), n.attr("mode", "constant"), n.list("pads", 1, 11)
    value = n.attr("value", 0.0) if n.version < 11 else n.number(2) if n.has(2) else 0
    axes = n.ints(3) if n.has(3) else tuple(range(rank or 0))
    if pads is None or axes is None or rank is None or value is None:
        return None
    axes = normal(axes, rank) if n.dtype(0) is not DType.string else None
    if axes is None or len(pads) != 2 * len(axes):
        return None
    if mode != "constant" and (min(pads, default=0) < 0 or any(d == 0 for d in n.shape(0) or ())):
        return None
    full = [0] * (2 * rank)
    for i, axis in enumerate(axes):
        full[axis], full[rank + axis] = pads[i], pads[len(axes) + i]
    if mode != "constant":
        return Step(mv.Pad(tuple(full), mode), n.operands[:1])
    return Step(mv.Pad(tuple(full), mode, _typed(value, n.dtype(0))), n.operands[:1])


def _typed(value: float | int | bool, dtype: DType | None) -> float | int | bool:
    """The number as the operand's type writes it, so that equal paddings are equal kinds."""
    if dtype is None or dtype.is_float:
        return float(value)
    return bool(value) if dtype is DType.bool_ else int(value)


@converts("Expand")
def _expand(n: NodeView) -> Modelled | None:
    shape = n.ints(1)
    return None if shape is None else Step(mv.Expand(shape), n.operands[:1])


@converts("Tile")
def _tile(n: NodeView) -> Modelled | None:
    repeats = n.ints(1)
    return None if repeats is None else Step(mv.Tile(repeats), n.operands[:1])


@converts("Squeeze")
def _squeeze(n: NodeView) -> Modelled | None:
    """Without axes, all of size 1: known only where every size is."""
    shape, axes = n.shape(0), n.list("axes", 1, 13)
    if shape is None or axes is None:
        return None
    if not axes:
        given = n.has(1) or "axes" in n.attrs  # an empty list: runtimes disagree
        if given or any(not isinstance(d, int) for d in shape):
            return None
        axes = tuple(i for i, d in enumerate(shape) if d == 1)
    axes = normal(axes, len(shape))
    return None if axes is None else Step(mv.Squeeze(tuple(sorted(axes))), n.operands[:1])


@converts("Unsqueeze")
def _unsqueeze(n: NodeView) -> Modelled | None:
    rank, axes = n.rank(0), n.list("axes", 1, 13)
    if rank is None or axes is None:
        return None
    axes = normal(axes, rank + len(axes))
    return None if axes is None else Step(mv.Unsqueeze(tuple(sorted(axes))), n.operands[:1])


@converts("DepthToSpace")
def _depth_to_space(n: NodeView) -> Modelled | None:
    block, mode = n.attr("blocksize", 1), n.attr("mode", "DCR")
    if n.rank(0) != 4 or mode not in ("DCR", "CRD") or block < 1:
        return None
    return Step(mv.DepthToSpace(block, mode), n.operands)


@converts("SpaceToDepth")
def _space_to_depth(n: NodeView) -> Modelled | None:
    block, mode = n.attr("blocksize", 1), n.attr("mode", "DCR")
    good = n.rank(0) == 4 and mode == "DCR" and block > 0
    return Step(mv.SpaceToDepth(block), n.operands) if good else None


@converts("Shape")
def _shape(n: NodeView) -> Modelled | None:
    return Step(mv.Shape(n.attr("start", 0), n.attr("end")), n.operands) if n.type(0) else None


@converts("OptionalGetElement")
def _get_element(n: NodeView) -> Modelled | None:
    """Of a tensor (allowed from opset 18 on) it is the tensor."""
    return Step(Identity(), n.operands) if n.type(0) else None
