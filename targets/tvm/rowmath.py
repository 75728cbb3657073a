"""Copies of rows with a border, a vector at a time, as LLVM IR.

A padded copy asks of each element whether it lies inside. Asked element by element that is a branch
each; here a vector asks for all its lanes, and reads those that do.
"""

from __future__ import annotations

from graphopt.targets.machine import Machine
from graphopt.targets.tvm import neon
from graphopt.targets.tvm.vecmath import Body


def inside(b: Body, machine: Machine) -> str:
    """row[i] of the lanes with 0 <= i < count, else a border.

    Operands: the row's address, i (one after another in the lanes), count, the border, and the
    row's last element, which only says what is read.
    """
    word, within = b.type("i32"), b.emit(f"icmp ult {b.type('i32')} %a1, %a2")
    if b.width == 1:
        offset = b.emit(f"select i1 {within}, i32 %a1, i32 0")
        at = b.emit(f"getelementptr i32, ptr %a0, i32 {offset}")
        found = b.emit(f"load i32, ptr {at}, align 4")
        return b.emit(f"select i1 {within}, i32 {found}, i32 %a3")
    first = b.emit(f"extractelement {word} %a1, i64 0")
    at = b.emit(f"getelementptr i32, ptr %a0, i32 {first}")
    given = f"ptr {at}, i32 4, {b.type('i1')} {within}, {word} %a3"
    masked = f"call {word} @{_masked(b.width)}({given})"
    if not neon.is_neon(machine):
        return b.emit(masked)
    count = b.emit(f"extractelement {word} %a2, i64 0")
    return neon.if_all(b, first, count, f"load {word}, ptr {at}, align 4", masked)


def declare(width: int, machine: Machine) -> str:
    """The masked load of a vector."""
    word, some = Body(width).type("i32"), f"<{width} x i1>"
    if width == 1:
        return ""
    return f"declare {word} @{_masked(width)}(ptr, i32, {some}, {word})"


def _masked(width: int) -> str:
    return f"llvm.masked.load.v{width}i32.p0"
