"""Kinds that move elements and compute none. Parameters that ONNX passes as tensors are attributes.

An op whose parameter isn't constant stays opaque until folding makes it so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from graphopt.ir.core import OpKind
from graphopt.ir.types import (
    UNKNOWN,
    Array,
    Dim,
    DType,
    TensorType,
    ValueType,
    add,
    floordiv,
    mul,
    product,
)
from graphopt.ops.shapes import agree, broadcast, normal_axis, tensors

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Reshape(OpKind, name="reshape"):
    """The same elements in another shape; 0 keeps the operand's size, one -1 is what is left."""

    shape: Ints
    operands = ("x",)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The shape with 0 and -1 resolved where they can be."""
        (x,) = tensors(*types)
        if x.shape is None:
            known = tuple(UNKNOWN if d in (0, -1) else d for d in self.shape)
            return (TensorType(x.dtype, known),)
        dims = [self._kept(x.shape, i) if d == 0 else d for i, d in enumerate(self.shape)]
        if -1 in dims:
            at = dims.index(-1)
            dims[at] = _left(x.shape, [d for i, d in enumerate(dims) if i != at])
        total, want = product(tuple(dims)), product(x.shape)
        agree(total, want, f"elements of {x} and of shape {list(self.shape)}")
        return (TensorType(x.dtype, tuple(dims)),)

    def _kept(self, shape: tuple[Dim, ...], i: int) -> Dim:
        if i >= len(shape):
            raise ValueError(
                f"0 at position {i} of the shape, but the operand has rank {len(shape)}"
            )
        return shape[i]

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """numpy's reshape."""
        (x,) = arrays
        assert x is not None
        return (x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(self.shape)]),)


def _left(have: tuple[Dim, ...], others: list[Dim]) -> Dim:
    """What -1 stands for: the product of `have` over that of `others`, symbols cancelled."""
    have_left, rest = list(have), list[Dim]()
    for d in others:
        if not isinstance(d, int) and d != UNKNOWN and d in have_left:
            have_left.remove(d)
        else:
            rest.append(d)
    top, bottom = product(tuple(have_left)), product(tuple(rest))
    if not isinstance(bottom, int):
        return UNKNOWN
    if bottom == 0:
        return UNKNOWN if top != 0 else 0
    if isinstance(top, int) and top % bottom:
        raise ValueError(f"{top} elements do not divide by {bottom}")
    return floordiv(top, bottom) if isinstance(top, int) or top.mul % bottom == 0 else UNKNOWN


@dataclass(frozen=True)
class Transpose(OpKind, name="transpose"):
    """Result axis i is operand axis perm[i]."""

    perm: Ints
    operands = ("x",)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The permuted shape."""
        (x,) = tensors(*types)
        if x.shape is None:
            return (x,)
        if sorted(self.perm) != list(range(len(x.shape))):
            raise ValueError(f"{list(self.perm)} does not permute the axes of {x}")
        return (TensorType(x.dtype, tuple(x.shape[p] for p in self.perm)),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """numpy's transpose."""
        (x,) = arrays
        assert x is not None
        return (np.ascontiguousarray(x.transpose(self.perm)),)


@dataclass(frozen=True)
class Concat(OpKind, name="concat"):
    """Operands one after the other along an axis."""

    axis: int
    operands = ("xs*",)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The sizes along the axis added up."""
        ts = tensors(*types)
        if not ts:
            raise ValueError("nothing to concatenate")
        shapes = [t.shape for t in ts if t.shape is not None]
        if len(shapes) != len(ts):
            return (TensorType(ts[0].dtype, None),)
        rank = len(shapes[0])
        if any(len(s) != rank for s in shapes) or any(t.dtype is not ts[0].dtype for t in ts):
            raise ValueError(f"operands differ: {', '.join(map(str, ts))}")
        axis = normal_axis(self.axis, rank)
        out = [_merged([s[i] for s in shapes], i == axis) for i in range(rank)]
        return (TensorType(ts[0].dtype, tuple(out)),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """numpy's concatenate."""
        return (np.concatenate([a for a in arrays if a is not None], axis=self.axis),)


def _merged(dims: list[Dim], summed: bool) -> Dim:
    if summed:
        total: Dim = 0
        for d in dims:
            total = add(total, d)
        return total
    numbers = [d for d in dims if isinstance(d, int)]
    if numbers and any(n != numbers[0] for n in numbers):
        raise ValueError(f"sizes {dims} differ off the axis")
    return numbers[0] if numbers else dims[0]


@dataclass(frozen=True)
class Split(OpKind, name="split"):
    """Parts of the given sizes along an axis, one result each."""

    axis: int
    sizes: Ints
    operands = ("x",)

    def result_count(self) -> int:
        """One a size."""
        return len(self.sizes)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The operand's shape with each size."""
        (x,) = tensors(*types)
        if x.shape is None:
            return (x,) * len(self.sizes)
        axis = normal_axis(self.axis, len(x.shape))
        agree(x.shape[axis], sum(self.sizes), "the axis and the sum of the parts")
        return tuple(
            TensorType(x.dtype, (*x.shape[:axis], s, *x.shape[axis + 1 :])) for s in self.sizes
        )

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """numpy's split."""
        (x,) = arrays
        assert x is not None
        return tuple(np.split(x, np.cumsum(self.sizes)[:-1].tolist(), axis=self.axis))


