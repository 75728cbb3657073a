"""Reductions over axes. Axes are non-negative and sorted; reading a model makes them so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.core import OpKind
from graphopt.ir.types import Array, Dim, DType, TensorType, ValueType
from graphopt.ops.common import OneTensor, wide
from graphopt.ops.shapes import normal_axis, tensors

Ints = tuple[int, ...]


def reduced(shape: tuple[Dim, ...], axes: Ints, keepdims: bool) -> tuple[Dim, ...]:
    """The shape after reducing `axes`."""
    gone = {normal_axis(a, len(shape)) for a in axes}
    kept = ((i, d) for i, d in enumerate(shape))
    return tuple(1 if i in gone else d for i, d in kept if keepdims or i not in gone)


class Reduce(OneTensor):
    """y = fn over `axes`, floats of 16 bits in float32."""

    axes: Ints
    keepdims: bool

    def resize(self, x: TensorType, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """The reduced shape."""
        return reduced(shape, self.axes, self.keepdims)

    def compute(self, x: Array) -> Array:
        """Apply `over`."""
        with np.errstate(all="ignore"):
            y = self.over(wide(x), {"axis": self.axes, "keepdims": self.keepdims})
        return np.asarray(y).astype(x.dtype)

    def over(self, x: Array, axes: dict[str, Any]) -> Array:
        """The reduction; `axes` holds numpy's axis and keepdims."""
        raise NotImplementedError


def _lowest(x: Array) -> Any:
    """The maximum of no elements."""
    return False if x.dtype.kind == "b" else -np.inf if _real(x) else np.iinfo(x.dtype).min


def _highest(x: Array) -> Any:
    """The minimum of no elements."""
    return True if x.dtype.kind == "b" else np.inf if _real(x) else np.iinfo(x.dtype).max


def _real(x: Array) -> bool:
    return DType.of(x).is_float


@dataclass(frozen=True)
class ReduceSum(Reduce, name="reduce_sum"):
    """The sum."""

    axes: Ints
    keepdims: bool = True

    def over(self, x: Array, axes: dict[str, Any]) -> Array:
        """The reduction."""
        return x.sum(**axes, dtype=x.dtype)


@dataclass(frozen=True)
class ReduceMean(Reduce, name="reduce_mean"):
    """The mean; of integers, truncated."""

    axes: Ints
    keepdims: bool = True

    def over(self, x: Array, axes: dict[str, Any]) -> Array:
        """The reduction."""
        return x.mean(**axes)


@dataclass(frozen=True)
class ReduceMax(Reduce, name="reduce_max"):
    """The maximum."""

    axes: Ints
    keepdims: bool = True

    def over(self, x: Array, axes: dict[str, Any]) -> Array:
        """The reduction."""
        return x.max(**axes, initial=_lowest(x))


@dataclass(frozen=True)
class ReduceMin(Reduce, name="reduce_min"):
    """The minimum."""

    axes: Ints
    keepdims: bool = True

    def over(self, x: Array, axes: dict[str, Any]) -> Array:
        """The reduction."""
        return x.min(**axes, initial=_highest(x))


@dataclass(frozen=True)
class ReduceProd(Reduce, name="reduce_prod"):
    """The product."""

    axes: Ints
    keepdims: bool = True

    def over(self, x: Array, axes: dict[str, Any]) -> Array:
        """The reduction."""
        return x.prod(**axes, dtype=x.dtype)


@dataclass(frozen=True)
class ReduceL1(Reduce, name="reduce_l1"):
    """The sum of magnitudes."""

    axes: Ints
    keepdims: bool = True

    def over(self, x: Array, axes: dict[str, Any]) -> Array:
        """The reduction."""
        return np.abs(x).sum(**axes, dtype=x.dtype)


@dataclass(frozen=True)
class ReduceL2(Reduce, name="reduce_l2"):
    """The Euclidean norm."""

    axes: Ints
    keepdims: bool = True

    def over(self, x: Array, axes: dict[str, Any]) -> Array:
        """The reduction."""
        return np.sqrt((x * x).sum(**axes, dtype=x.dtype))


@dataclass(frozen=True)
class ReduceSumSquare(Reduce, name="reduce_sum_square"):
    """The sum of squares."""

    axes: Ints
    keepdims: bool = True

    def over(self, x: Array, axes: dict[str, Any]) -> Array:
        """The reduction."""
        return (x * x).sum(**axes, dtype=x.dtype)


@dataclass(frozen=True)
class ReduceLogSumExp(Reduce, name="reduce_log_sum_exp"):
    """ln(sum(e^x)), shifted by the maximum."""

    axes: Ints
    keepdims: bool = True

    def over(self, x: Array, axes: dict[str, Any]) -> Array:
        """The reduction."""
        top = x.max(axis=self.axes, keepdims=True, initial=_lowest(x))
        top = np.where(np.isfinite(top), top, np.zeros((), x.dtype))
        y = np.log(np.exp(x - top).sum(axis=self.axes, keepdims=True)) + top
        return y if self.keepdims else np.squeeze(y, self.axes)


class ArgReduce(OpKind):
    """The index of the extreme element along one axis; the first one, or the last."""

    axis: int
    keepdims: bool
    select_last: bool
    operands = ("x",)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """int64 of the reduced shape."""
        (x,) = tensors(*types)
        if x.shape is None:
            return (TensorType(DType.i64, None),)
        return (TensorType(DType.i64, reduced(x.shape, (self.axis,), self.keepdims)),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """numpy's argmax or argmin, from the end for select_last."""
        (x,) = arrays
        assert x is not None
        where = np.flip(x, self.axis) if self.select_last else x
        found = np.asarray(self.find(where))
        found = x.shape[self.axis] - 1 - found if self.select_last else found
        found = np.expand_dims(found, self.axis) if self.keepdims else found
        return (np.asarray(found, np.int64),)

    def find(self, x: Array) -> Array:
        """The index along the axis."""
        raise NotImplementedError


@dataclass(frozen=True)
class ArgMax(ArgReduce, name="arg_max"):
    """The index of the largest."""

    axis: int
    keepdims: bool = True
    select_last: bool = False

    def find(self, x: Array) -> Array:
        """The index along the axis."""
        return np.argmax(x, axis=self.axis)


@dataclass(frozen=True)
class ArgMin(ArgReduce, name="arg_min"):
    """The index of the smallest."""

    axis: int
    keepdims: bool = True
    select_last: bool = False

    def find(self, x: Array) -> Array:
        """The index along the axis."""
        return np.argmin(x, axis=self.axis)
