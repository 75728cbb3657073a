"""One op on what is left of its operands: its attributes, and the cuts of its constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphopt.ir.core import Op, OpKind, Value
from graphopt.ir.types import Array
from graphopt.ops import movement as mv
from graphopt.ops import nn
from graphopt.ops.elementwise import Elementwise
from graphopt.ops.excite import SqueezeExcite
from graphopt.ops.linalg import Attention, Gemm, MatMul
from graphopt.passes.prune.rules import shape_of, weighted
from graphopt.rewrite import const

Places = tuple["Array | None", ...]
"""For each axis of a value the places that are left, sorted; None: all."""
Left = Callable[[Value], Places]


@dataclass(frozen=True)
class Cut:
    """What is left of a constant: the shape, and how its numbers come from the old ones."""

    shape: tuple[int, ...]
    numbers: Callable[[Array], Array]


@dataclass(frozen=True)
class Shrunk:
    """An op's new kind, the cuts of constant operands by their index, new constant operands."""

    kind: OpKind
    cuts: dict[int, Cut]
    more: tuple[Array, ...] = ()


def shrink(op: Op, left: Left) -> Shrunk:
    """An op of which operands or results lose elements.

    Args:
        op: its shapes are static.
        left: what is left of each value that isn't constant.
    """
    if weighted(op):
        return _layer(op, left)
    if isinstance(op.kind, Elementwise):
        return Shrunk(op.kind, _broadcast(op, left(op.result), range(len(op.operands))))
    match op.kind:
        case Attention():
            heads = (*left(op.result)[:-2], None, None)
            return Shrunk(op.kind, _broadcast(op, heads, range(4)))
        case MatMul():
            heads = (*left(op.result)[:-2], None, None)
            return Shrunk(op.kind, _broadcast(op, heads, range(2)))
        case nn.BatchNorm() | nn.InstanceNorm():
            line = (left(op.result)[1],)
            return Shrunk(op.kind, {i: cut(shape_of(op.operand(i)), line)
                                    for i in range(1, len(op.operands))})  # fmt: skip
        case SqueezeExcite():
            return Shrunk(op.kind, _gates(op, left(op.result)[1]))
        case mv.Concat():
            return Shrunk(op.kind, _parts(op, op.kind, left(op.result)))
        case mv.Gather():
            return _gathered(op, op.kind, left)
        case mv.Slice():
            return _sliced(op, op.kind, left(op.operand(0)))
        case _:
            return Shrunk(_attributes(op, left), {})


def cut(shape: tuple[int, ...], places: Places) -> Cut:
    """Some places of each axis."""
    sizes = tuple(d if p is None else len(p) for d, p in zip(shape, places, strict=True))

    def numbers(a: Array) -> Array:
        for i, p in enumerate(places):
            a = a if p is None else np.take(a, p, i)
        return a

    return Cut(sizes, numbers)


def _broadcast(op: Op, places: Places, operands: Sequence[int]) -> dict[int, Cut]:
    """Constants that are broadcast with the result."""
    found = dict[int, Cut]()
    for i in operands:
        v = op.operands[i] if i < len(op.operands) else None
        if v is None or const(v) is None:
            continue
        shape = shape_of(v)
        own = places[len(places) - len(shape) :]
        found[i] = cut(shape, tuple(p if d > 1 else None
                                    for d, p in zip(shape, own, strict=True)))  # fmt: skip
    return found


def _gates(op: Op, line: Array | None) -> dict[int, Cut]:
    """The channels of squeeze and excitation; those between its products stay."""
    found = dict[int, Cut]()
    for i, axis in ((1, 1), (2, 0), (4, 0)):
        v = op.operands[i]
        if v is not None:
            shape = shape_of(v)
            places = tuple(line if a == axis else None for a in range(len(shape)))
            found[i] = cut(shape, places)
    return found


def _parts(op: Op, kind: mv.Concat, places: Places) -> dict[int, Cut]:
    """Constants among concatenated values."""
    found, start = dict[int, Cut](), 0
    axis = kind.axis % len(places)
    for i, v in enumerate(op.operands):
        assert v
        own, line, size = list(places), places[axis], _dim(v, axis)
        if line is not None:
            own[axis] = line[(line >= start) & (line < start + size)] - start
        start += size
        if const(v) is not None:
            found[i] = cut(shape_of(v), tuple(own))
    return found


