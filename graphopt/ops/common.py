"""What kinds of several groups share: one operand and one result; arithmetic of narrow floats."""

from __future__ import annotations

import numpy as np

from graphopt.ir.core import OpKind
from graphopt.ir.types import Array, Dim, DType, TensorType, ValueType
from graphopt.ops.shapes import tensors


def wide(x: Array) -> Array:
    """16-bit floats as float32, in which they are computed; everything else as it is."""
    return x.astype(np.float32) if x.dtype.itemsize < 4 and DType.of(x).is_float else x


class OneTensor(OpKind):
    """One tensor x to one result of its element type."""

    operands = ("x",)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The type of x with the shape of `resize`; x's own where its rank is unknown."""
        (x,) = tensors(*types)
        return (x if x.shape is None else TensorType(x.dtype, self.resize(x, x.shape)),)

    def resize(self, x: TensorType, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """The result's shape for x's (ValueError, which names x, where x doesn't fit)."""
        raise NotImplementedError

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """Apply `compute`."""
        (x,) = arrays
        assert x is not None
        return (self.compute(x),)

    def compute(self, x: Array) -> Array:
        """The result's elements."""
        raise NotImplementedError
