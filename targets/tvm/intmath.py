"""Functions on 32-bit words as LLVM IR, next to those of `vecmath`: what int8 kernels need.

A word holds the bytes of four channels, the first in its lowest byte, or the bfloat16 numbers of
two.
"""

from __future__ import annotations

from graphopt.targets.machine import Machine
from graphopt.targets.tvm import neon, packmath, rowmath, tablemath
from graphopt.targets.tvm.typed import Function, declare_nothing
from graphopt.targets.tvm.vecmath import Body, symbol

VNNI = {16: "512", 8: "256", 4: "128"}  # lanes: bits, in the names of the dot product's intrinsics
LOW_BYTES = str(0x00FF00FF)  # bytes 0 and 2 of a word


def has_vnni(machine: Machine, width: int) -> bool:
    """Whether the machine multiplies u8 by s8 and sums four products in one instruction."""
    features = machine.cpu_features
    wide = "avx512_vnni" in features and (width == 16 or "avx512vl" in features)
    return width in VNNI and (wide or ("avx_vnni" in features and width <= 8))


def _dot(b: Body, machine: Machine) -> str:
    """acc + sum over four bytes of u8 x (of NEON s8) times s8 w, never saturating."""
    if neon.is_neon(machine):
        vectors = b.width >= neon.LANES and neon.has_dot(machine)
        return neon.dot(b) if vectors else _dot_bytes(b, signed=True)
    word, count = b.type("i32"), b.width
    if has_vnni(machine, count):
        data = f"<{4 * count} x i8>"
        x = b.emit(f"bitcast {word} %a1 to {data}")
        w = b.emit(f"bitcast {word} %a2 to {data}")
        name = f"llvm.x86.avx512.vpdpbusd.{VNNI[count]}"
        return b.emit(f"call {word} @{name}({word} %a0, {data} {x}, {data} {w})")
    pairs = multiply_pairs(machine, count)
    return _dot_pairs(b, pairs) if pairs else _dot_bytes(b)


def multiply_pairs(machine: Machine, width: int) -> str:
    """The intrinsic that multiplies 16-bit integers and sums pairs; empty where there is none."""
    known = {8: ("avx2", "avx2.pmadd.wd"), 16: ("avx512bw", "avx512.pmaddw.d.512"),
             4: ("ssse3", "sse2.pmadd.wd")}  # fmt: skip
    feature, name = known.get(width, ("", ""))
    return f"llvm.x86.{name}" if feature in machine.cpu_features else ""


def _dot_pairs(b: Body, intrinsic: str) -> str:
    """By products of 16-bit integers summed in pairs: bytes 0 and 2, then 1 and 3."""
    half, word = f"<{2 * b.width} x i16>", b.type("i32")
    low, eight = b.literal("i32", LOW_BYTES), "splat (i16 8)"
    x_high = b.emit(f"lshr {word} %a1, {b.literal('i32', '8')}")
    x = [b.emit(f"and {word} {v}, {low}") for v in ("%a1", x_high)]
    x16 = [b.emit(f"bitcast {word} {v} to {half}") for v in x]
    w = b.emit(f"bitcast {word} %a2 to {half}")
    up = b.emit(f"shl {half} {w}, {eight}")
    w16 = [b.emit(f"ashr {half} {v}, {eight}") for v in (up, w)]
    total = "%a0"
    for left, right in zip(x16, w16, strict=True):
        pair = b.emit(f"call {word} @{intrinsic}({half} {left}, {half} {right})")
        total = b.emit(f"add {word} {total}, {pair}")
    return total


def _dot_bytes(b: Body, signed: bool = False) -> str:
    """Byte by byte, for any machine and width; x is s8 where it is `signed`."""
    word, total, by = b.type("i32"), "%a0", b.literal("i32", "24")
    for i in range(4):
        up = b.literal("i32", str(24 - 8 * i))
        x, w = (b.emit(f"shl {word} {v}, {up}") for v in ("%a1", "%a2"))
        x = b.emit(f"{'ashr' if signed else 'lshr'} {word} {x}, {by}")
        w = b.emit(f"ashr {word} {w}, {by}")
        total = b.emit(f"add {word} {total}, {b.emit(f'mul {word} {x}, {w}')}")
    return total


def _declare_dot(width: int, machine: Machine) -> str:
    word = Body(width).type("i32")
    if neon.is_neon(machine):
        return neon.declarations(width).get("dot", "") if neon.has_dot(machine) else ""
    if has_vnni(machine, width):
        data = f"<{4 * width} x i8>"
        return f"declare {word} @llvm.x86.avx512.vpdpbusd.{VNNI[width]}({word}, {data}, {data})"
    pairs, half = multiply_pairs(machine, width), f"<{2 * width} x i16>"
    return f"declare {word} @{pairs}({half}, {half})" if pairs else ""


def has_bf16(machine: Machine, width: int) -> bool:
    """Whether the machine multiplies bfloat16 and sums two products in one instruction."""
    return width in VNNI and "avx512_bf16" in machine.cpu_features


