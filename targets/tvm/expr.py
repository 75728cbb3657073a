# pyright: basic
# TVM ships no types.
"""Arithmetic on scalar expressions: what the formulas of kinds and the kernels are made of.

Meaning is numpy's: NaN goes through min and max, integer division truncates and is defined (though
meaningless) for a zero divisor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx

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
        off = tirx.all(r != like(r, 0), differ(r < like(r, 0), b < like(b, 0)))
        return select(off, r + b, r)

    return let(a, lambda a: let(b, lambda b: body(a, b)))


def _float_modulo(a: Expr, b: Expr, fmod: bool) -> Expr:
    if fmod:
        return libm("fmod")(None, a, b)

    def signed(r: Expr, b: Expr) -> Expr:
        off = tirx.all(r != like(r, 0), differ(r < like(r, 0), b < like(b, 0)))
        return select(off, r + b, r)

    return let(b, lambda b: let(libm("fmod")(None, a, b), lambda r: signed(r, b)))


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


def libm(name: str) -> Callable[..., Expr]:
    """A scalar call of the C library (TVM's own series for some of these are not accurate)."""

    def called(kind: Any, *operands: Expr) -> Expr:
        dtype = of(operands[0])
        symbol = name + ("f" if dtype == "float32" else "")
        return tirx.call_pure_extern(dtype, symbol, *operands)

    return called


def differ(a: Expr, b: Expr) -> Expr:
    """a != b of bools (which LLVM's code generator lacks for TVM's `!=`)."""
    return tirx.any(tirx.all(a, tirx.Not(b)), tirx.all(tirx.Not(a), b))


def pair(name: str, double: Callable[[Any, Expr], Expr]) -> Callable[[Any, Expr], Expr]:
    """Our function for float32, another expression for float64."""
    return lambda kind, x: call(name, x) if of(x) == "float32" else double(kind, x)


exp = pair("exp", lambda k, x: tirx.exp(x))
log = pair("log", lambda k, x: tirx.log(x))
