"""Kinds that take parts of tensors, or put tensors together.

Parameters that ONNX passes as tensors are attributes. An op whose parameter isn't constant stays
opaque until folding makes it so.
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
    TensorType,
    ValueType,
    add,
    floordiv,
    mul,
)
from graphopt.ops.common import OneTensor
from graphopt.ops.shapes import agree, normal_axis, tensors

Ints = tuple[int, ...]


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


@dataclass(frozen=True)
class Part(OneTensor, name="part"):
    """x as the first part of a tensor of size `of` along an axis; zeros follow.

    Its kernel leaves what follows as it is in memory: that belongs to others, which make the parts
    after it (see `targets.storage`). So none is in a module; lowering ends regions with it.
    """

    axis: int
    of: int

    def resize(self, x: TensorType, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """x's shape, but for the axis."""
        axis = normal_axis(self.axis, len(shape))
        size = shape[axis]
        if isinstance(size, int) and size > self.of:
            raise ValueError(f"{x} is no part of {self.of} along axis {axis}")
        return (*shape[:axis], self.of, *shape[axis + 1 :])

    def compute(self, x: Array) -> Array:
        """Zeros appended."""
        more = [(0, 0)] * x.ndim
        more[self.axis] = (0, self.of - x.shape[self.axis])
        return np.pad(x, more)


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
class Slice(OneTensor, name="slice"):
    """x[start:end:step] along each listed axis, bounds clamped as ONNX does."""

    starts: Ints
    ends: Ints
    axes: Ints
    steps: Ints

    def resize(self, x: TensorType, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """The sliced sizes; of a symbol, where they can be said."""
        dims = list(shape)
        for start, end, axis, step in self._parts():
            if step == 0:
                raise ValueError("a step of 0")
            at = normal_axis(axis, len(dims))
            dims[at] = _sliced(dims[at], start, end, step)
        return tuple(dims)

    def _parts(self) -> list[tuple[int, int, int, int]]:
        return list(zip(self.starts, self.ends, self.axes, self.steps, strict=True))

    def compute(self, x: Array) -> Array:
        """numpy's slicing with ONNX's clamping."""
        at = [slice(None)] * x.ndim
        for start, end, axis, step in self._parts():
            at[axis] = python_slice(x.shape[axis], start, end, step)
        return x[tuple(at)]


def python_slice(size: int, start: int, end: int, step: int) -> slice:
    """ONNX's bounds as Python's: a negative one counts from the end once, then it is clamped."""
    low, high = (0, size) if step > 0 else (-1, size - 1)
    begin = min(max(start + size if start < 0 else start, 0), high if step < 0 else size)
    stop = min(max(end + size if end < 0 else end, low), high if step > 0 else size)
    return slice(begin, stop if stop >= 0 else None, step)


def _sliced(size: Dim, start: int, end: int, step: int) -> Dim:
    if isinstance(size, int):
        return len(range(size)[python_slice(size, start, end, step)])
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
class Pad(OneTensor, name="pad"):
    """Padding of every axis; `pads` holds all begins, then all ends; negative crops."""

    pads: Ints
    mode: Literal["constant", "reflect", "edge", "wrap"] = "constant"
    value: float | int | bool = 0.0

    def resize(self, x: TensorType, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """Each size plus its padding."""
        n = len(shape)
        if len(self.pads) != 2 * n:
            raise ValueError(f"{len(self.pads)} pads for rank {n}")
        dims = tuple(add(d, self.pads[i] + self.pads[n + i]) for i, d in enumerate(shape))
        if any(isinstance(d, int) and d < 0 for d in dims):
            raise ValueError(f"padding {list(self.pads)} leaves a negative size of {x}")
        return dims

    def compute(self, x: Array) -> Array:
        """numpy's pad, after cropping."""
        n = x.ndim
        widths = [(max(self.pads[i], 0), max(self.pads[n + i], 0)) for i in range(n)]
        crop = tuple(
            slice(max(-self.pads[i], 0), d - max(-self.pads[n + i], 0))
            for i, d in enumerate(x.shape)
        )
        options: dict[str, Any] = {"mode": self.mode}
        if self.mode == "constant":
            options["constant_values"] = np.asarray(self.value).astype(x.dtype)
        return np.pad(x[crop], widths, **options)


@dataclass(frozen=True)
class Tile(OneTensor, name="tile"):
    """Repeat along each axis."""

    repeats: Ints

    def resize(self, x: TensorType, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """Each size times its count."""
        if len(self.repeats) != len(shape):
            raise ValueError(f"{len(self.repeats)} repeats for rank {len(shape)}")
        return tuple(mul(d, r) for d, r in zip(shape, self.repeats, strict=True))

    def compute(self, x: Array) -> Array:
        """numpy's tile."""
        return np.tile(x, self.repeats)
