# pyright: basic
# TVM ships no types.
"""Float32 functions as straight-line arithmetic, so that LLVM vectorizes them (libm calls are not).

The polynomials are Lawson-weighted least-squares fits at Chebyshev nodes, made in float64 with
numpy; the error bounds stated are relative ones of the whole function in float32, measured over
dense samples by tests/targets/test_kernels.py. NaN goes through every function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

Expr = Any

EXP = (0.4999999344756051, 0.16666520629440001, 0.041668388092641014, 0.008368717090779037,
       0.0013814596385067802)  # fmt: skip
EXPM1 = (0.5000000416837224, 0.1666666801342099, 0.04166531547106657, 0.008333073004554284,
         0.001399745676060867, 0.00019992896294929733)  # fmt: skip
TANH = (-0.33333283923590684, 0.13331491248514074, -0.05374349526136522, 0.02065057900369153,
        -0.005717036561292129)  # fmt: skip
ERF = (0.12837916591375104, -0.3761262713596558, 0.11283600176257155, -0.026854444591937095,
       0.0051895353394302915, -0.0008020841280707113, 7.889119535143635e-05)  # fmt: skip
ERFC = (0.0002564366565342979, 1.1274261249396595, 0.637599970635995, 0.10356695459779723,
        -0.022052029061337217, 0.002999549037114388, -0.00019150503131967376)  # fmt: skip
LOG = (0.3333331672746399, -0.2500081042803518, 0.20002286084073956, -0.16624553144799278,
       0.14181196113701244, -0.13128767629099442, 0.12881622393540723,
       -0.0785954587360098)  # fmt: skip
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440054690583e-4  # the sum is ln 2; the first is exact


def f32(value: float) -> Expr:
    """A float32 constant."""
    return tirx.const(value, "float32")


def i32(value: int) -> Expr:
    """An int32 constant."""
    return tirx.const(value, "int32")


def let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """`body(value)` with the value computed once, however often the body uses it."""
    if isinstance(value, tirx.Var | tirx.IntImm | tirx.FloatImm):
        return body(value)
    var = tirx.Var("t", value.ty)
    return tirx.Let(var, value, body(var))


def horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    """The polynomial with the constant term first."""
    total = f32(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * x + f32(c)
    return total


def select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """A choice where both sides are computed."""
    return tirx.Select(condition, yes, no)


def clamp(x: Expr, low: Expr, high: Expr) -> Expr:
    """min(max(x, low), high), NaN staying NaN."""
    floor = select(x < low, low, x)
    return let(floor, lambda y: select(y > high, high, y))


def power_of_two(n: Expr) -> Expr:
    """2^n of an int32 in [-126, 127]."""
    return tirx.reinterpret("float32", tirx.shift_left(n + i32(127), i32(23)))


def exp(x: Expr) -> Expr:
    """e^x to 2e-7; overflows to inf, and goes through the denormals to 0.

    x = n ln 2 + r with |r| <= ln 2 / 2, and 2^n in two factors so that n = 128 and n < -126 work.
    """

    def scaled(x: Expr) -> Expr:
        n = tirx.floor(x * f32(1.4426950408889634) + f32(0.5))
        return let(n, lambda n: reduced(x, n))

    def reduced(x: Expr, n: Expr) -> Expr:
        r = (x - n * f32(LN2_HIGH)) - n * f32(LN2_LOW)
        value = let(r, lambda r: horner(r, EXP) * (r * r) + r + f32(1))
        return let(tirx.Cast("int32", n), lambda k: halves(value, k))

    def halves(value: Expr, k: Expr) -> Expr:
        low = tirx.shift_right(k, i32(1))
        return let(low, lambda h: value * power_of_two(h) * power_of_two(k - h))

    return let(x, lambda x: let(clamp(x, f32(-104), f32(89)), scaled))


def expm1(x: Expr) -> Expr:
    """e^x - 1 to 3e-7."""
    return let(
        x,
        lambda x: select(
            tirx.abs(x) < f32(0.5), horner(x, EXPM1) * (x * x) + x, exp(x) - f32(1)
        ),
    )


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e^-x) to 3e-7."""
    return f32(1) / (f32(1) + exp(f32(0) - x))


