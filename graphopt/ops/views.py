"""Kinds that keep all elements and move them: other shapes, axes, orders.

Parameters that ONNX passes as tensors are attributes. An op whose parameter isn't constant stays
opaque until folding makes it so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from graphopt.ir.core import OpKind
from graphopt.ir.types import (
    UNKNOWN,
    Array,
    Dim,
    DType,
    TensorType,
    ValueType,
    floordiv,
    mul,
    product,
)
from graphopt.ops.common import OneTensor
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
class Transpose(OneTensor, name="transpose"):
    """Result axis i is operand axis perm[i]."""

    perm: Ints

    def resize(self, x: TensorType, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """The permuted shape."""
        if sorted(self.perm) != list(range(len(shape))):
            raise ValueError(f"{list(self.perm)} does not permute the axes of {x}")
        return tuple(shape[p] for p in self.perm)

    def compute(self, x: Array) -> Array:
        """numpy's transpose."""
        return np.ascontiguousarray(x.transpose(self.perm))


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
class Squeeze(OneTensor, name="squeeze"):
    """Drop axes of size 1."""

    axes: Ints

    def resize(self, x: TensorType, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """The shape without the axes."""
        gone = {normal_axis(a, len(shape)) for a in self.axes}
        for a in gone:
            agree(shape[a], 1, f"size of the squeezed axis {a} of {x}")
        return tuple(d for i, d in enumerate(shape) if i not in gone)

    def compute(self, x: Array) -> Array:
        """numpy's squeeze."""
        return np.squeeze(x, self.axes)


@dataclass(frozen=True)
class Unsqueeze(OneTensor, name="unsqueeze"):
    """Insert axes of size 1; `axes` are positions in the result."""

    axes: Ints

    def resize(self, x: TensorType, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """The shape with ones put in."""
        rank = len(shape) + len(self.axes)
        ones = {normal_axis(a, rank) for a in self.axes}
        if len(ones) != len(self.axes):
            raise ValueError(f"axes {list(self.axes)} repeat")
        dims = iter(shape)
        return tuple(1 if i in ones else next(dims) for i in range(rank))

    def compute(self, x: Array) -> Array:
        """numpy's expand_dims."""
        return np.expand_dims(x, self.axes)


def _image(x: TensorType, shape: tuple[Dim, ...]) -> tuple[Dim, Dim, Dim, Dim]:
    if len(shape) != 4:
        raise ValueError(f"x {x} is not [N, C, H, W]")
    n, c, h, w = shape
    return n, c, h, w


@dataclass(frozen=True)
class DepthToSpace(OneTensor, name="depth_to_space"):
    """[N, C, H, W] to [N, C/b^2, H*b, W*b] (sub-pixel, arXiv 1609.05158)."""

    block: int
    mode: Literal["DCR", "CRD"] = "DCR"

    def resize(self, x: TensorType, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """The spread shape."""
        n, c, h, w = _image(x, shape)
        b = self.block
        return (n, floordiv(c, b * b), mul(h, b), mul(w, b))

    def compute(self, x: Array) -> Array:
        """Reshape, transpose, reshape."""
        (n, c, h, w), b = x.shape, self.block
        d = c // (b * b)
        split, perm = ((n, b, b, d, h, w), (0, 3, 4, 1, 5, 2))
        if self.mode == "CRD":
            split, perm = ((n, d, b, b, h, w), (0, 1, 4, 2, 5, 3))
        return x.reshape(split).transpose(perm).reshape(n, d, h * b, w * b)


@dataclass(frozen=True)
class SpaceToDepth(OneTensor, name="space_to_depth"):
    """[N, C, H, W] to [N, C*b^2, H/b, W/b]."""

    block: int

    def resize(self, x: TensorType, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """The gathered shape."""
        n, c, h, w = _image(x, shape)
        b = self.block
        return (n, mul(c, b * b), floordiv(h, b), floordiv(w, b))

    def compute(self, x: Array) -> Array:
        """Reshape, transpose, reshape."""
        (n, c, h, w), b = x.shape, self.block
        parts = x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)
        return parts.reshape(n, c * b * b, h // b, w // b)


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
