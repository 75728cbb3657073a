"""Float32 functions as LLVM IR: straight-line arithmetic on vectors, inlined into the kernels.

A call of libm in each lane is some ten times slower. Written as TIR expressions these functions
would need `Let` for every value used twice, and TVM 0.27's passes are exponential in the depth of
nested `Let`s; as LLVM functions they are one call in TIR, and LLVM sees through it.

The polynomials are Lawson-weighted least-squares fits at Chebyshev nodes, made in float64 with
numpy. Errors stated are relative ones of the whole function, tested over dense samples by
tests/targets/test_kernels.py. NaN goes through every function.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from graphopt.targets.machine import Machine

WIDTHS = (1, 2, 4, 8, 16, 32, 64)
SCALE = "llvm.x86.avx512.mask.scalef.ps"
SCALEF = {4: ("128", "i8 -1"), 8: ("256", "i8 -1"), 16: ("512", "i16 -1, i32 4")}  # all lanes

EXP = (0.4999999344756051, 0.16666520629440001, 0.041668388092641014, 0.008368717090779037,
       0.0013814596385067802)  # fmt: skip
EXPM1 = (0.5000000416837224, 0.1666666801342099, 0.04166531547106657, 0.008333073004554284,
         0.001399745676060867, 0.00019992896294929733)  # fmt: skip
TANH_OVER = (0.9999999794944221, 0.13381039137330433, 0.0034956033945165283, 2.060930356433227e-05,
             1.3354913348502498e-08)  # fmt: skip
TANH_UNDER = (1.0, 0.467143547592647, 0.025877042257992307, 0.0003285658480937876,
              7.776672870354996e-07)  # fmt: skip
GELU = (0.09973397486678373, 0.044779574041065105, 0.00861353844956675, 0.0009545160325602421,
        0.00012852941907527237, 9.130291583097013e-05, -1.5554890171710734e-05,
        2.8411490308012135e-06)  # fmt: skip
ERF = (0.12837916591375104, -0.3761262713596558, 0.11283600176257155, -0.026854444591937095,
       0.0051895353394302915, -0.0008020841280707113, 7.889119535143635e-05)  # fmt: skip
ERFC = (0.0002564366565342979, 1.1274261249396595, 0.637599970635995, 0.10356695459779723,
        -0.022052029061337217, 0.002999549037114388, -0.00019150503131967376)  # fmt: skip
LOG = (0.3333331672746399, -0.2500081042803518, 0.20002286084073956, -0.16624553144799278,
       0.14181196113701244, -0.13128767629099442, 0.12881622393540723,
       -0.0785954587360098)  # fmt: skip
ROUND, ROUND_BITS = 1.5 * 2.0**23, 0x4B400000  # float32 from here on to 2^24 are integers
LOWEST = -86.6  # e^x is 2^-125 here
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440054690583e-4  # the sum is ln 2; the first is exact


@dataclass
class Body:
    """The instructions of one function of a vector width; `avx512`: it may use AVX-512 VL.

    `extremes`: the machine's maximum and minimum of two numbers are NaN where one is (NEON's).
    """

    width: int
    avx512: bool = False
    extremes: bool = False
    lines: list[str] = field(default_factory=list[str])

    def type(self, scalar: str) -> str:
        """The LLVM type of a vector of scalars."""
        return scalar if self.width == 1 else f"<{self.width} x {scalar}>"

    def emit(self, text: str) -> str:
        """Add an instruction; give the name of its result."""
        name = f"%v{len(self.lines)}"
        self.lines.append(f"  {name} = {text}")
        return name

    def literal(self, scalar: str, text: str) -> str:
        """A constant in every lane."""
        return text if self.width == 1 else f"splat ({scalar} {text})"

    def call(self, function: str, result: str, *args: str) -> str:
        """Call an intrinsic whose name ends in the vector type; args are `type name`."""
        return self.emit(f"call {self.type(result)} @{function}({', '.join(args)})")


@dataclass(frozen=True)
class Number:
    """A vector of float32 or int32 in a function's body."""

    body: Body
    name: str
    scalar: str = "float"

    def like(self, other: Number | float) -> str:
        """The text of an operand: a constant takes this number's type."""
        if isinstance(other, Number):
            return other.name
        integer = self.scalar == "i32"
        return self.body.literal(self.scalar, str(other) if integer else hexadecimal(other))

    def _op(self, floats: str, integers: str, a: str, b: str) -> Number:
        what = f"{floats} contract" if self.scalar == "float" else integers
        kind = self.body.type(self.scalar)
        return Number(self.body, self.body.emit(f"{what} {kind} {a}, {b}"), self.scalar)

    def __add__(self, other: Number | float) -> Number:
        return self._op("fadd", "add", self.name, self.like(other))

    def __sub__(self, other: Number | float) -> Number:
        return self._op("fsub", "sub", self.name, self.like(other))

    def __rsub__(self, other: float) -> Number:
        return self._op("fsub", "sub", self.like(other), self.name)

    def __mul__(self, other: Number | float) -> Number:
        return self._op("fmul", "mul", self.name, self.like(other))

    def __truediv__(self, other: Number | float) -> Number:
        return self._op("fdiv", "sdiv", self.name, self.like(other))

    def __rtruediv__(self, other: float) -> Number:
        return self._op("fdiv", "sdiv", self.like(other), self.name)

    def shift(self, how: str, count: int) -> Number:
        """Shift an int32: shl, ashr."""
        return self._op("", how, self.name, str(self.like(count)))

    def compare(self, how: str, other: Number | float) -> str:
        """A vector of i1: olt, ogt, oeq, oge, uno."""
        kind = self.body.type(self.scalar)
        return self.body.emit(f"fcmp {how} {kind} {self.name}, {self.like(other)}")

    def unary(self, intrinsic: str) -> Number:
        """An LLVM intrinsic such as floor, fabs."""
        kind = self.body.type("float")
        suffix = "f32" if self.body.width == 1 else f"v{self.body.width}f32"
        return Number(self.body, self.body.call(f"llvm.{intrinsic}.{suffix}", "float",
                                                f"{kind} {self.name}"))  # fmt: skip

    def fused(self, factor: Number, added: Number) -> Number:
        """This times a factor, plus another, rounded once."""
        kind = self.body.type("float")
        suffix = "f32" if self.body.width == 1 else f"v{self.body.width}f32"
        given = (f"{kind} {n.name}" for n in (self, factor, added))
        return Number(self.body, self.body.call(f"llvm.fma.{suffix}", "float", *given))

    def extreme(self, intrinsic: str, other: Number | float) -> Number:
        """LLVM's maximum or minimum of two, NaN where one is."""
        kind = self.body.type("float")
        suffix = "f32" if self.body.width == 1 else f"v{self.body.width}f32"
        both = (f"{kind} {self.name}", f"{kind} {self.like(other)}")
        return Number(self.body, self.body.call(f"llvm.{intrinsic}.{suffix}", "float", *both))

    def scaled(self, n: Number) -> Number:
        """This times 2^n, n integral, in one instruction of AVX-512."""
        suffix, rest = SCALEF[self.body.width]
        kind = self.body.type("float")
        args = [f"{kind} {self.name}", f"{kind} {n.name}", f"{kind} zeroinitializer", rest]
        return Number(self.body, self.body.call(f"{SCALE}.{suffix}", "float", *args))

    def convert(self, how: str, scalar: str) -> Number:
        """Another type: fptosi, sitofp, bitcast."""
        a, b = self.body.type(self.scalar), self.body.type(scalar)
        return Number(self.body, self.body.emit(f"{how} {a} {self.name} to {b}"), scalar)