def _layer(op: Op, left: Left) -> Shrunk:
    """Rows and columns of weights, and rows of a bias."""
    found = weighted(op)
    assert found
    x, y = left(op.operand(0))[found.axis], left(op.result)[found.axis]
    shape, kind = found.w.shape, op.kind
    cuts = dict[int, Cut]()
    groups = getattr(kind, "group", 1)
    if groups > 1:
        ins = np.arange(found.inputs) if x is None else x
        outs = np.arange(found.outputs) if y is None else y
        wide = found.inputs // groups
        there = np.unique(ins // wide)
        cuts[1] = _grouped(kind, shape, groups, ins, outs)
        assert isinstance(kind, nn.Conv | nn.ConvTranspose)
        kind = replace(kind, group=len(there))
    elif isinstance(kind, nn.Conv) or (isinstance(kind, Gemm) and kind.trans_b):
        cuts[1] = cut(shape, (y, x, *(None,) * (len(shape) - 2)))
    else:
        cuts[1] = cut(shape, (x, y, *(None,) * (len(shape) - 2)))
    bias = op.operands[2] if len(op.operands) > 2 else None
    if bias is not None:
        rows = shape_of(bias)
        cuts[2] = cut(rows, tuple(y if d > 1 else None for d in rows))
    return Shrunk(kind, cuts)


def _grouped(kind: OpKind, shape: tuple[int, ...], groups: int, ins: Array, outs: Array) -> Cut:
    """Weights [M, C / g, ...] of a grouped convolution, or [C, M / g, ...] of a transposed one.

    Of the groups that stay, equally many inputs and outputs each do.
    """
    rows, columns = (ins, outs) if isinstance(kind, nn.ConvTranspose) else (outs, ins)
    high, wide = shape[0] // groups, shape[1]
    taken = [(rows[rows // high == g], columns[columns // wide == g] % wide)
             for g in range(groups)]  # fmt: skip
    taken = [(r, c) for r, c in taken if len(r)]

    def numbers(w: Array) -> Array:
        return np.concatenate([w[r][:, c] for r, c in taken])

    return Cut((len(rows), len(taken[0][1]), *shape[2:]), numbers)


def _gathered(op: Op, kind: mv.Gather, left: Left) -> Shrunk:
    """Constant indices among the places that are left."""
    x, indices = left(op.operand(0)), const(op.operand(1))
    axis = kind.axis % len(x)
    line = x[axis]
    if indices is None or line is None:
        return Shrunk(kind, {})
    size, rank = _dim(op.operand(0), axis), len(indices.shape)
    own = left(op.result)[axis : axis + rank]
    base = cut(indices.shape, own)
    return Shrunk(kind, {1: Cut(base.shape, lambda i: np.searchsorted(
        line, base.numbers(np.where(i < 0, i + size, i))))})  # fmt: skip


def _sliced(op: Op, kind: mv.Slice, places: Places) -> Shrunk:
    """A slice of what is left; indices, where that isn't regular."""
    starts, ends, steps = list(kind.starts), list(kind.ends), list(kind.steps)
    for i, axis in enumerate(kind.axes):
        line = places[axis]
        if line is None:
            continue
        one = mv.Slice((starts[i],), (ends[i],), (0,), (steps[i],))
        (chosen,) = one.evaluate(np.arange(_dim(op.operand(0), axis)))
        at = np.searchsorted(line, chosen[np.isin(chosen, line)])
        gaps = np.unique(np.diff(at))
        if len(gaps) > 1:
            return Shrunk(mv.Gather(axis), {}, (at.astype(np.int64),))
        step = int(gaps[0]) if len(gaps) else 1
        last = int(at[-1]) + (1 if step > 0 else -1)
        starts[i], ends[i], steps[i] = int(at[0]), last if last >= 0 else -(2**31), step
    return Shrunk(mv.Slice(tuple(starts), tuple(ends), kind.axes, tuple(steps)), {})


def _dim(value: Value, axis: int) -> int:
    """The size of an axis of which elements may go."""
    size = (value.tensor.shape or ())[axis]
    assert isinstance(size, int)
    return size


def _attributes(op: Op, left: Left) -> OpKind:
    """Sizes that the attributes of a move name."""
    kind, y = op.kind, left(op.results[0])
    match kind:
        case mv.Reshape():
            return mv.Reshape(_reshaped(op, kind, left))
        case mv.Expand():
            ahead = len(y) - len(kind.shape)
            sizes = (d if (p := y[i + ahead]) is None or d == 1 else len(p)
                     for i, d in enumerate(kind.shape))  # fmt: skip
            return mv.Expand(tuple(sizes))
        case mv.Split():
            lines = [left(r)[kind.axis] for r in op.results]
            return mv.Split(
                kind.axis,
                tuple(d if p is None else len(p) for d, p in zip(kind.sizes, lines, strict=True)),
            )
        case mv.Pad():
            return replace(kind, pads=_padded(op, kind, left))
        case _:
            return kind


def _reshaped(op: Op, kind: mv.Reshape, left: Left) -> tuple[int, ...]:
    """0 and -1 stay where they are still right."""
    have, want = _sizes(op.operand(0), left), _sizes(op.result, left)
    found = list[int]()
    for i, d in enumerate(kind.shape):
        same = d == -1 or (d == 0 and have[i] == want[i])
        found.append(d if same or left(op.result)[i] is None else want[i])
    return tuple(found)


def _sizes(value: Value, left: Left) -> list[int]:
    shape = value.tensor.shape or ()
    return [(d if isinstance(d, int) else 0) if p is None else len(p)
            for d, p in zip(shape, left(value), strict=True)]  # fmt: skip


def _padded(op: Op, kind: mv.Pad, left: Left) -> tuple[int, ...]:
    """Along an axis of which elements go, what is left around those of the operand."""
    n, pads = len(left(op.result)), list(kind.pads)
    for i, p in enumerate(left(op.result)):
        before, after = kind.pads[i], kind.pads[n + i]
        if p is not None and (before or after):
            pads[i] = int((p < before).sum())
            pads[n + i] = int((p >= _dim(op.result, i) - after).sum())
    return tuple(pads)
