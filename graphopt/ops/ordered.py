"""Kinds whose results depend on the order along one axis: running totals, the k largest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir.core import OpKind
from graphopt.ir.types import Array, DType, TensorType, ValueType
from graphopt.ops.shapes import normal_axis, tensors


class Cumulate(OpKind):
    """y[i] combines x[0] to x[i] along one axis.

    `exclusive` leaves x[i] itself out; `reverse` runs from the end.
    """

    axis: int
    exclusive: bool
    reverse: bool
    operands = ("x",)
    start = 0  # what nothing combines to

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The type of x."""
        (x,) = tensors(*types)
        if x.shape is not None:
            normal_axis(self.axis, len(x.shape))
        return (x,)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """numpy's running total, in the type of x."""
        (x,) = arrays
        assert x is not None
        way = np.flip(x, self.axis) if self.reverse else x
        y = self.run(way)
        if self.exclusive:
            y = np.roll(y, 1, self.axis)
            np.moveaxis(y, self.axis, 0)[:1] = self.start
        return (np.ascontiguousarray(np.flip(y, self.axis) if self.reverse else y),)

    def run(self, x: Array) -> Array:
        """The inclusive total from the first element on."""
        raise NotImplementedError


@dataclass(frozen=True)
class CumSum(Cumulate, name="cum_sum"):
    """Running sums."""

    axis: int
    exclusive: bool = False
    reverse: bool = False

    def run(self, x: Array) -> Array:
        """numpy's cumsum."""
        return np.cumsum(x, axis=self.axis, dtype=x.dtype)


@dataclass(frozen=True)
class CumProd(Cumulate, name="cum_prod"):
    """Running products."""

    axis: int
    exclusive: bool = False
    reverse: bool = False
    start = 1

    def run(self, x: Array) -> Array:
        """numpy's cumprod."""
        return np.cumprod(x, axis=self.axis, dtype=x.dtype)


@dataclass(frozen=True)
class TopK(OpKind, name="top_k"):
    """The k largest (or smallest) elements along an axis, in order, and their indices (int64).

    Of equal elements the first comes first. Where NaN stands in the order isn't said by ONNX.
    """

    k: int
    axis: int = -1
    largest: bool = True
    operands = ("x",)

    def result_count(self) -> int:
        """Values and indices."""
        return 2

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """x's shape with k on the axis, twice."""
        (x,) = tensors(*types)
        if x.shape is None:
            return (x, TensorType(DType.i64, None))
        axis = normal_axis(self.axis, len(x.shape))
        size = x.shape[axis]
        if self.k < 0 or (isinstance(size, int) and self.k > size):
            raise ValueError(f"the {self.k} first of {size}")
        shape = (*x.shape[:axis], self.k, *x.shape[axis + 1 :])
        return (TensorType(x.dtype, shape), TensorType(DType.i64, shape))

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """A stable sort; for the largest, of the reversed order reversed."""
        (x,) = arrays
        assert x is not None
        size = x.shape[self.axis]
        if self.largest:
            order = np.argsort(np.flip(x, self.axis), axis=self.axis, kind="stable")
            order = size - 1 - np.flip(order, self.axis)
        else:
            order = np.argsort(x, axis=self.axis, kind="stable")
        first = np.take(order, np.arange(self.k), axis=self.axis).astype(np.int64)
        return (np.take_along_axis(x, first, axis=self.axis), first)
