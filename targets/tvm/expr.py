# pyright: basic
# TVM ships no types.
"""Scalar expressions of the elementwise kinds: `scalar(kind, operands)`, one rule a kind.

Meaning is numpy's, as the kinds' `evaluate` says: NaN goes through min and max, integer division
truncates and is defined (though meaningless) for a zero divisor. Float32 transcendentals are those
of `vecmath`; the trigonometric and hyperbolic rest, and float64, call libm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import tirx

from graphopt.errors import UnsupportedError
from graphopt.ir.core import OpKind
from graphopt.ir.types import DType
from graphopt.ops.quant import limits
from graphopt.targets.tvm import bfloat
from graphopt.targets.tvm.bfloat import tvm_dtype
from graphopt.targets.tvm.intrinsics import call

Expr = Any


def of(x: Expr) -> str:
    """The element type of an expression, as TVM names it."""
    return str(x.ty.dtype)


def const(value: Any, dtype: str) -> Expr:
    """An immediate; a float bound of an integer type is rounded into the type."""
    if dtype == "bool":
        return tirx.const(bool(value), "bool")
    if dtype.startswith("float"):
        return tirx.const(float(value), dtype)
    info = np.iinfo(dtype)
    number = value if isinstance(value, int) else math.trunc(float(np.clip(value, -2e18, 2e18)))
    return tirx.const(min(max(int(number), int(info.min)), int(info.max)), dtype)


def like(x: Expr, value: Any) -> Expr:
    """An immediate of the type of x."""
    return const(value, of(x))


def is_float(x: Expr) -> bool:
    """Whether an expression is a float."""
    return of(x).startswith("float")


def cast(x: Expr, dtype: str) -> Expr:
    """Conversion as numpy's astype and ONNX Runtime's Cast.

    NaN is true. What an integer type can't hold (NaN too) becomes what x86's truncation makes of
    it, as in numpy and ONNX Runtime on x86; C++ and ONNX leave it undefined, so other CPUs differ.
    """
    if of(x) == dtype:
        return x
    if of(x) == "bool":
        return select(x, const(1, dtype), const(0, dtype))
    if not is_float(x):
        return let(x, lambda v: tirx.NE(v, like(v, 0))) if dtype == "bool" else tirx.Cast(dtype, x)
    if dtype == "bool":
        return magnitude(x) != 0
    if dtype in ("uint8", "int8", "uint16", "int16"):
        return tirx.Cast(dtype, tirx.Cast("int32", x))
    return let(x, lambda v: _unsigned(v, dtype)) if dtype[0] == "u" else tirx.Cast(dtype, x)


def _unsigned(x: Expr, dtype: str) -> Expr:
    """A float as uint32 or uint64: truncated as a signed one, the upper half moved down before."""
    signed, half = dtype[1:], 2 ** (31 if dtype == "uint32" else 63)
    low = tirx.Cast(dtype, tirx.Cast(signed, x))
    high = tirx.Cast(dtype, tirx.Cast(signed, x - like(x, half)))
    return select(x >= like(x, half), tirx.bitwise_xor(high, tirx.const(half, dtype)), low)


def let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """`body(value)` with the value computed once. Don't nest: TVM is exponential in the depth."""
    if isinstance(value, tirx.Var | tirx.IntImm | tirx.FloatImm):
        return body(value)
    var = tirx.Var("t", value.ty)
    return tirx.Let(var, value, body(var))


def select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """A choice where both sides are computed."""
    return tirx.Select(condition, yes, no)


def magnitude(x: Expr) -> Expr:
    """The bits of a float without its sign, an integer: 0 for zeros, above infinity's for NaN."""
    integer, mask = ("int64", 2**63 - 1) if of(x) == "float64" else ("int32", 2**31 - 1)
    return tirx.bitwise_and(tirx.reinterpret(integer, x), tirx.const(mask, integer))


def is_nan(x: Expr) -> Expr:
    """Whether a float is NaN, by its bits (`x != x` is folded away by TVM's simplifier)."""
    infinity = 0x7FF0000000000000 if of(x) == "float64" else 0x7F800000
    bits = magnitude(x)
    return bits > like(bits, infinity)


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger; NaN if either is."""
    if of(a) == "float32":
        return call("maximum", a, b)
    return _extreme(a, b, lambda x, y: x > y) if is_float(a) else tirx.max(a, b)


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller; NaN if either is."""
    if of(a) == "float32":
        return call("minimum", a, b)
    return _extreme(a, b, lambda x, y: x < y) if is_float(a) else tirx.min(a, b)