def hexadecimal(value: float) -> str:
    """A float32 constant as LLVM writes it: the bits of the double of the same value."""
    single = struct.unpack("f", struct.pack("f", value))[0]
    return f"0x{struct.pack('>d', single).hex().upper()}"


def choose(condition: str, yes: Number | float, no: Number | float) -> Number:
    """A choice lane by lane; at least one side is a Number."""
    one = yes if isinstance(yes, Number) else no
    assert isinstance(one, Number)
    body, kind = one.body, one.body.type(one.scalar)
    a, b = one.like(yes), one.like(no)
    text = f"select {body.type('i1')} {condition}, {kind} {a}, {kind} {b}"
    return Number(body, body.emit(text), one.scalar)


def horner(x: Number, coefficients: Sequence[float]) -> Number:
    """The polynomial with the constant term first."""
    total = x * coefficients[-1] + coefficients[-2]
    for c in reversed(coefficients[:-2]):
        total = total * x + c
    return total


def at_least(x: Number, low: Number | float) -> Number:
    """max(x, low), NaN staying NaN."""
    if x.body.extremes:
        return maximum(x, low)
    return choose(x.compare("olt", low), low, x)


def at_most(x: Number, high: Number | float) -> Number:
    """min(x, high), NaN staying NaN."""
    if x.body.extremes:
        return minimum(x, high)
    return choose(x.compare("ogt", high), high, x)


def clamp(x: Number, low: Number | float, high: Number | float) -> Number:
    """min(max(x, low), high), NaN staying NaN."""
    return at_most(at_least(x, low), high)


