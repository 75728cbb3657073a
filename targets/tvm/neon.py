"""What NEON does for int8 kernels, as LLVM IR, next to the functions of `intmath`.

Vectors have 128 bits: a function of more lanes is one of each part.
"""

from __future__ import annotations

from collections.abc import Callable

from graphopt.targets.machine import Machine
from graphopt.targets.tvm.typed import Function
from graphopt.targets.tvm.vecmath import Body

LANES = 4
DOT = "llvm.aarch64.neon.sdot.v4i32.v16i8"
SQUARE = "llvm.aarch64.neon.smmla.v4i32.v16i8"
MULTIPLY = "llvm.aarch64.neon.smull.v8i16"
PAIRS = "llvm.aarch64.neon.saddlp.v4i32.v8i16"
ADD_PAIRS = "llvm.aarch64.neon.addp.v4i32"
NARROW_WORD = "llvm.aarch64.neon.sqxtn.v4i16"
NARROW_SIGNED = "llvm.aarch64.neon.sqxtn.v8i8"
NARROW_UNSIGNED = "llvm.aarch64.neon.sqxtun.v8i8"
NEAREST = "llvm.aarch64.neon.fcvtns.v4i32.v4f32"


def is_neon(machine: Machine) -> bool:
    """Whether a machine's vectors are NEON's."""
    return machine.arch == "aarch64"


def has_dot(machine: Machine) -> bool:
    """Whether the machine multiplies s8 by s8 and sums four products in one instruction."""
    return "asimddp" in machine.cpu_features


def has_squares(machine: Machine) -> bool:
    """Whether the machine multiplies 2x8 by 8x2 matrices of s8 in one instruction (i8mm)."""
    return "i8mm" in machine.cpu_features


def by_parts(b: Body, kinds: tuple[str, ...], make: Callable[..., str]) -> str:
    """A function of the operands (of LLVM scalar types `kinds`), for four lanes at a time.

    make: gives the result (of the first operand's lanes, int32) for the names of the parts.
    """
    names = [f"%a{i}" for i in range(len(kinds))]
    if b.width <= LANES:
        return make(*names)
    found: list[str] = []
    for first in range(0, b.width, LANES):
        lanes = ", ".join(f"i32 {first + i}" for i in range(LANES))
        parts = [
            b.emit(f"shufflevector {b.type(k)} {n}, {b.type(k)} poison, <{LANES} x i32> <{lanes}>")
            for k, n in zip(kinds, names, strict=True)
        ]
        found.append(make(*parts))
    return _joined(b, found)


def _joined(b: Body, parts: list[str]) -> str:
    """Vectors of int32 one after another."""
    width = LANES
    while len(parts) > 1:
        lanes = ", ".join(f"i32 {i}" for i in range(2 * width))
        kind = f"<{width} x i32>"
        parts = [
            b.emit(f"shufflevector {kind} {x}, {kind} {y}, <{2 * width} x i32> <{lanes}>")
            for x, y in zip(parts[::2], parts[1::2], strict=True)
        ]
        width *= 2
    return parts[0]


def dot(b: Body) -> str:
    """acc + sum over four bytes of s8 x times s8 w."""

    def make(acc: str, x: str, w: str) -> str:
        left, right = (b.emit(f"bitcast <4 x i32> {v} to <16 x i8>") for v in (x, w))
        given = f"<4 x i32> {acc}, <16 x i8> {right}, <16 x i8> {left}"
        return b.emit(f"call <4 x i32> @{DOT}({given})")

    return by_parts(b, ("i32", "i32", "i32"), make)


def saturate(b: Body) -> str:
    """The nearest integer (half to even) to x, of those from a to b; x, a, b floats.

    fminnm and fmaxnm give the number where one operand is NaN, as the comparisons elsewhere do.
    """

    def make(x: str, low: str, high: str) -> str:
        kind = "<4 x float>"
        below = b.emit(f"call {kind} @llvm.minnum.v4f32({kind} {x}, {kind} {high})")
        inside = b.emit(f"call {kind} @llvm.maxnum.v4f32({kind} {below}, {kind} {low})")
        return b.emit(f"call <4 x i32> @{NEAREST}({kind} {inside})")

    return by_parts(b, ("float", "float", "float"), make)