@dataclass(frozen=True)
class Slice(OpKind, name="slice"):
    """x[start:end:step] along each listed axis, bounds clamped as ONNX does."""

    starts: Ints
    ends: Ints
    axes: Ints
    steps: Ints
    operands = ("x",)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The sliced sizes; of a symbol, where they can be said."""
        (x,) = tensors(*types)
        if x.shape is None:
            return (x,)
        dims = list(x.shape)
        for start, end, axis, step in self._parts():
            if step == 0:
                raise ValueError("a step of 0")
            at = normal_axis(axis, len(dims))
            dims[at] = _sliced(dims[at], start, end, step)
        return (TensorType(x.dtype, tuple(dims)),)

    def _parts(self) -> list[tuple[int, int, int, int]]:
        return list(zip(self.starts, self.ends, self.axes, self.steps, strict=True))

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """numpy's slicing with ONNX's clamping."""
        (x,) = arrays
        assert x is not None
        at = [slice(None)] * x.ndim
        for start, end, axis, step in self._parts():
            at[axis] = _python_slice(x.shape[axis], start, end, step)
        return (x[tuple(at)],)


def _python_slice(size: int, start: int, end: int, step: int) -> slice:
    """ONNX's bounds as Python's: a negative one counts from the end once, then it is clamped."""
    low, high = (0, size) if step > 0 else (-1, size - 1)
    begin = min(max(start + size if start < 0 else start, 0), high if step < 0 else size)
    stop = min(max(end + size if end < 0 else end, low), high if step > 0 else size)
    return slice(begin, stop if stop >= 0 else None, step)


def _sliced(size: Dim, start: int, end: int, step: int) -> Dim:
    if isinstance(size, int):
        return len(range(size)[_python_slice(size, start, end, step)])
    far = 2**31 - 1
    if step > 0 and start == 0 and end >= far:
        return floordiv(add(size, step - 1), step)
    if step == -1 and start == -1 and end <= -far:
        return size
    return UNKNOWN


@dataclass(frozen=True)
class Gather(OpKind, name="gather"):
    """x[indices] along one axis; negative indices count from the end."""

    axis: int = 0
    operands = ("x", "indices")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """x's shape with the axis replaced by the indices' shape."""
        x, i = tensors(*types)
        if x.shape is None or i.shape is None:
            return (TensorType(x.dtype, None),)
        axis = normal_axis(self.axis, len(x.shape))
        return (TensorType(x.dtype, (*x.shape[:axis], *i.shape, *x.shape[axis + 1 :])),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """numpy's take."""
        x, i = arrays
        assert x is not None and i is not None
        return (np.asarray(np.take(x, i, axis=self.axis)),)