def _dot_half(b: Body, machine: Machine) -> str:
    """acc + x[1] * w[1] + x[0] * w[0] of words of two bfloat16.

    The instruction rounds after each of the two, to nearest even, and takes denormals for zero.
    x comes last, where a number for all lanes may be read from memory.
    """
    floats, half = b.type("float"), f"<{2 * b.width} x bfloat>"
    if has_bf16(machine, b.width):
        x, w = (b.emit(f"bitcast {b.type('i32')} {v} to {half}") for v in ("%a1", "%a2"))
        name = f"llvm.x86.avx512bf16.dpbf16ps.{VNNI[b.width]}"
        return b.emit(f"call {floats} @{name}({floats} %a0, {half} {w}, {half} {x})")
    total = "%a0"
    for part, by in (("and", "-65536"), ("shl", "16")):
        words = [
            b.emit(f"{part} {b.type('i32')} {v}, {b.literal('i32', by)}") for v in ("%a1", "%a2")
        ]
        x, w = (b.emit(f"bitcast {b.type('i32')} {v} to {floats}") for v in words)
        product = b.emit(f"fmul contract {floats} {x}, {w}")
        total = b.emit(f"fadd contract {floats} {total}, {product}")
    return total


def _declare_dot_half(width: int, machine: Machine) -> str:
    if not has_bf16(machine, width):
        return ""
    floats, half = Body(width).type("float"), f"<{2 * width} x bfloat>"
    name = f"llvm.x86.avx512bf16.dpbf16ps.{VNNI[width]}"
    return f"declare {floats} @{name}({floats}, {half}, {half})"


CONVERSIONS = {16: "512", 8: "256"}


def _nearest_half(b: Body, machine: Machine) -> str:
    """The bfloat16 nearest to x (of two, the even one) as a float.

    By integers: adding half a unit to the bits carries into the exponent where it must, and past
    the largest number to infinity. A NaN keeps its upper bits, and is made quiet so that some bit
    remains. The instruction does the same, but takes denormals for zero.
    """
    floats, word = b.type("float"), b.type("i32")
    if machine.converts and b.width in CONVERSIONS:
        short = f"<{b.width} x bfloat>"
        name = f"llvm.x86.avx512bf16.cvtneps2bf16.{CONVERSIONS[b.width]}"
        half = b.emit(f"call {short} @{name}({floats} %a0)")
        stored = b.emit(f"bitcast {short} {half} to {b.type('i16')}")
        wide = b.emit(f"zext {b.type('i16')} {stored} to {word}")
        upper = b.emit(f"shl {word} {wide}, {b.literal('i32', '16')}")
        return b.emit(f"bitcast {word} {upper} to {floats}")

    def by(what: str, x: str, number: int) -> str:
        return b.emit(f"{what} {word} {x}, {b.literal('i32', str(number))}")

    bits = b.emit(f"bitcast {floats} %a0 to {word}")
    odd = by("and", by("lshr", bits, 16), 1)
    nearest = b.emit(f"add {word} {by('add', bits, 0x7FFF)}, {odd}")
    nan = b.emit(f"fcmp uno {floats} %a0, %a0")
    quiet = by("or", bits, 0x400000)
    kept = b.emit(f"select {b.type('i1')} {nan}, {word} {quiet}, {word} {nearest}")
    return b.emit(f"bitcast {word} {by('and', kept, -0x10000)} to {floats}")


def _declare_nearest_half(width: int, machine: Machine) -> str:
    if not machine.converts or width not in CONVERSIONS:
        return ""
    name = f"llvm.x86.avx512bf16.cvtneps2bf16.{CONVERSIONS[width]}"
    return f"declare <{width} x bfloat> @{name}({Body(width).type('float')})"


def _fence(b: Body, machine: Machine) -> str:
    """x, in a way that no multiplication before is merged with an addition after."""
    kind = b.type("float")
    return b.emit(f"call {kind} @llvm.arithmetic.fence.{_suffix(b.width)}({kind} %a0)")


def _declare_fence(width: int, machine: Machine) -> str:
    kind = Body(width).type("float")
    return f"declare {kind} @llvm.arithmetic.fence.{_suffix(width)}({kind})"


def _saturate(b: Body, machine: Machine) -> str:
    """The nearest integer (half to even) to x, of those from a to b; x, a, b floats."""
    if neon.is_neon(machine) and b.width >= neon.LANES:
        return neon.saturate(b)
    kind, word = b.type("float"), b.type("i32")
    condition = b.emit(f"fcmp olt {kind} %a0, %a2")
    below = b.emit(f"select {b.type('i1')} {condition}, {kind} %a0, {kind} %a2")
    condition = b.emit(f"fcmp ogt {kind} {below}, %a1")
    inside = b.emit(f"select {b.type('i1')} {condition}, {kind} {below}, {kind} %a1")
    return b.emit(f"call {word} @{_lrint(b.width)}({kind} {inside})")