def tanh(x: Expr) -> Expr:
    """To 3e-7: an odd polynomial below 0.625, else 1 - 2 / (e^2|x| + 1)."""

    def body(x: Expr) -> Expr:
        near = let(x * x, lambda z: horner(z, TANH) * (z * x) + x)
        far = f32(1) - f32(2) / (exp(tirx.abs(x) * f32(2)) + f32(1))
        signed = let(far, lambda y: select(x < f32(0), f32(0) - y, y))
        return select(tirx.abs(x) < f32(0.625), near, signed)

    return let(x, body)


def erf(x: Expr) -> Expr:
    """To 3e-7: an odd polynomial below 1, else 1 - e^-p(|x|)."""

    def body(x: Expr) -> Expr:
        near = let(x * x, lambda z: horner(z, ERF) * x + x)
        size = clamp(tirx.abs(x), f32(0), f32(4))
        far = let(size, lambda t: f32(1) - exp(f32(0) - horner(t, ERFC)))
        signed = let(far, lambda y: select(x < f32(0), f32(0) - y, y))
        return select(tirx.abs(x) < f32(1), near, signed)

    return let(x, body)


def log(x: Expr) -> Expr:
    """ln x to 2e-7 (absolutely so near 1); -inf at 0, NaN below, inf at inf.

    x = m 2^e with m in [1/sqrt 2, sqrt 2); denormals are scaled up first.
    """

    def body(x: Expr) -> Expr:
        tiny = x < f32(1.1754943508222875e-38)
        bits = tirx.reinterpret("int32", select(tiny, x * f32(2.0**23), x))
        return let(bits, lambda b: parts(x, b, select(tiny, i32(127 + 23), i32(127))))

    def parts(x: Expr, bits: Expr, bias: Expr) -> Expr:
        shifted = bits - i32(0x3F3504F3)  # the bits of sqrt(1/2): e rounds at sqrt 2
        e = tirx.shift_right(shifted, i32(23))
        m = tirx.reinterpret("float32", bits - tirx.shift_left(e, i32(23)))
        power = tirx.Cast("float32", e + i32(127) - bias)
        return let(m - f32(1), lambda f: let(power, lambda p: result(x, f, p)))

    def result(x: Expr, f: Expr, p: Expr) -> Expr:
        tail = let(f * f, lambda z: horner(f, LOG) * (z * f) - z * f32(0.5))
        y = tail + p * f32(LN2_LOW) + f + p * f32(LN2_HIGH)
        y = select(x == f32(0), f32(float("-inf")), y)
        y = select(x < f32(0), f32(float("nan")), y)
        return select(tirx.any(x > f32(3.4028234663852886e38), is_nan(x)), x, y)

    return let(x, body)


def softplus(x: Expr) -> Expr:
    """ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|), to 3e-7 (absolutely so for large negative x)."""

    def body(x: Expr) -> Expr:
        small = exp(f32(0) - tirx.abs(x))
        rest = let(small, log1p)
        return select(x < f32(0), f32(0), x) + rest

    return let(x, body)


def log1p(u: Expr) -> Expr:
    """ln(1 + u) for 0 <= u <= 1, corrected for the rounding of 1 + u."""

    def corrected(u: Expr, w: Expr) -> Expr:
        return select(w == f32(1), u, log(w) * (u / (w - f32(1))))

    return let(f32(1) + u, lambda w: corrected(u, w))


def is_nan(x: Expr) -> Expr:
    """Whether a float is NaN, by its bits (`x != x` is folded away by TVM's simplifier)."""
    wide = str(x.ty.dtype) == "float64"
    integer = "int64" if wide else "int32"
    top = 0x7FF0000000000000 if wide else 0x7F800000
    mask = 0x7FFFFFFFFFFFFFFF if wide else 0x7FFFFFFF
    bits = tirx.reinterpret(integer, x)
    return tirx.bitwise_and(bits, tirx.const(mask, integer)) > tirx.const(top, integer)