def _extreme(a: Expr, b: Expr, better: Callable[[Expr, Expr], Expr]) -> Expr:
    def body(a: Expr, b: Expr) -> Expr:
        return select(tirx.any(better(a, b), is_nan(a)), a, b)

    return let(a, lambda a: let(b, lambda b: body(a, b)))


def bounded(x: Expr, low: Any, high: Any) -> Expr:
    """min(max(x, low), high), NaN staying NaN; None is no bound."""
    if of(x) == "float32":
        if low is not None and high is not None:
            return call("clamp", x, like(x, low), like(x, high))
        y = x if low is None else call("at_least", x, like(x, low))
        return y if high is None else call("at_most", y, like(x, high))
    y = x if low is None else let(x, lambda v: select(v < like(v, low), like(v, low), v))
    return y if high is None else let(y, lambda v: select(v > like(v, high), like(v, high), v))


def divide(a: Expr, b: Expr) -> Expr:
    """a / b; of integers truncated, with divisors 0 and -1 kept from the trapping instruction."""
    if is_float(a):
        return a / b
    if of(a).startswith("uint"):
        return let(b, lambda b: tirx.truncdiv(a, select(b == like(b, 0), like(b, 1), b)))

    def body(a: Expr, b: Expr) -> Expr:
        safe = select(tirx.any(b == like(b, 0), b == like(b, -1)), like(b, 1), b)
        return select(b == like(b, -1), like(a, 0) - a, tirx.truncdiv(a, safe))

    return let(a, lambda a: let(b, lambda b: body(a, b)))


def modulo(a: Expr, b: Expr, fmod: bool) -> Expr:
    """The remainder, with the sign of a (fmod) or of b; 0 for an integer divisor 0."""
    if is_float(a):
        return _float_modulo(a, b, fmod)
    bad = (lambda b: b == like(b, 0)) if of(a).startswith("uint") else (
        lambda b: tirx.any(b == like(b, 0), b == like(b, -1)))  # fmt: skip

    def body(a: Expr, b: Expr) -> Expr:
        rest = tirx.truncmod(a, select(bad(b), like(b, 1), b))
        return rest if fmod or of(a).startswith("uint") else let(rest, lambda r: signed(r, b))

    def signed(r: Expr, b: Expr) -> Expr:
        off = tirx.all(r != like(r, 0), _differ(r < like(r, 0), b < like(b, 0)))
        return select(off, r + b, r)

    return let(a, lambda a: let(b, lambda b: body(a, b)))


def _float_modulo(a: Expr, b: Expr, fmod: bool) -> Expr:
    if fmod:
        return _libm("fmod")(None, a, b)

    def signed(r: Expr, b: Expr) -> Expr:
        off = tirx.all(r != like(r, 0), _differ(r < like(r, 0), b < like(b, 0)))
        return select(off, r + b, r)

    return let(b, lambda b: let(_libm("fmod")(None, a, b), lambda r: signed(r, b)))


def power(a: Expr, b: Expr) -> Expr:
    """a ^ b; small constant exponents as products and roots, else libm."""
    exponent = b.value if isinstance(b, tirx.FloatImm | tirx.IntImm) else None
    if is_float(a) and exponent is not None and float(exponent) in _POWERS:
        return let(a, _POWERS[float(exponent)])
    if is_float(a):
        return tirx.pow(a, cast(b, of(a)))
    return cast(tirx.pow(cast(a, "float64"), cast(b, "float64")), of(a))


_POWERS: dict[float, Callable[[Expr], Expr]] = {
    0.5: lambda x: tirx.sqrt(x),
    1.0: lambda x: x,
    2.0: lambda x: x * x,
    3.0: lambda x: x * x * x,
    4.0: lambda x: let(x * x, lambda y: y * y),
    -1.0: lambda x: like(x, 1) / x,
    -2.0: lambda x: like(x, 1) / (x * x),
}


def sign(x: Expr) -> Expr:
    """-1, 0 or 1; NaN stays NaN."""

    def body(x: Expr) -> Expr:
        y = select(x > like(x, 0), like(x, 1), select(x < like(x, 0), like(x, -1), like(x, 0)))
        return select(is_nan(x), x, y) if is_float(x) else y

    return x if of(x).startswith("uint") else let(x, body)