def _byte(low: int) -> Function:
    """A function that makes bytes, of which the least is `low`, of floats and a zero point."""

    def body(b: Body, machine: Machine) -> str:
        """The nearest integer (half to even) to float x, plus zero, saturated to a byte."""
        if neon.is_neon(machine) and b.width == 2 * neon.LANES:
            return neon.narrow(b, signed=low < 0)
        kind, word = b.type("float"), b.type("i32")
        bounds: list[str] = []
        for limit in (low, low + 255):
            shifted = b.emit(f"sub {word} {b.literal('i32', str(limit))}, %a1")
            bounds.append(b.emit(f"sitofp {word} {shifted} to {kind}"))
        under = b.emit(f"fcmp olt {kind} %a0, {bounds[1]}")
        below = b.emit(f"select {b.type('i1')} {under}, {kind} %a0, {kind} {bounds[1]}")
        over = b.emit(f"fcmp ogt {kind} {below}, {bounds[0]}")
        inside = b.emit(f"select {b.type('i1')} {over}, {kind} {below}, {kind} {bounds[0]}")
        whole = b.emit(f"call {word} @{_lrint(b.width)}({kind} {inside})")
        total = b.emit(f"add {word} {whole}, %a1")
        return b.emit(f"trunc {word} {total} to {b.type('i8')}")

    def declare(width: int, machine: Machine) -> str:
        if neon.is_neon(machine) and width == 2 * neon.LANES:
            return neon.declarations(width)["narrow"]
        b = Body(width)
        return f"declare {b.type('i32')} @{_lrint(width)}({b.type('float')})"

    return Function("i8", ("float", "i32"), body, declare)


def _lrint(width: int) -> str:
    return f"llvm.lrint.{'i32' if width == 1 else f'v{width}i32'}.{_suffix(width)}"


def _declare_saturate(width: int, machine: Machine) -> str:
    if neon.is_neon(machine) and width >= neon.LANES:
        return neon.declarations(width)["saturate"]
    b = Body(width)
    return f"declare {b.type('i32')} @{_lrint(width)}({b.type('float')})"


def _suffix(width: int) -> str:
    return "f32" if width == 1 else f"v{width}f32"


def _columns(b: Body, machine: Machine) -> str:
    """Words of a channel's bytes in four columns; a column's channels lie beside each other.

    Its operands are the address of the first byte, the words' lanes, and the last column, which
    only says what is read. A block of channels is as wide as the vectors.
    """
    kind, word = f"<{4 * b.width} x i8>", b.type("i32")
    beside = b.emit(f"load {kind}, ptr %a0, align 1")
    lanes = ", ".join(f"i32 {at * b.width + i}" for i in range(b.width) for at in range(4))
    mixed = b.emit(f"shufflevector {kind} {beside}, {kind} poison, <{4 * b.width} x i32> <{lanes}>")
    return b.emit(f"bitcast {kind} {mixed} to {word}")


EVERYWHERE = {
    "columns": Function("i32", ("ptr", "i32", "i8"), _columns, declare_nothing),
    "inside": Function("i32", ("ptr", "i32", "i32", "i32", "i32"), rowmath.inside, rowmath.declare),
    "lookup": Function("i8", ("ptr", "i8"), tablemath.look_up, tablemath.declare),
    "dot": Function("i32", ("i32", "i32", "i32"), _dot, _declare_dot),
    "dot_half": Function("float", ("float", "i32", "i32"), _dot_half, _declare_dot_half),
    "nearest_half": Function("float", ("float",), _nearest_half, _declare_nearest_half),
    "byte_u8": _byte(0),
    "byte_s8": _byte(-128),
    "saturate": Function("i32", ("float", "float", "float"), _saturate, _declare_saturate),
    "nearest": Function("i32", ("float", "float"), packmath.nearest, packmath.declare_nearest),
    "whole": Function("i32", ("float",), packmath.whole, packmath.declare_nearest),
    "narrow": Function("i8", ("i32", "i32"), packmath.narrow, packmath.declare_narrow),
    "fence": Function("float", ("float",), _fence, _declare_fence),
}
FUNCTIONS = {**EVERYWHERE, **neon.FUNCTIONS}


def define(name: str, width: int, machine: Machine) -> str:
    """The LLVM IR of one function, for a vector width."""
    f, body = FUNCTIONS[name], Body(width)
    result, kind = f.body(body, machine), body.type(f.result)
    types = ("ptr" if t == "ptr" else body.type(t) for t in f.operands)
    given = ", ".join(f"{t} %a{i}" for i, t in enumerate(types))
    head = f"define internal {kind} @{symbol(name, width)}({given}) alwaysinline {{"
    return "\n".join([head, *body.lines, f"  ret {kind} {result}", "}"])


def module(names: list[str], machine: Machine) -> str:
    """The LLVM IR of functions in each of their widths, with the intrinsics they use declared."""
    every = [(n, w) for n in names for w in FUNCTIONS[n].widths]
    texts = (FUNCTIONS[n].declare(w, machine) for n, w in every)
    declared = dict.fromkeys(line for text in texts for line in text.splitlines())
    return "\n".join([*declared, *(define(n, w, machine) for n, w in every), ""])