def power_of_two(n: Number) -> Number:
    """2^n of an int32 in [-126, 127]."""
    return (n + 127).shift("shl", 23).convert("bitcast", "float")


def exp(x: Number) -> Number:
    """e^x to 2e-7; inf above float32's largest number, 0 below 2.4e-38.

    x = n ln 2 + r with |r| <= ln 2 / 2. A sum with ROUND has n in its last bits. 2^n is taken as
    2 * 2^(n-1), so that n = 128 works, unless the machine has an instruction for it. No denormal
    is made: they cost processors a hundred cycles.
    """
    tiny = x.compare("olt", LOWEST)
    x = clamp(x, LOWEST, 89.0)
    t = x * 1.4426950408889634 + ROUND
    n = t - ROUND
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    value = horner(r, EXP) * (r * r) + r + 1.0
    if x.body.avx512 and x.body.width in SCALEF:
        return choose(tiny, 0.0, value.scaled(n))
    k = t.convert("bitcast", "i32") - (ROUND_BITS + 1)
    return choose(tiny, 0.0, (value + value) * power_of_two(k))


def expm1(x: Number) -> Number:
    """e^x - 1 to 3e-7."""
    near = horner(x, EXPM1) * (x * x) + x
    return choose(x.unary("fabs").compare("olt", 0.5), near, exp(x) - 1.0)


def sigmoid(x: Number) -> Number:
    """1 / (1 + e^-x) to 3e-7."""
    return 1.0 / (exp(0.0 - x) + 1.0)


def tanh(x: Number) -> Number:
    """To 3e-7: x P(x^2) / Q(x^2), which is 1 up to rounding at 9."""
    x = clamp(x, -9.0, 9.0)
    z = x * x
    return clamp(x * horner(z, TANH_OVER) / horner(z, TANH_UNDER), -1.0, 1.0)


def erf(x: Number) -> Number:
    """To 3e-7: an odd polynomial below 1, else 1 - e^-p(|x|)."""
    size = x.unary("fabs")
    near = horner(x * x, ERF) * x + x
    far = 1.0 - exp(0.0 - horner(at_most(size, 4.0), ERFC))
    signed = choose(x.compare("olt", 0.0), 0.0 - far, far)
    return choose(size.compare("olt", 1.0), near, signed)


def log(x: Number) -> Number:
    """ln x to 2e-7 (absolutely so near 1); -inf at 0, NaN below, inf at inf.

    x = m 2^e with m in [1/sqrt 2, sqrt 2); denormals are scaled up first.
    """
    tiny = x.compare("olt", 1.1754943508222875e-38)
    bits = choose(tiny, x * 2.0**23, x).convert("bitcast", "i32")
    e = (bits - 0x3F3504F3).shift("ashr", 23)  # the bits of sqrt(1/2): e rounds at sqrt 2
    f = (bits - e.shift("shl", 23)).convert("bitcast", "float") - 1.0
    scaled = e.convert("sitofp", "float")
    p = choose(tiny, scaled - 23.0, scaled)
    z = f * f
    y = horner(f, LOG) * (z * f) - z * 0.5 + p * LN2_LOW + f + p * LN2_HIGH
    y = choose(x.compare("oeq", 0.0), float("-inf"), y)
    y = choose(x.compare("olt", 0.0), float("nan"), y)
    y = choose(x.compare("ogt", 3.4028234663852886e38), x, y)
    return choose(x.compare("uno", 0.0), x, y)


def softplus(x: Number) -> Number:
    """ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|), to 3e-7."""
    u = exp(0.0 - x.unary("fabs"))
    w = u + 1.0
    rest = choose(w.compare("oeq", 1.0), u, log(w) * (u / (w - 1.0)))  # undoes the rounding of w
    return at_least(x, 0.0) + rest


def gelu(x: Number) -> Number:
    """x * Phi(x) = (x + |x|) / 2 - |x| Phi(-|x|) to 3e-7 absolutely, Phi(-t) being 1 / (2 P(t)^8).

    The form is that of Abramowitz and Stegun 7.1.28; P^8 is infinite long before t is.
    """
    half = x * 0.5
    size = at_most(x.unary("fabs"), 1e4)
    p = horner(size, GELU) * size + 1.0
    p = p * p
    p = p * p
    return half + half.unary("fabs") - size * 0.5 / (p * p)


def gelu_tanh(x: Number) -> Number:
    """The tanh approximation of gelu (arXiv 1606.08415, section 2): x * sigmoid(2 * inner)."""
    inner = (x * x * 0.044715 + 1.0) * x
    return x / (exp(inner * (-2 * 0.7978845608028654)) + 1.0)


