"""What element-wise kinds share: shapes that broadcast, types, and arithmetic of narrow floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.core import OpKind
from graphopt.ir.types import Array, DType, TensorType, ValueType
from graphopt.ops.common import wide
from graphopt.ops.shapes import broadcast, tensors


class Elementwise(OpKind):
    """Result element i depends on the operands' elements i (broadcast as numpy does)."""

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The broadcast shape; the element type of `out`."""
        ts = tensors(*types)
        return (TensorType(self.out(ts), broadcast(*(t.shape for t in ts))),)

    def out(self, types: list[TensorType]) -> DType:
        """The element type of the result: by default the operands', which must agree."""
        if any(t.dtype is not types[0].dtype for t in types):
            raise ValueError(f"element types differ: {', '.join(str(t.dtype) for t in types)}")
        return types[0].dtype


class Unary(Elementwise):
    """y = fn(x), computed in the operand's type (16-bit floats in float32)."""

    operands = ("x",)
    fn: ClassVar[Callable[..., Any]]

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """Apply `compute`."""
        (x,) = arrays
        assert x is not None
        with np.errstate(all="ignore"):
            return (np.asarray(self.compute(wide(x)), DType.of(x).numpy),)

    def compute(self, x: Array) -> Array:
        """The function on an array."""
        return type(self).fn(x)


class Predicate(Unary):
    """A unary function whose result is bool."""

    def out(self, types: list[TensorType]) -> DType:
        """Bool."""
        return DType.bool_

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """Apply `compute`."""
        assert arrays[0] is not None
        return (np.asarray(self.compute(arrays[0]), np.bool_),)


class Binary(Elementwise):
    """y = fn(a, b)."""

    operands = ("a", "b")
    fn: ClassVar[Callable[..., Any]]

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """Apply `compute`, 16-bit floats in float32."""
        a, b = arrays
        assert a is not None and b is not None
        result = self.out([TensorType(DType.of(v), v.shape) for v in (a, b)])
        with np.errstate(all="ignore"):
            return (np.asarray(self.compute(wide(a), wide(b))).astype(result.numpy),)

    def compute(self, a: Array, b: Array) -> Array:
        """The function on arrays."""
        return type(self).fn(a, b)


class Comparison(Binary):
    """A binary function whose result is bool."""

    def out(self, types: list[TensorType]) -> DType:
        """Bool; the operands' types must agree."""
        super().out(types)
        return DType.bool_
