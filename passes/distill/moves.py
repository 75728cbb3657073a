"""Kinds that move elements, gather and reduce, in PyTorch.

Where a move along an axis isn't PyTorch's own (a negative step, reflected padding, interpolation),
the kind's numpy meaning on 0, 1, 2 ... says which elements it takes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.ir.core import OpKind
from graphopt.ir.types import Array
from graphopt.ops import movement as m
from graphopt.ops import reduce as r
from graphopt.ops.resize import Resize
from graphopt.passes.distill.library import Tensor, Torch
from graphopt.passes.distill.table import torch_of


def take(t: Torch, x: Tensor, axis: int, at: Array) -> Tensor:
    """x[at] along an axis; a run of neighbours is a view."""
    if len(at) and (np.diff(at) == 1).all():
        return x.narrow(axis, int(at[0]), len(at))
    return t.index_select(x, axis, t.from_numpy(np.ascontiguousarray(at, np.int64)))


def taken(kind: OpKind, size: int) -> Array:
    """The indices that a move of one axis takes."""
    at: Array = np.arange(size)
    return kind.evaluate(at)[0]


@torch_of(m.Reshape, trains=(0,))
def reshape(t: Torch, kind: m.Reshape, x: Tensor) -> Tensor:
    """0 keeps the operand's size."""
    return x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(kind.shape)])


@torch_of(m.Transpose, trains=(0,))
def transpose(t: Torch, kind: m.Transpose, x: Tensor) -> Tensor:
    """Result axis i is operand axis perm[i]."""
    return x.permute(kind.perm)


@torch_of(m.Concat, trains=tuple(range(64)))
def concat(t: Torch, kind: m.Concat, *xs: Tensor) -> Tensor:
    """One after the other."""
    return t.cat(xs, kind.axis)


@torch_of(m.Split)
def split(t: Torch, kind: m.Split, x: Tensor) -> tuple[Tensor, ...]:
    """Parts of the given sizes."""
    return tuple(t.split(x, kind.sizes, kind.axis))


@torch_of(m.Slice)
def slice_(t: Torch, kind: m.Slice, x: Tensor) -> Tensor:
    """Axis by axis."""
    for start, end, axis, step in zip(kind.starts, kind.ends, kind.axes, kind.steps, strict=True):
        one = m.Slice((start,), (end,), (0,), (step,))
        x = take(t, x, axis, taken(one, x.shape[axis]))
    return x


@torch_of(m.Gather, trains=(0,))
def gather(t: Torch, kind: m.Gather, x: Tensor, indices: Tensor) -> Tensor:
    """x[indices] along one axis; negative indices count from the end."""
    axis = kind.axis % x.ndim
    at = t.where(indices < 0, indices + x.shape[axis], indices).reshape(-1)
    y = t.index_select(x, axis, at)
    return y.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@torch_of(m.Pad)
def pad(t: Torch, kind: m.Pad, x: Tensor) -> Tensor:
    """Constants by PyTorch, the other modes axis by axis."""
    n = x.ndim
    pairs: list[tuple[int, int]] = [(kind.pads[i], kind.pads[n + i]) for i in range(n)]
    if kind.mode == "constant":
        flat = [p for pair in reversed(pairs) for p in pair]  # the last axis first
        return t.nn.functional.pad(x, flat, value=kind.value)
    for axis, pair in enumerate(pairs):
        if any(pair):
            one = m.Pad(pair, kind.mode)
            x = take(t, x, axis, taken(one, x.shape[axis]))
    return x


@torch_of(m.Expand)
def expand(t: Torch, kind: m.Expand, x: Tensor) -> Tensor:
    """Broadcast both ways."""
    return x.broadcast_to(np.broadcast_shapes(tuple(x.shape), kind.shape))


@torch_of(m.Squeeze, trains=(0,))
def squeeze(t: Torch, kind: m.Squeeze, x: Tensor) -> Tensor:
    """Drop axes of size 1."""
    gone = {a % x.ndim for a in kind.axes}
    return x.reshape([d for i, d in enumerate(x.shape) if i not in gone])


@torch_of(m.Unsqueeze, trains=(0,))
def unsqueeze(t: Torch, kind: m.Unsqueeze, x: Tensor) -> Tensor:
    """Insert axes of size 1, the first one first: positions are in the result."""
    rank = x.ndim + len(kind.axes)
    for axis in sorted(a % rank for a in kind.axes):
        x = x.unsqueeze(axis)
    return x


