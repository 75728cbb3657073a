"""Element-wise kinds in PyTorch."""

from __future__ import annotations

import math

from graphopt.errors import UnsupportedError
from graphopt.ir.core import OpKind
from graphopt.ir.types import DType
from graphopt.ops import elementwise as e
from graphopt.passes.distill.library import Tensor, Torch
from graphopt.passes.distill.table import torch_of

UNARY: dict[type[OpKind], str] = {
    e.Abs: "abs", e.Neg: "neg", e.Exp: "exp", e.Log: "log", e.Sqrt: "sqrt",
    e.Reciprocal: "reciprocal", e.Floor: "floor", e.Ceil: "ceil", e.Round: "round",
    e.Sign: "sign", e.Sin: "sin", e.Cos: "cos", e.Tan: "tan", e.Asin: "asin", e.Acos: "acos",
    e.Atan: "atan", e.Sinh: "sinh", e.Cosh: "cosh", e.Asinh: "asinh", e.Acosh: "acosh",
    e.Atanh: "atanh", e.Tanh: "tanh", e.Erf: "erf", e.Sigmoid: "sigmoid", e.Relu: "relu",
    e.Not: "logical_not", e.IsNaN: "isnan",
}  # fmt: skip
"""Functions of one operand that PyTorch has under a name."""

BINARY: dict[type[OpKind], str] = {
    e.Pow: "pow", e.Min: "minimum", e.Max: "maximum", e.Equal: "eq", e.Less: "lt",
    e.LessEqual: "le", e.Greater: "gt", e.GreaterEqual: "ge", e.And: "logical_and",
    e.Or: "logical_or", e.Xor: "logical_xor",
}  # fmt: skip
"""Those of two."""

TRAINABLE: dict[type[OpKind], str] = {e.Add: "add", e.Sub: "sub", e.Mul: "mul"}
"""Those whose constants are biases, scales, positions: trained."""


@torch_of(*UNARY)
def unary(t: Torch, kind: OpKind, x: Tensor) -> Tensor:
    """PyTorch's function of that name."""
    return getattr(t, UNARY[type(kind)])(x)


@torch_of(*BINARY)
def binary(t: Torch, kind: OpKind, a: Tensor, b: Tensor) -> Tensor:
    """PyTorch's function of that name."""
    return getattr(t, BINARY[type(kind)])(a, b)


@torch_of(*TRAINABLE, trains=(0, 1))
def trainable(t: Torch, kind: OpKind, a: Tensor, b: Tensor) -> Tensor:
    """PyTorch's function of that name."""
    return getattr(t, TRAINABLE[type(kind)])(a, b)


@torch_of(e.Div)
def div(t: Torch, kind: e.Div, a: Tensor, b: Tensor) -> Tensor:
    """a / b; of integers, towards zero."""
    return t.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


@torch_of(e.Mod)
def mod(t: Torch, kind: e.Mod, a: Tensor, b: Tensor) -> Tensor:
    """The remainder, with the sign of b or of a."""
    return t.fmod(a, b) if kind.fmod else t.remainder(a, b)


@torch_of(e.PRelu, trains=(1,))
def prelu(t: Torch, kind: e.PRelu, a: Tensor, b: Tensor) -> Tensor:
    """a where a >= 0, else b a."""
    return t.where(a >= 0, a, b * a)


@torch_of(e.Where)
def where(t: Torch, kind: e.Where, cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where cond, else b."""
    return t.where(cond, a, b)


@torch_of(e.Identity)
def identity(t: Torch, kind: e.Identity, x: Tensor) -> Tensor:
    """x."""
    return x


@torch_of(e.Cast)
def cast(t: Torch, kind: e.Cast, x: Tensor) -> Tensor:
    """Conversion of the element type."""
    return x.to(dtype_of(t, kind.to))


@torch_of(e.Softplus)
def softplus(t: Torch, kind: e.Softplus, x: Tensor) -> Tensor:
    """ln(1 + e^x)."""
    return t.nn.functional.softplus(x)


@torch_of(e.Softsign)
def softsign(t: Torch, kind: e.Softsign, x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return x / (1 + x.abs())


@torch_of(e.Mish)
def mish(t: Torch, kind: e.Mish, x: Tensor) -> Tensor:
    """x tanh(softplus(x))."""
    return x * t.tanh(t.nn.functional.softplus(x))


@torch_of(e.HardSwish)
def hard_swish(t: Torch, kind: e.HardSwish, x: Tensor) -> Tensor:
    """x clip(x/6 + 1/2, 0, 1)."""
    return x * t.clamp(x / 6 + 0.5, 0, 1)


@torch_of(e.HardSigmoid)
def hard_sigmoid(t: Torch, kind: e.HardSigmoid, x: Tensor) -> Tensor:
    """clip(alpha x + beta, 0, 1)."""
    return t.clamp(kind.alpha * x + kind.beta, 0, 1)


@torch_of(e.Gelu)
def gelu(t: Torch, kind: e.Gelu, x: Tensor) -> Tensor:
    """x Phi(x)."""
    if kind.approximate == "none":
        return x * (t.erf(x * math.sqrt(0.5)) + 1) / 2
    return x * (t.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)) + 1) / 2


@torch_of(e.Silu)
def silu(t: Torch, kind: e.Silu, x: Tensor) -> Tensor:
    """x sigmoid(alpha x)."""
    return x * t.sigmoid(kind.alpha * x)


@torch_of(e.LeakyRelu)
def leaky_relu(t: Torch, kind: e.LeakyRelu, x: Tensor) -> Tensor:
    """x where x >= 0, else alpha x."""
    return t.where(x >= 0, x, kind.alpha * x)


@torch_of(e.Elu)
def elu(t: Torch, kind: e.Elu, x: Tensor) -> Tensor:
    """x where x >= 0, else alpha (e^x - 1)."""
    return t.where(x >= 0, x, kind.alpha * t.expm1(t.clamp(x, max=0)))


@torch_of(e.Clip)
def clip(t: Torch, kind: e.Clip, x: Tensor) -> Tensor:
    """min(max(x, lo), hi)."""
    return x if kind.lo is None and kind.hi is None else t.clamp(x, kind.lo, kind.hi)


def dtype_of(t: Torch, dtype: DType) -> object:
    """PyTorch's element type.

    Raises:
        UnsupportedError: it has none.
    """
    found: object = getattr(t, dtype.value[0], None)
    if found is None:
        raise UnsupportedError(f"distill can't train through values of type {dtype}")
    return found