def declarations(width: int) -> dict[str, str]:
    """The intrinsics that functions call, of vectors of a width."""
    four = "declare <4 x float> @llvm.{}.v4f32(<4 x float>, <4 x float>)"
    return {} if width < LANES else {
        "dot": f"declare <4 x i32> @{DOT}(<4 x i32>, <16 x i8>, <16 x i8>)",
        "saturate": "\n".join([four.format("minnum"), four.format("maxnum"),
                               f"declare <4 x i32> @{NEAREST}(<4 x float>)"]),
        "eights": f"declare <8 x i16> @{MULTIPLY}(<8 x i8>, <8 x i8>)\n"
                  f"declare <4 x i32> @{PAIRS}(<8 x i16>)",
        "narrow": "\n".join([
            f"declare <4 x i32> @{NEAREST}(<4 x float>)",
            f"declare <4 x i16> @{NARROW_WORD}(<4 x i32>)",
            f"declare <8 x i8> @{NARROW_SIGNED}(<8 x i16>)",
            f"declare <8 x i8> @{NARROW_UNSIGNED}(<8 x i16>)",
            "declare <8 x i16> @llvm.sadd.sat.v8i16(<8 x i16>, <8 x i16>)"]),
        "square": f"declare <4 x i32> @{SQUARE}(<4 x i32>, <16 x i8>, <16 x i8>)",
        "folded": f"declare <4 x i32> @{ADD_PAIRS}(<4 x i32>, <4 x i32>)",
    }  # fmt: skip


def eights(b: Body, names: str) -> str:
    """acc + products of eight bytes of x and w, in four parts; names: their addresses, in pairs.

    Two pairs of operands are multiplied before their products, of 16 bits, are added: |w| < 128.
    """
    half, total = "<8 x i16>", ""
    for x_at, w_at in zip(names.split()[::2], names.split()[1::2], strict=True):
        x, w = (b.emit(f"load <8 x i8>, ptr {at}, align 8") for at in (x_at, w_at))
        product = b.emit(f"call {half} @{MULTIPLY}(<8 x i8> {x}, <8 x i8> {w})")
        total = b.emit(f"add {half} {total}, {product}") if total else product
    pairs = b.emit(f"call <4 x i32> @{PAIRS}({half} {total})")
    return b.emit(f"add <4 x i32> %a0, {pairs}")


def folded(b: Body) -> str:
    """Sums of four neighbours, of 32 int32 that begin at an address."""
    kind = "<4 x i32>"
    rows: list[str] = []
    for i in range(8):
        place = b.emit(f"getelementptr {kind}, ptr %a0, i64 {i}")
        rows.append(b.emit(f"load {kind}, ptr {place}, align 16"))
    while len(rows) > 2:
        rows = [b.emit(f"call {kind} @{ADD_PAIRS}({kind} {x}, {kind} {y})")
                for x, y in zip(rows[::2], rows[1::2], strict=True)]  # fmt: skip
    return _joined(b, rows)


def square(b: Body) -> str:
    """acc + [[x0 w0, x0 w1], [x1 w0, x1 w1]] of rows of eight bytes: x0, x1, and w0 with w1 after.

    Their addresses; the four sums are one vector.
    """
    rows = [b.emit(f"load <8 x i8>, ptr {at}, align 8") for at in ("%a1", "%a2")]
    every = ", ".join(f"i32 {i}" for i in range(16))
    x = b.emit(f"shufflevector <8 x i8> {rows[0]}, <8 x i8> {rows[1]}, <16 x i32> <{every}>")
    w = b.emit("load <16 x i8>, ptr %a3, align 16")
    return b.emit(f"call <4 x i32> @{SQUARE}(<4 x i32> %a0, <16 x i8> {x}, <16 x i8> {w})")


def row(b: Body, second: bool) -> str:
    """The eight sums of one row of x, of four vectors of `square` that begin at an address."""
    kind = "<4 x i32>"
    found: list[str] = []
    for i in range(4):
        place = b.emit(f"getelementptr {kind}, ptr %a0, i64 {i}")
        found.append(b.emit(f"load {kind}, ptr {place}, align 16"))
    lanes = ", ".join(f"i32 {2 * second + i}" for i in (0, 1, 4, 5))
    halves = [b.emit(f"shufflevector {kind} {x}, {kind} {y}, {kind} <{lanes}>")
              for x, y in zip(found[::2], found[1::2], strict=True)]  # fmt: skip
    return _joined(b, halves)