@torch_of(m.Tile)
def tile(t: Torch, kind: m.Tile, x: Tensor) -> Tensor:
    """Repeat along each axis."""
    return x.repeat(kind.repeats)


@torch_of(m.DepthToSpace)
def depth_to_space(t: Torch, kind: m.DepthToSpace, x: Tensor) -> Tensor:
    """Reshape, permute, reshape."""
    (n, c, h, w), b = x.shape, kind.block
    d = c // (b * b)
    parts, perm = (n, b, b, d, h, w), (0, 3, 4, 1, 5, 2)
    if kind.mode == "CRD":
        parts, perm = (n, d, b, b, h, w), (0, 1, 4, 2, 5, 3)
    return x.reshape(parts).permute(perm).reshape(n, d, h * b, w * b)


@torch_of(m.SpaceToDepth)
def space_to_depth(t: Torch, kind: m.SpaceToDepth, x: Tensor) -> Tensor:
    """Reshape, permute, reshape."""
    (n, c, h, w), b = x.shape, kind.block
    parts = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * b * b, h // b, w // b)


@torch_of(m.Shape)
def shape(t: Torch, kind: m.Shape, x: Tensor) -> Tensor:
    """The shape, int64."""
    return t.tensor(list(x.shape[kind.start : kind.end]), dtype=t.int64)


@torch_of(Resize)
def resize(t: Torch, kind: Resize, x: Tensor) -> Tensor:
    """Take the nearest, or two and blend, an axis at a time."""
    for i, axis in enumerate((2, 3)):
        size = x.shape[axis]
        if kind.mode == "nearest":
            x = take(t, x, axis, kind.nearest(size, i))
            continue
        low, high, w = kind.linear(size, i)
        weight = t.from_numpy(w).reshape(-1, 1) if axis == 2 else t.from_numpy(w)
        x = take(t, x, axis, low) * (1 - weight) + take(t, x, axis, high) * weight
    return x


def _prod(t: Torch, x: Tensor, axes: tuple[int, ...]) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True)
    return x


REDUCTIONS: dict[type[OpKind], Callable[[Torch, Tensor, tuple[int, ...]], Tensor]] = {
    r.ReduceSum: lambda t, x, axes: x.sum(axes, keepdim=True),
    r.ReduceMean: lambda t, x, axes: x.mean(axes, keepdim=True),
    r.ReduceMax: lambda t, x, axes: x.amax(axes, keepdim=True),
    r.ReduceMin: lambda t, x, axes: x.amin(axes, keepdim=True),
    r.ReduceProd: _prod,
    r.ReduceL1: lambda t, x, axes: x.abs().sum(axes, keepdim=True),
    r.ReduceL2: lambda t, x, axes: x.square().sum(axes, keepdim=True).sqrt(),
    r.ReduceSumSquare: lambda t, x, axes: x.square().sum(axes, keepdim=True),
    r.ReduceLogSumExp: lambda t, x, axes: t.logsumexp(x, axes, keepdim=True),
}
"""Reductions that keep their axes."""


@torch_of(*REDUCTIONS)
def reduce(t: Torch, kind: r.Reduce, x: Tensor) -> Tensor:
    """Over `axes`; over none of them, each element is its own."""
    if not kind.axes:
        return REDUCTIONS[type(kind)](t, x.unsqueeze(-1), (-1,)).squeeze(-1)
    axes = tuple(a % x.ndim for a in kind.axes)
    y = REDUCTIONS[type(kind)](t, x, axes)
    return y if kind.keepdims else y.reshape(r.reduced(tuple(x.shape), axes, False))


@torch_of(r.ArgMax, r.ArgMin)
def arg_reduce(t: Torch, kind: r.ArgReduce, x: Tensor) -> Tensor:
    """The index of the extreme; of equal ones the first, or the last."""
    axis, size = kind.axis % x.ndim, x.shape[kind.axis]
    find = t.argmax if isinstance(kind, r.ArgMax) else t.argmin
    found = find(x.flip(axis) if kind.select_last else x, axis, keepdim=kind.keepdims)
    return size - 1 - found if kind.select_last else found