def _pair(name: str, double: Callable[[Any, Expr], Expr]) -> Callable[[Any, Expr], Expr]:
    """Our function for float32, another expression for float64."""
    return lambda kind, x: call(name, x) if of(x) == "float32" else double(kind, x)


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


def _quantize(kind: Any, x: Expr, scale: Expr, *zero: Expr) -> Expr:
    return _saturated(x / scale, zero, kind.dtype)


def _requantize(kind: Any, x: Expr, scale: Expr, *zero: Expr) -> Expr:
    return _saturated(cast(x, "float32") * scale, zero, kind.dtype)


def _dequantize(kind: Any, x: Expr, scale: Expr, *zero: Expr) -> Expr:
    """Fenced, so that no addition after it makes a fused multiply-add of it."""
    whole = cast(x, "int32") - cast(zero[0], "int32") if zero else cast(x, "int32")
    return call("fence", cast(whole, "float32") * scale)


def _lookup(kind: Any, x: Expr, first: Expr) -> Expr:
    """The byte that an 8-bit number stands for in a table, whose first element is given."""
    pointer = tvm.ir.PointerType(tvm.ir.PrimType(of(first)))
    start = tirx.op.Call("tirx.address_of", [first], ret_ty=pointer)
    return tirx.Cast(of(first), call("lookup", start, tirx.Cast("uint8", x)))


exp = _pair("exp", lambda k, x: tirx.exp(x))
log = _pair("log", lambda k, x: tirx.log(x))
softplus = _pair("softplus", _softplus64)


def _libm(name: str) -> Callable[..., Expr]:
    """A scalar call of the C library (TVM's own series for some of these are not accurate)."""

    def call(kind: Any, *operands: Expr) -> Expr:
        dtype = of(operands[0])
        symbol = name + ("f" if dtype == "float32" else "")
        return tirx.call_pure_extern(dtype, symbol, *operands)

    return call


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
    "sin": _libm("sin"),
    "cos": _libm("cos"),
    "tan": _libm("tan"),
    "asin": _libm("asin"),
    "acos": _libm("acos"),
    "atan": _libm("atan"),
    "sinh": _libm("sinh"),
    "cosh": _libm("cosh"),
    "asinh": _libm("asinh"),
    "acosh": _libm("acosh"),
    "atanh": _libm("atanh"),
    "tanh": _pair("tanh", lambda k, x: tirx.tanh(x)),
    "erf": _pair("erf", lambda k, x: tirx.erf(x)),
    "sigmoid": _pair("sigmoid", _sigmoid64),
    "relu": lambda k, x: bounded(x, 0, None),
    "softplus": softplus,
    "softsign": _pair("softsign", lambda k, x: let(x, lambda x: x / (like(x, 1) + tirx.abs(x)))),
    "mish": _pair("mish", lambda k, x: let(x, lambda x: x * tirx.tanh(_softplus64(None, x)))),
    "hard_swish": _pair("hard_swish", _hard_swish64),
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
    "equal": lambda k, a, b: tirx.EQ(a, b) if of(a) != "bool" else tirx.Not(_differ(a, b)),
    "less": lambda k, a, b: a < b,
    "less_equal": lambda k, a, b: a <= b,
    "greater": lambda k, a, b: a > b,
    "greater_equal": lambda k, a, b: a >= b,
    "and": lambda k, a, b: tirx.all(cast(a, "bool"), cast(b, "bool")),
    "or": lambda k, a, b: tirx.any(cast(a, "bool"), cast(b, "bool")),
    "xor": lambda k, a, b: _differ(cast(a, "bool"), cast(b, "bool")),
    "where": lambda k, c, a, b: select(c, a, b),
    "quantize": _quantize,
    "requantize": _requantize,
    "dequantize": _dequantize,
    "lookup": _lookup,
}


def _differ(a: Expr, b: Expr) -> Expr:
    """a != b of bools (which LLVM's code generator lacks for TVM's `!=`)."""
    return tirx.any(tirx.all(a, tirx.Not(b)), tirx.all(tirx.Not(a), b))


def scalar(kind: OpKind, operands: list[Expr]) -> Expr:
    """The expression of an elementwise kind.

    Raises:
        UnsupportedError: there is no rule for it.
    """
    rule = RULES.get(kind.name)
    if rule is None:
        raise UnsupportedError(f"no expression for {kind.name}")
    return rule(kind, *operands)
