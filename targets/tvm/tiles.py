# pyright: basic
# TVM ships no types.
"""The tiles of AMX: eight registers of up to 16 rows of 64 bytes, and what multiplies them.

    tdpbusd(c, a, b):    c[m, n] += sum over k, i of a[m, 4k + i] * b[k, 4n + i]   (u8, s8, s32)
    tdpbf16ps(c, a, b):  c[m, n] += sum over k, i of a[m, 2k + i] * b[k, 2n + i]   (bf16, bf16, f32)

as Intel's Software Developer's Manual (volume 2) defines them; the second takes denormals for zero,
and sums even and odd k apart. Intrinsics name registers by immediate
numbers. A thread loads its configuration (the sizes of the registers) before it uses tiles, and
releases them after. Linux gives tiles to a process that asks: the generated driver does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import tirx as ir

Expr = Any
ROWS = 16  # of a register
WORDS = 16  # of 4 bytes in a row
LINE = 64  # bytes of a line of the cache
SUMS, LEFT, RIGHT = (0, 1, 2, 3), (4, 5), (6, 7)  # the registers of a 2 x 2 product


@dataclass(frozen=True)
class Sizes:
    """Rows of the left side, and words that are summed at once."""

    rows: int
    words: int

    def register(self, number: int) -> tuple[int, int]:
        """Rows and bytes of a row of a register: the right side has a row for each word."""
        if number in SUMS:
            return self.rows, 4 * WORDS
        return (self.rows, 4 * self.words) if number in LEFT else (self.words, 4 * WORDS)


def configure(sizes: Sizes) -> None:
    """Give this thread tiles of these sizes: palette 1, from row 0; 16-bit widths, 8-bit rows."""
    text = bytearray(64)
    text[0] = 1
    for number in (*SUMS, *LEFT, *RIGHT):
        rows, width = sizes.register(number)
        text[16 + 2 * number] = width
        text[48 + number] = rows
    config = ir.alloc_buffer((16,), "int32", scope="local")
    for i in range(16):
        word = int.from_bytes(text[4 * i : 4 * i + 4], "little")
        ir.buffer_store(config, tirx.const(word, "int32"), [i])
    instruction("ldtilecfg", _address(config, [0]))


def release() -> None:
    """Give the tiles back."""
    instruction("tilerelease")


def scratch(shape: tuple[int, ...], dtype: str) -> Any:
    """A buffer of a register tile, that tiles are stored to or loaded from.

    It is of vectors, seen as numbers, so that rows of 64 bytes don't cross lines of the cache: LLVM
    aligns those, and what TVM gives the stack is aligned to 16 bytes at most. TVM cuts buffers down
    to what it sees used, so it is shown the last one.
    """
    lanes = LINE * 8 // tvm.DataType(dtype).bits
    whole = ir.alloc_buffer((math.prod(shape) // lanes,), f"{dtype}x{lanes}", scope="local")
    buffer = ir.decl_buffer(shape, dtype, data=whole.data, scope="local")
    ir.evaluate(_address(buffer, [d - 1 for d in shape]))
    return buffer


def zero(tile: int) -> None:
    """Clear a tile."""
    instruction("tilezero", _number(tile))


def load(tile: int, buffer: Any, at: list[Expr], stride: int) -> None:
    """Fill a tile from an element on, its rows `stride` bytes apart."""
    instruction("tileloadd64", _number(tile), _address(buffer, at), tirx.const(stride, "int64"))


def store(tile: int, buffer: Any, at: list[Expr], stride: int) -> None:
    """Write a tile from an element on, its rows `stride` bytes apart."""
    instruction("tilestored64", _number(tile), _address(buffer, at), tirx.const(stride, "int64"))


def multiply(how: str, total: int, left: int, right: int) -> None:
    """total += left * right, by the instruction `how`."""
    instruction(how, _number(total), _number(left), _number(right))


def _number(tile: int) -> Expr:
    return tirx.const(tile, "uint8")


def _address(buffer: Any, at: list[Expr]) -> Expr:
    return tirx.address_of(tirx.BufferLoad(buffer, list(at)))


def instruction(name: str, *operands: Expr) -> None:
    """Emit one by its LLVM intrinsic."""
    number = tvm.target.codegen.llvm_lookup_intrinsic_id(f"llvm.x86.{name}")
    given = (tirx.const(number, "uint32"), *operands)
    ir.evaluate(tirx.call_intrin("void", "tirx.call_llvm_intrin", *given))
