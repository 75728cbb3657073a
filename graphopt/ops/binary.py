"""Functions of two numbers, and the choice between them: one class each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir.types import Array, DType, TensorType
from graphopt.ops.each import Binary, Comparison, Elementwise


@dataclass(frozen=True)
class Add(Binary, name="add"):
    """a + b."""

    fn = np.add


@dataclass(frozen=True)
class Sub(Binary, name="sub"):
    """a - b."""

    fn = np.subtract


@dataclass(frozen=True)
class Mul(Binary, name="mul"):
    """a * b."""

    fn = np.multiply


@dataclass(frozen=True)
class Div(Binary, name="div"):
    """a / b; of integers, rounded towards zero."""

    def compute(self, a: Array, b: Array) -> Array:
        """The function on arrays."""
        if a.dtype.kind not in "iu":
            return a / b
        safe = np.where(b == 0, np.ones((), b.dtype), b)
        quotient = np.floor_divide(a, safe)
        return quotient + ((quotient < 0) & (quotient * safe != a))


@dataclass(frozen=True)
class Pow(Binary, name="pow"):
    """a ^ b in a's type."""

    def out(self, types: list[TensorType]) -> DType:
        """The base's type."""
        return types[0].dtype

    def compute(self, a: Array, b: Array) -> Array:
        """The function on arrays."""
        wide = np.result_type(a, b) if a.dtype.kind in "iu" or b.dtype.kind in "iu" else a.dtype
        if a.dtype.kind in "iu" and b.dtype.kind in "iu":
            return np.power(a.astype(np.float64), b.astype(np.float64))
        return np.power(a.astype(wide), b.astype(wide))


@dataclass(frozen=True)
class Mod(Binary, name="mod"):
    """Remainder with the sign of b, or of a (`fmod`)."""

    fmod: bool = False

    def compute(self, a: Array, b: Array) -> Array:
        """The function on arrays."""
        return np.fmod(a, b) if self.fmod else np.mod(a, b)


@dataclass(frozen=True)
class Min(Binary, name="min"):
    """The smaller."""

    fn = np.minimum


@dataclass(frozen=True)
class Max(Binary, name="max"):
    """The larger."""

    fn = np.maximum


@dataclass(frozen=True)
class PRelu(Binary, name="prelu"):
    """a where a >= 0, else b * a (arXiv 1502.01852); b is the slope."""

    def compute(self, a: Array, b: Array) -> Array:
        """The function on arrays."""
        return np.where(a >= 0, a, b * a)


@dataclass(frozen=True)
class Equal(Comparison, name="equal"):
    """a == b."""

    fn = np.equal


@dataclass(frozen=True)
class Less(Comparison, name="less"):
    """a < b."""

    fn = np.less


@dataclass(frozen=True)
class LessEqual(Comparison, name="less_equal"):
    """a <= b."""

    fn = np.less_equal


@dataclass(frozen=True)
class Greater(Comparison, name="greater"):
    """a > b."""

    fn = np.greater


@dataclass(frozen=True)
class GreaterEqual(Comparison, name="greater_equal"):
    """a >= b."""

    fn = np.greater_equal


@dataclass(frozen=True)
class And(Comparison, name="and"):
    """Logical and."""

    fn = np.logical_and


@dataclass(frozen=True)
class Or(Comparison, name="or"):
    """Logical or."""

    fn = np.logical_or


@dataclass(frozen=True)
class Xor(Comparison, name="xor"):
    """Logical exclusive or."""

    fn = np.logical_xor


@dataclass(frozen=True)
class Where(Elementwise, name="where"):
    """a where cond, else b."""

    operands = ("cond", "a", "b")

    def out(self, types: list[TensorType]) -> DType:
        """The type of a and b."""
        return super().out(types[1:])

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """Choose."""
        cond, a, b = arrays
        assert cond is not None and a is not None and b is not None
        return (np.where(cond, a, b),)