def mish(x: Number) -> Number:
    """x * tanh(softplus(x)) = x * n / (n + 2), n = u^2 + 2u, u = e^x."""
    u = exp(at_most(x, 30.0))
    n = u * (u + 2.0)
    return x * (n / (n + 2.0))


def silu(x: Number, alpha: Number) -> Number:
    """x * sigmoid(alpha * x)."""
    return x * sigmoid(alpha * x)


def elu(x: Number, alpha: Number) -> Number:
    """x where x >= 0, else alpha * (e^x - 1)."""
    return choose(x.compare("oge", 0.0), x, alpha * expm1(x))


def hard_swish(x: Number) -> Number:
    """x * clip(x/6 + 1/2, 0, 1)."""
    return x * clamp(x * (1 / 6) + 0.5, 0.0, 1.0)


def softsign(x: Number) -> Number:
    """x / (1 + |x|)."""
    return x / (x.unary("fabs") + 1.0)


def leaky(x: Number, slope: Number) -> Number:
    """x where x >= 0, else slope * x; NaN stays NaN."""
    return choose(x.compare("oge", 0.0), x, slope * x)


def maximum(a: Number, b: Number | float) -> Number:
    """The larger; NaN if either is."""
    if a.body.extremes:
        return a.extreme("maximum", b)
    larger = choose(a.compare("ogt", b), a, b)
    return choose(a.compare("uno", 0.0), a, larger)


def minimum(a: Number, b: Number | float) -> Number:
    """The smaller; NaN if either is."""
    if a.body.extremes:
        return a.extreme("minimum", b)
    smaller = choose(a.compare("olt", b), a, b)
    return choose(a.compare("uno", 0.0), a, smaller)


def multiplied(x: Number, inverse: Number, rest: Number) -> Number:
    """x * inverse + x * rest, the sum rounded once (see `ops.inverse`)."""
    return x.fused(inverse, x * rest)


FUNCTIONS: dict[str, tuple[int, Callable[..., Number]]] = {
    "exp": (1, exp), "expm1": (1, expm1), "sigmoid": (1, sigmoid), "tanh": (1, tanh),
    "erf": (1, erf), "log": (1, log), "softplus": (1, softplus), "gelu": (1, gelu),
    "gelu_tanh": (1, gelu_tanh), "mish": (1, mish), "silu": (2, silu), "elu": (2, elu),
    "hard_swish": (1, hard_swish), "softsign": (1, softsign), "leaky": (2, leaky),
    "at_least": (2, at_least), "at_most": (2, at_most), "clamp": (3, clamp),
    "maximum": (2, maximum), "minimum": (2, minimum), "multiplied": (3, multiplied),
}  # fmt: skip


def symbol(name: str, width: int) -> str:
    """The LLVM name of a function for a vector width."""
    return f"graphopt_{name}_{width}"


def define(name: str, width: int, avx512: bool = False, extremes: bool = False) -> str:
    """The LLVM IR of one function."""
    count, function = FUNCTIONS[name]
    body = Body(width, avx512, extremes)
    args = [Number(body, f"%a{i}") for i in range(count)]
    result = function(*args)
    kind = body.type("float")
    given = ", ".join(f"{kind} {a.name}" for a in args)
    head = f"define internal {kind} @{symbol(name, width)}({given}) alwaysinline {{"
    return "\n".join([head, *body.lines, f"  ret {kind} {result.name}", "}"])


def module(names: Sequence[str], machine: Machine) -> str:
    """The LLVM IR of functions in every width, with the intrinsics they use declared."""
    avx512 = "avx512vl" in machine.cpu_features
    extremes = machine.arch == "aarch64"
    text = "\n".join(define(n, w, avx512, extremes) for n in names for w in WIDTHS)
    declared: list[str] = []
    called = {"floor": 1, "fabs": 1, "fma": 3, **({"maximum": 2, "minimum": 2} if extremes else {})}
    for intrinsic, operands in called.items():
        for w in WIDTHS:
            kind, suffix = Body(w).type("float"), "f32" if w == 1 else f"v{w}f32"
            given = ", ".join([kind] * operands)
            declared.append(f"declare {kind} @llvm.{intrinsic}.{suffix}({given})")
    for w, (suffix, rest) in SCALEF.items() if avx512 else ():
        kind = Body(w).type("float")
        more = ", ".join(part.split()[0] for part in rest.split(", "))
        declared.append(f"declare {kind} @{SCALE}.{suffix}({kind}, {kind}, {kind}, {more})")
    return "\n".join([*declared, text]) + "\n"
