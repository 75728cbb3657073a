"""Functions of one number: one class each, with its numpy meaning on one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from graphopt.ir.core import Value
from graphopt.ir.types import Array, DType, TensorType, ValueType
from graphopt.lazy import Lazy
from graphopt.ops.each import Predicate, Unary

_special: Any = Lazy("scipy.special")


@dataclass(frozen=True)
class Abs(Unary, name="abs"):
    """|x|."""

    fn = np.abs


@dataclass(frozen=True)
class Neg(Unary, name="neg"):
    """-x."""

    fn = np.negative


@dataclass(frozen=True)
class Exp(Unary, name="exp"):
    """e^x."""

    fn = np.exp


@dataclass(frozen=True)
class Log(Unary, name="log"):
    """ln x."""

    fn = np.log


@dataclass(frozen=True)
class Sqrt(Unary, name="sqrt"):
    """Square root."""

    fn = np.sqrt


@dataclass(frozen=True)
class Reciprocal(Unary, name="reciprocal"):
    """1/x."""

    fn = np.reciprocal


@dataclass(frozen=True)
class Floor(Unary, name="floor"):
    """Round down."""

    fn = np.floor


@dataclass(frozen=True)
class Ceil(Unary, name="ceil"):
    """Round up."""

    fn = np.ceil


@dataclass(frozen=True)
class Round(Unary, name="round"):
    """Round half to even."""

    fn = np.rint


@dataclass(frozen=True)
class Sign(Unary, name="sign"):
    """-1, 0 or 1."""

    fn = np.sign


@dataclass(frozen=True)
class Sin(Unary, name="sin"):
    """Sine."""

    fn = np.sin


@dataclass(frozen=True)
class Cos(Unary, name="cos"):
    """Cosine."""

    fn = np.cos


@dataclass(frozen=True)
class Tan(Unary, name="tan"):
    """Tangent."""

    fn = np.tan


@dataclass(frozen=True)
class Asin(Unary, name="asin"):
    """Inverse sine."""

    fn = np.arcsin


@dataclass(frozen=True)
class Acos(Unary, name="acos"):
    """Inverse cosine."""

    fn = np.arccos


@dataclass(frozen=True)
class Atan(Unary, name="atan"):
    """Inverse tangent."""

    fn = np.arctan


@dataclass(frozen=True)
class Sinh(Unary, name="sinh"):
    """Hyperbolic sine."""

    fn = np.sinh


@dataclass(frozen=True)
class Cosh(Unary, name="cosh"):
    """Hyperbolic cosine."""

    fn = np.cosh


@dataclass(frozen=True)
class Asinh(Unary, name="asinh"):
    """Inverse hyperbolic sine."""

    fn = np.arcsinh


@dataclass(frozen=True)
class Acosh(Unary, name="acosh"):
    """Inverse hyperbolic cosine."""

    fn = np.arccosh


@dataclass(frozen=True)
class Atanh(Unary, name="atanh"):
    """Inverse hyperbolic tangent."""

    fn = np.arctanh


@dataclass(frozen=True)
class Tanh(Unary, name="tanh"):
    """Hyperbolic tangent."""

    fn = np.tanh


@dataclass(frozen=True)
class Erf(Unary, name="erf"):
    """The error function."""

    def compute(self, x: Array) -> Array:
        """The function on an array."""
        return _special.erf(x)


@dataclass(frozen=True)
class Sigmoid(Unary, name="sigmoid"):
    """1 / (1 + e^-x)."""

    def compute(self, x: Array) -> Array:
        """The function on an array."""
        return _special.expit(x)


@dataclass(frozen=True)
class Relu(Unary, name="relu"):
    """max(x, 0)."""

    def compute(self, x: Array) -> Array:
        """The function on an array."""
        return np.maximum(x, np.zeros((), x.dtype))


@dataclass(frozen=True)
class Softplus(Unary, name="softplus"):
    """ln(1 + e^x)."""

    def compute(self, x: Array) -> Array:
        """The function on an array."""
        return np.logaddexp(x, np.zeros((), x.dtype))


@dataclass(frozen=True)
class Softsign(Unary, name="softsign"):
    """x / (1 + |x|)."""

    def compute(self, x: Array) -> Array:
        """The function on an array."""
        return x / (1 + np.abs(x))


@dataclass(frozen=True)
class Mish(Unary, name="mish"):
    """x * tanh(softplus(x))."""

    def compute(self, x: Array) -> Array:
        """The function on an array."""
        return x * np.tanh(np.logaddexp(x, np.zeros((), x.dtype)))


@dataclass(frozen=True)
class HardSwish(Unary, name="hard_swish"):
    """x * clip(x/6 + 1/2, 0, 1) (MobileNetV3, arXiv 1905.02244)."""

    def compute(self, x: Array) -> Array:
        """The function on an array."""
        return x * np.clip(x / 6 + np.asarray(0.5, x.dtype), 0, 1)


@dataclass(frozen=True)
class Gelu(Unary, name="gelu"):
    """x * Phi(x), exactly or by the tanh approximation (arXiv 1606.08415)."""

    approximate: Literal["none", "tanh"] = "none"

    def compute(self, x: Array) -> Array:
        """The function on an array."""
        if self.approximate == "none":
            return x * (_special.erf(x / np.asarray(np.sqrt(2), x.dtype)) + 1) / 2
        inner = np.asarray(np.sqrt(2 / np.pi), x.dtype) * (x + np.asarray(0.044715, x.dtype) * x**3)
        return x * (np.tanh(inner) + 1) / 2


@dataclass(frozen=True)
class Silu(Unary, name="silu"):
    """x * sigmoid(alpha * x); alpha 1 is SiLU (Swish, arXiv 1710.05941)."""

    alpha: float = 1.0

    def compute(self, x: Array) -> Array:
        """The function on an array."""
        return x * _special.expit(np.asarray(self.alpha, x.dtype) * x)


@dataclass(frozen=True)
class LeakyRelu(Unary, name="leaky_relu"):
    """x where x >= 0, else alpha * x."""

    alpha: float = 0.01

    def compute(self, x: Array) -> Array:
        """The function on an array."""
        return np.where(x >= 0, x, np.asarray(self.alpha, x.dtype) * x)


@dataclass(frozen=True)
class Elu(Unary, name="elu"):
    """x where x >= 0, else alpha * (e^x - 1)."""

    alpha: float = 1.0

    def compute(self, x: Array) -> Array:
        """The function on an array."""
        return np.where(x >= 0, x, np.asarray(self.alpha, x.dtype) * np.expm1(x))


@dataclass(frozen=True)
class HardSigmoid(Unary, name="hard_sigmoid"):
    """clip(alpha * x + beta, 0, 1)."""

    alpha: float = 0.2
    beta: float = 0.5

    def compute(self, x: Array) -> Array:
        """The function on an array."""
        return np.clip(np.asarray(self.alpha, x.dtype) * x + np.asarray(self.beta, x.dtype), 0, 1)


@dataclass(frozen=True)
class Clip(Unary, name="clip"):
    """min(max(x, lo), hi); none: no bound on that side."""

    lo: float | int | None = None
    hi: float | int | None = None

    def compute(self, x: Array) -> Array:
        """The function on an array."""
        y = x if self.lo is None else np.maximum(x, np.asarray(self.lo, x.dtype))
        return y if self.hi is None else np.minimum(y, np.asarray(self.hi, x.dtype))


@dataclass(frozen=True)
class Identity(Unary, name="identity"):
    """X, of any type."""

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The same type."""
        assert types[0] is not None
        return (types[0],)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """The same array."""
        assert arrays[0] is not None
        return (arrays[0],)


@dataclass(frozen=True)
class Cast(Unary, name="cast"):
    """Conversion of the element type (ONNX Cast, saturating only for float8)."""

    to: DType

    def out(self, types: list[TensorType]) -> DType:
        """The type asked for."""
        return self.to

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """Convert; floats to integers by truncation."""
        assert arrays[0] is not None
        with np.errstate(all="ignore"):
            return (arrays[0].astype(self.to.numpy),)


def is_half(value: Value) -> bool:
    """Whether a value is bfloat16 made float32."""
    op = value.op
    return op is not None and isinstance(op.kind, Cast) and op.operand(0).tensor.dtype is DType.bf16


@dataclass(frozen=True)
class Not(Predicate, name="not"):
    """Logical negation."""

    fn = np.logical_not


@dataclass(frozen=True)
class IsNaN(Predicate, name="is_nan"):
    """Whether x is not a number."""

    fn = np.isnan
