# pyright: basic
# TVM ships no types.
"""Scalar expressions of the elementwise kinds: `scalar(kind, operands)`, one rule a kind.

Meaning is numpy's, as the kinds' `evaluate` says. Float32 transcendentals are those of `vecmath`;
the trigonometric and hyperbolic rest, and float64, call libm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import tirx

from graphopt.errors import UnsupportedError
from graphopt.ir.core import OpKind
from graphopt.ir.types import DType
from graphopt.ops.quant import limits
from graphopt.targets.tvm import bfloat
from graphopt.targets.tvm.bfloat import tvm_dtype
from graphopt.targets.tvm.expr import (
    Expr,
    bounded,
    cast,
    const,
    differ,
    divide,
    exp,
    is_float,
    is_nan,
    let,
    libm,
    like,
    log,
    maximum,
    minimum,
    modulo,
    of,
    pair,
    power,
    select,
    sign,
)
from graphopt.targets.tvm.intrinsics import call


def _gelu64(kind: Any, x: Expr) -> Expr:
    if kind.approximate == "none":
        half = math.sqrt(0.5)
        return let(x, lambda x: x * (tirx.erf(x * like(x, half)) + like(x, 1)) / like(x, 2))

    def approximate(x: Expr) -> Expr:
        inner = like(x, math.sqrt(2 / math.pi)) * (x + like(x, 0.044715) * (x * x * x))
        return x * (tirx.tanh(inner) + like(x, 1)) * like(x, 0.5)

    return let(x, approximate)


def _gelu(kind: Any, x: Expr) -> Expr:
    if of(x) == "float32":
        return call("gelu" if kind.approximate == "none" else "gelu_tanh", x)
    return _gelu64(kind, x)


def _softplus64(kind: Any, x: Expr) -> Expr:
    return let(x, lambda x: bounded(x, 0, None) + tirx.log1p(tirx.exp(like(x, 0) - tirx.abs(x))))


def _sigmoid64(kind: Any, x: Expr) -> Expr:
    return like(x, 1) / (like(x, 1) + tirx.exp(like(x, 0) - x))


def _hard_swish64(kind: Any, x: Expr) -> Expr:
    return let(x, lambda x: x * bounded(x / like(x, 6) + like(x, 0.5), 0, 1))


def _silu(kind: Any, x: Expr) -> Expr:
    if of(x) == "float32":
        return call("silu", x, like(x, kind.alpha))
    return let(x, lambda x: x * _sigmoid64(None, like(x, kind.alpha) * x))


def _elu(kind: Any, x: Expr) -> Expr:
    if of(x) == "float32":
        return call("elu", x, like(x, kind.alpha))
    return let(
        x, lambda x: select(x >= like(x, 0), x, like(x, kind.alpha) * (tirx.exp(x) - like(x, 1)))
    )


def _leaky(x: Expr, slope: Expr) -> Expr:
    if of(x) == "float32":
        return call("leaky", x, slope)
    return let(x, lambda x: select(x >= like(x, 0), x, slope * x))


def _round(kind: Any, x: Expr) -> Expr:
    return tirx.nearbyint(x) if is_float(x) else x


def _saturated(x: Expr, zero: Sequence[Expr], dtype: DType) -> Expr:
    """saturate(round(x) + zero): x is clamped beforehand, to bounds that are integers."""
    shift = cast(zero[0], "int32") if zero else const(0, "int32")
    if dtype in (DType.u8, DType.i8):
        name = "byte_u8" if dtype is DType.u8 else "byte_s8"
        return cast(call(name, cast(x, "float32"), shift), tvm_dtype(dtype))
    low, high = (cast(const(v, "int32") - shift, "float32") for v in limits(dtype))
    return cast(call("saturate", x, low, high) + shift, tvm_dtype(dtype))


QUOTIENTS: dict[str, Callable[..., Expr]] = {
    "quantize": lambda x, scale: x / scale,
    "quantize_by_inverse": lambda x, inverse, rest: call("multiplied", x, inverse, rest),
    "requantize": lambda x, scale: cast(x, "float32") * scale,
}
"""What is rounded to an integer: of x and the factors after it."""


def _rounded(kind: Any, *operands: Expr) -> Expr:
    end = 1 + kind.factors
    return _saturated(QUOTIENTS[kind.name](*operands[:end]), operands[end:], kind.dtype)


def _dequantize(kind: Any, x: Expr, scale: Expr, *zero: Expr) -> Expr:
    """Fenced, so that no addition after it makes a fused multiply-add of it."""
    whole = cast(x, "int32") - cast(zero[0], "int32") if zero else cast(x, "int32")
    return call("fence", cast(whole, "float32") * scale)


def by_shorts(kind: Any, operands: list[Expr]) -> list[Expr]:
    """A dequantization's operands with x less its zero point for x, of 16 bits; others as they are.

    NEON widens bytes as it subtracts them.
    """
    if kind.name != "dequantize" or len(operands) < 3 or not of(operands[0]).endswith("int8"):
        return operands
    x, scale, zero = operands
    return [cast(x, "int16") - cast(zero, "int16"), scale]


def _lookup(kind: Any, x: Expr, first: Expr) -> Expr:
    """The byte that an 8-bit number stands for in a table, whose first element is given."""
    pointer = tvm.ir.PointerType(tvm.ir.PrimType(of(first)))
    start = tirx.op.Call("tirx.address_of", [first], ret_ty=pointer)
    return tirx.Cast(of(first), call("lookup", start, tirx.Cast("uint8", x)))


softplus = pair("softplus", _softplus64)


RULES: dict[str, Callable[..., Expr]] = {
    "abs": lambda k, x: x if of(x).startswith("uint") else tirx.abs(x),
    "neg": lambda k, x: x * like(x, -1) if is_float(x) else like(x, 0) - x,
    "exp": exp,
    "log": log,
    "sqrt": lambda k, x: tirx.sqrt(x),
    "reciprocal": lambda k, x: divide(like(x, 1), x),
    "floor": lambda k, x: tirx.floor(x) if is_float(x) else x,
    "ceil": lambda k, x: tirx.ceil(x) if is_float(x) else x,
    "round": _round,
    "sign": lambda k, x: sign(x),
    "sin": libm("sin"),
    "cos": libm("cos"),
    "tan": libm("tan"),
    "asin": libm("asin"),
    "acos": libm("acos"),
    "atan": libm("atan"),
    "sinh": libm("sinh"),
    "cosh": libm("cosh"),
    "asinh": libm("asinh"),
    "acosh": libm("acosh"),
    "atanh": libm("atanh"),
    "tanh": pair("tanh", lambda k, x: tirx.tanh(x)),
    "erf": pair("erf", lambda k, x: tirx.erf(x)),
    "sigmoid": pair("sigmoid", _sigmoid64),
    "relu": lambda k, x: bounded(x, 0, None),
    "softplus": softplus,
    "softsign": pair("softsign", lambda k, x: let(x, lambda x: x / (like(x, 1) + tirx.abs(x)))),
    "mish": pair("mish", lambda k, x: let(x, lambda x: x * tirx.tanh(_softplus64(None, x)))),
    "hard_swish": pair("hard_swish", _hard_swish64),
    "gelu": _gelu,
    "silu": _silu,
    "leaky_relu": lambda k, x: _leaky(x, like(x, k.alpha)),
    "elu": _elu,
    "hard_sigmoid": lambda k, x: bounded(like(x, k.alpha) * x + like(x, k.beta), 0, 1),
    "clip": lambda k, x: bounded(x, k.lo, k.hi),
    "identity": lambda k, x: x,
    "calibrated": lambda k, x: x,
    "cast": lambda k, x: bfloat.held(cast(x, tvm_dtype(k.to)), k.to),
    "not": lambda k, x: tirx.Not(cast(x, "bool")),
    "is_nan": lambda k, x: is_nan(x),
    "add": lambda k, a, b: a + b if of(a) != "bool" else tirx.any(a, b),
    "sub": lambda k, a, b: a - b,
    "mul": lambda k, a, b: a * b if of(a) != "bool" else tirx.all(a, b),
    "div": lambda k, a, b: divide(a, b),
    "pow": lambda k, a, b: power(a, b),
    "mod": lambda k, a, b: modulo(a, b, k.fmod),
    "min": lambda k, a, b: minimum(a, b),
    "max": lambda k, a, b: maximum(a, b),
    "prelu": lambda k, a, b: _leaky(a, b),
    "equal": lambda k, a, b: tirx.EQ(a, b) if of(a) != "bool" else tirx.Not(differ(a, b)),
    "less": lambda k, a, b: a < b,
    "less_equal": lambda k, a, b: a <= b,
    "greater": lambda k, a, b: a > b,
    "greater_equal": lambda k, a, b: a >= b,
    "and": lambda k, a, b: tirx.all(cast(a, "bool"), cast(b, "bool")),
    "or": lambda k, a, b: tirx.any(cast(a, "bool"), cast(b, "bool")),
    "xor": lambda k, a, b: differ(cast(a, "bool"), cast(b, "bool")),
    "where": lambda k, c, a, b: select(c, a, b),
    **dict.fromkeys(QUOTIENTS, _rounded),
    "dequantize": _dequantize,
    "lookup": _lookup,
}


def scalar(kind: OpKind, operands: list[Expr]) -> Expr:
    """The expression of an elementwise kind.

    Raises:
        UnsupportedError: there is no rule for it.
    """
    rule = RULES.get(kind.name)
    if rule is None:
        raise UnsupportedError(f"no expression for {kind.name}")
    return rule(kind, *operands)