def narrow(b: Body, signed: bool) -> str:
    """The nearest integer (half to even) to float x, plus zero, saturated to a byte; eight lanes.

    Each step saturates, so that what is beyond the range of one stays beyond that of the next. A
    NaN becomes zero (fcvtns gives 0), as in numpy's meaning.
    """
    half = "<8 x i16>"

    def whole(x: str) -> str:
        return b.emit(f"call <4 x i32> @{NEAREST}(<4 x float> {x})")

    words = by_parts(b, ("float",), whole)
    low, high = (
        b.emit(f"shufflevector <8 x i32> {words}, <8 x i32> poison, <4 x i32> <{lanes}>")
        for lanes in ("i32 0, i32 1, i32 2, i32 3", "i32 4, i32 5, i32 6, i32 7")
    )
    parts = [b.emit(f"call <4 x i16> @{NARROW_WORD}(<4 x i32> {v})") for v in (low, high)]
    every = ", ".join(f"i32 {i}" for i in range(8))
    both = b.emit(f"shufflevector <4 x i16> {parts[0]}, <4 x i16> {parts[1]}, <8 x i32> <{every}>")
    zero = b.emit(f"trunc <8 x i32> %a1 to {half}")
    moved = b.emit(f"call {half} @llvm.sadd.sat.v8i16({half} {both}, {half} {zero})")
    name = NARROW_SIGNED if signed else NARROW_UNSIGNED
    return b.emit(f"call <8 x i8> @{name}({half} {moved})")


def if_all(b: Body, first: str, count: str, then: str, other: str) -> str:
    """The result of an instruction where lanes from `first` on are below a count; else of another.

    NEON loads no part of a vector: what asks for lanes is a branch for each.
    """
    last = b.emit(f"add i32 {first}, {b.width - 1}")
    ends = [b.emit(f"icmp ult i32 {i}, {count}") for i in (first, last)]
    both = b.emit(f"and i1 {ends[0]}, {ends[1]}")
    b.lines.append(f"  br i1 {both}, label %all, label %some\nall:")
    whole = b.emit(then)
    b.lines.append("  br label %done\nsome:")
    part = b.emit(other)
    b.lines.append("  br label %done\ndone:")
    return b.emit(f"phi {b.type('i32')} [ {whole}, %all ], [ {part}, %some ]")


def _declare(name: str) -> Callable[[int, Machine], str]:
    return lambda _width, _machine: declarations(LANES)[name]


def _eights(names: str) -> Function:
    def body(b: Body, machine: Machine) -> str:
        """acc + products of eight bytes of x and w, in four parts."""
        return eights(b, names)

    operands = ("i32", *("ptr" for _ in names.split()))
    return Function("i32", operands, body, _declare("eights"), (LANES,))


def _folded(b: Body, machine: Machine) -> str:
    """Sums of four neighbours, of 32 int32 that begin at an address."""
    return folded(b)


def _square(b: Body, machine: Machine) -> str:
    """acc + the products of two rows by two rows of eight bytes."""
    return square(b)


def _row(second: bool) -> Callable[[Body, Machine], str]:
    def body(b: Body, machine: Machine) -> str:
        """The eight sums of one of two rows."""
        return row(b, second)

    return body


def _hidden(b: Body, machine: Machine) -> str:
    """x, of which LLVM knows nothing."""
    return b.emit('call i32 asm "", "=r,0"(i32 %a0)')


def _words_at(b: Body, machine: Machine) -> str:
    """Words that begin at an address."""
    return b.emit(f"load {b.type('i32')}, ptr %a0, align 16")


# Beside those of `intmath`, and called for NEON alone: `square` and the rows where there is i8mm.
FUNCTIONS = {
    "hidden": Function("i32", ("i32",), _hidden, widths=(1,)),
    "eight": _eights("%a1 %a2"),
    "eights": _eights("%a1 %a2 %a3 %a4"),
    "square": Function("i32", ("i32", "ptr", "ptr", "ptr"), _square, _declare("square"), (LANES,)),
    "first_row": Function("i32", ("ptr", "i32"), _row(False), widths=(2 * LANES,)),
    "second_row": Function("i32", ("ptr", "i32"), _row(True), widths=(2 * LANES,)),
    "words_at": Function("i32", ("ptr", "i32"), _words_at, widths=(2 * LANES,)),
    "folded": Function("i32", ("ptr", "i32"), _folded, _declare("folded"), (2 * LANES,)),
}