@dataclass(frozen=True)
class Pad(OpKind, name="pad"):
    """Padding of every axis; `pads` holds all begins, then all ends; negative crops."""

    pads: Ints
    mode: Literal["constant", "reflect", "edge", "wrap"] = "constant"
    value: float | int | bool = 0.0
    operands = ("x",)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """Each size plus its padding."""
        (x,) = tensors(*types)
        if x.shape is None:
            return (x,)
        n = len(x.shape)
        if len(self.pads) != 2 * n:
            raise ValueError(f"{len(self.pads)} pads for rank {n}")
        dims = tuple(add(d, self.pads[i] + self.pads[n + i]) for i, d in enumerate(x.shape))
        if any(isinstance(d, int) and d < 0 for d in dims):
            raise ValueError(f"padding {list(self.pads)} leaves a negative size of {x}")
        return (TensorType(x.dtype, dims),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """numpy's pad, after cropping."""
        (x,) = arrays
        assert x is not None
        n = x.ndim
        widths = [(max(self.pads[i], 0), max(self.pads[n + i], 0)) for i in range(n)]
        crop = tuple(
            slice(max(-self.pads[i], 0), d - max(-self.pads[n + i], 0))
            for i, d in enumerate(x.shape)
        )
        options: dict[str, Any] = {"mode": self.mode}
        if self.mode == "constant":
            options["constant_values"] = np.asarray(self.value).astype(x.dtype)
        return (np.pad(x[crop], widths, **options),)


@dataclass(frozen=True)
class Expand(OpKind, name="expand"):
    """Broadcast against `shape`, both ways (a 1 there keeps the operand's size)."""

    shape: Ints
    operands = ("x",)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The broadcast shape."""
        (x,) = tensors(*types)
        return (TensorType(x.dtype, broadcast(x.shape, self.shape)),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """numpy's broadcast, made dense."""
        (x,) = arrays
        assert x is not None
        return (np.array(np.broadcast_to(x, np.broadcast_shapes(x.shape, self.shape))),)


@dataclass(frozen=True)
class Squeeze(OpKind, name="squeeze"):
    """Drop axes of size 1."""

    axes: Ints
    operands = ("x",)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The shape without the axes."""
        (x,) = tensors(*types)
        if x.shape is None:
            return (x,)
        gone = {normal_axis(a, len(x.shape)) for a in self.axes}
        for a in gone:
            agree(x.shape[a], 1, f"size of the squeezed axis {a} of {x}")
        return (TensorType(x.dtype, tuple(d for i, d in enumerate(x.shape) if i not in gone)),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """numpy's squeeze."""
        (x,) = arrays
        assert x is not None
        return (np.squeeze(x, self.axes),)


@dataclass(frozen=True)
class Unsqueeze(OpKind, name="unsqueeze"):
    """Insert axes of size 1; `axes` are positions in the result."""

    axes: Ints
    operands = ("x",)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The shape with ones put in."""
        (x,) = tensors(*types)
        if x.shape is None:
            return (x,)
        rank = len(x.shape) + len(self.axes)
        ones = {normal_axis(a, rank) for a in self.axes}
        if len(ones) != len(self.axes):
            raise ValueError(f"axes {list(self.axes)} repeat")
        dims = iter(x.shape)
        return (TensorType(x.dtype, tuple(1 if i in ones else next(dims) for i in range(rank))),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """numpy's expand_dims."""
        (x,) = arrays
        assert x is not None
        return (np.expand_dims(x, self.axes),)


@dataclass(frozen=True)
class Tile(OpKind, name="tile"):
    """Repeat along each axis."""

    repeats: Ints
    operands = ("x",)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """Each size times its count."""
        (x,) = tensors(*types)
        if x.shape is None:
            return (x,)
        if len(self.repeats) != len(x.shape):
            raise ValueError(f"{len(self.repeats)} repeats for rank {len(x.shape)}")
        dims = tuple(mul(d, r) for d, r in zip(x.shape, self.repeats, strict=True))
        return (TensorType(x.dtype, dims),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """numpy's tile."""
        (x,) = arrays
        assert x is not None
        return (np.tile(x, self.repeats),)


@dataclass(frozen=True)
class DepthToSpace(OpKind, name="depth_to_space"):
    """[N, C, H, W] to [N, C/b^2, H*b, W*b] (sub-pixel, arXiv 1609.05158)."""

    block: int
    mode: Literal["DCR", "CRD"] = "DCR"
    operands = ("x",)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The spread shape."""
        (x,) = tensors(*types)
        if x.shape is None:
            return (x,)
        n, c, h, w = x.shape
        b = self.block
        return (TensorType(x.dtype, (n, floordiv(c, b * b), mul(h, b), mul(w, b))),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """Reshape, transpose, reshape."""
        (x,) = arrays
        assert x is not None
        (n, c, h, w), b = x.shape, self.block
        d = c // (b * b)
        split, perm = ((n, b, b, d, h, w), (0, 3, 4, 1, 5, 2))
        if self.mode == "CRD":
            split, perm = ((n, d, b, b, h, w), (0, 1, 4, 2, 5, 3))
        return (x.reshape(split).transpose(perm).reshape(n, d, h * b, w * b),)


@dataclass(frozen=True)
class SpaceToDepth(OpKind, name="space_to_depth"):
    """[N, C, H, W] to [N, C*b^2, H/b, W/b]."""

    block: int
    operands = ("x",)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The gathered shape."""
        (x,) = tensors(*types)
        if x.shape is None:
            return (x,)
        n, c, h, w = x.shape
        b = self.block
        return (TensorType(x.dtype, (n, mul(c, b * b), floordiv(h, b), floordiv(w, b))),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """Reshape, transpose, reshape."""
        (x,) = arrays
        assert x is not None
        (n, c, h, w), b = x.shape, self.block
        parts = x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)
        return (parts.reshape(n, c * b * b, h // b, w // b),)


@dataclass(frozen=True)
class Shape(OpKind, name="shape"):
    """The operand's shape as an int64 vector, from axis `start` up to `end`."""

    start: int = 0
    end: int | None = None
    operands = ("x",)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """A vector as long as the slice of the rank."""
        (x,) = tensors(*types)
        if x.shape is None:
            return (TensorType(DType.i64, (UNKNOWN,)),)
        return (TensorType(DType.i64, (len(x.shape[self.start : self.end]),)),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """The shape."""
        (x,) = arrays
        assert x is not None
        return (np.array(x.shape[self.start : self.end], np.int64),)


@dataclass(frozen=True)
class Reorder(OpKind, name="reorder"):
    """The same logical tensor stored in another layout; the result's type says which."""

    operands = ("x",)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The dense type; its maker gives the layout."""
        return (tensors(*types)[0].logical,)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """The same logical array."""
        assert arrays[0] is not None
        return (arrays[0],)
