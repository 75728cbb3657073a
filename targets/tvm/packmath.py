"""From floats to bytes with AVX-512, as LLVM IR, next to the functions of `intmath`.

Packing by `packssdw` and `packuswb` saturates, and puts four numbers of each vector beside each
other; a shuffle of words puts the vectors one after another again.
"""

from __future__ import annotations

from graphopt.targets.machine import Machine
from graphopt.targets.tvm.vecmath import Body

CONVERT = "llvm.x86.avx512.mask.cvtps2dq.512"
LANES = 16


def nearest(b: Body, machine: Machine) -> str:
    """The nearest integer (half to even) to x, of those up to the bound; x and the bound floats.

    What is below all integers becomes the least of them, so that packing saturates it.
    """
    kind = b.type("float")
    under = b.emit(f"fcmp olt {kind} %a0, %a1")
    return _converted(b, b.emit(f"select {b.type('i1')} {under}, {kind} %a0, {kind} %a1"))


def whole(b: Body, machine: Machine) -> str:
    """The nearest integer (half to even) to float x, which has one of 32 bits."""
    return _converted(b, "%a0")


def _converted(b: Body, below: str) -> str:
    kind, word = b.type("float"), b.type("i32")
    if b.width != LANES:
        return b.emit(f"fptosi {kind} {b.call(*_rounded(b.width), f'{kind} {below}')} to {word}")
    given = f"{kind} {below}, {word} zeroinitializer, i16 -1, i32 4"
    return b.emit(f"call {word} @{CONVERT}({given})")


def _rounded(width: int) -> tuple[str, str]:
    return f"llvm.roundeven.{'' if width == 1 else f'v{width}'}f32", "float"


def declare_nearest(width: int, machine: Machine) -> str:
    """The conversion of a vector."""
    kind = Body(width).type("float")
    if width != LANES:
        return f"declare {kind} @{_rounded(width)[0]}({kind})"
    return f"declare <16 x i32> @{CONVERT}({kind}, <16 x i32>, i16, i32)"


def narrow(b: Body, machine: Machine) -> str:
    """x + zero, saturated to a byte; zero is the same in all lanes, and from 0 to 255."""
    if b.width not in (2 * LANES, 4 * LANES):
        return _one(b)
    words, shorts, data = f"<{LANES} x i32>", f"<{2 * LANES} x i16>", f"<{4 * LANES} x i8>"
    parts = [_part(b, i) for i in range(b.width // LANES)]
    zero = b.emit(f"extractelement {b.type('i32')} %a1, i64 0")
    zero = b.emit(f"trunc i32 {zero} to i16")
    first = b.emit(f"insertelement {shorts} poison, i16 {zero}, i64 0")
    every = f"<{2 * LANES} x i32> zeroinitializer"
    zeros = b.emit(f"shufflevector {shorts} {first}, {shorts} poison, {every}")
    pairs = [
        b.emit(f"call {shorts} @llvm.x86.avx512.packssdw.512({words} {left}, {words} {right})")
        for left, right in zip(parts[::2], parts[1::2], strict=True)
    ]
    add = f"call {shorts} @llvm.sadd.sat.v32i16({shorts}"
    moved = [b.emit(f"{add} {p}, {shorts} {zeros})") for p in pairs]
    name = "llvm.x86.avx512.packuswb.512"
    mixed = b.emit(f"call {data} @{name}({shorts} {moved[0]}, {shorts} {moved[-1]})")
    lanes = b.emit(f"bitcast {data} {mixed} to {words}")
    count = b.width // 4
    order = ", ".join(f"i32 {4 * (i % 4) + i // 4}" for i in range(count))
    made = b.emit(f"shufflevector {words} {lanes}, {words} poison, <{count} x i32> <{order}>")
    return b.emit(f"bitcast <{count} x i32> {made} to {b.type('i8')}")


def _part(b: Body, i: int) -> str:
    """A vector of the words of x."""
    lanes = ", ".join(f"i32 {LANES * i + lane}" for lane in range(LANES))
    word = b.type("i32")
    return b.emit(f"shufflevector {word} %a0, {word} poison, <{LANES} x i32> <{lanes}>")


def _one(b: Body) -> str:
    """The same lane by lane."""
    word = b.type("i32")
    total = b.emit(f"add {word} %a0, %a1")
    for how, bound in (("sgt", "0"), ("slt", "255")):
        limit = b.literal("i32", bound)
        inside = b.emit(f"icmp {how} {word} {total}, {limit}")
        total = b.emit(f"select {b.type('i1')} {inside}, {word} {total}, {word} {limit}")
    return b.emit(f"trunc {word} {total} to {b.type('i8')}")


def declare_narrow(width: int, machine: Machine) -> str:
    """The packing instructions."""
    if width not in (2 * LANES, 4 * LANES):
        return ""
    words, shorts = "<16 x i32>", "<32 x i16>"
    return "\n".join([
        f"declare {shorts} @llvm.x86.avx512.packssdw.512({words}, {words})",
        f"declare <64 x i8> @llvm.x86.avx512.packuswb.512({shorts}, {shorts})",
        f"declare {shorts} @llvm.sadd.sat.v32i16({shorts}, {shorts})",
    ])
