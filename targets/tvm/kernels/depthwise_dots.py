# pyright: basic
# TVM ships no types.
"""Depthwise convolution of 8-bit integers by dot products (NEON): four columns at once.

    y[c, i, j] = b[c] + sum over k, t of dot(columns(x[c, i*s + k], j*s + 4t), w[c, k, t])

with `columns` the word of a channel's bytes in four columns, which one look-up a vector makes of a
padded copy, and weights packed alike (tag AbcD8a4d, zeros where a row has no more). A word of three
taps has a column to spare, so that two neighbours are summed from it, the second with weights a
byte further on: of 3 x 3 taps six products make two sums of four channels, of 16 bits 18 do.
"""

from __future__ import annotations

import math
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as ir

from graphopt.ir.core import Op
from graphopt.ir.types import DType
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import bases, loops, neon, vectors
from graphopt.targets.tvm.intrinsics import call
from graphopt.targets.tvm.kernels import depthwise, window
from graphopt.targets.tvm.kernels.integer import begun, biased, border
from graphopt.targets.tvm.parameters import declare
from graphopt.targets.tvm.region import Region, shape_of, static

Expr = Any
BLOCK = 8  # channels
WORD = 4  # columns
MOST_TAPS = 64  # words of a window, which is written out
NEIGHBOURS = 2  # that share a word
SHARED = 6  # vectors that a tile needs besides sums and weights


def fits(op: Op, machine: Machine) -> bool:
    """Whether a depthwise convolution is computed so."""
    kind: Any = op.kind
    x, w = static(op.operand(0)), shape_of(op.operand(1))
    bytes_ = x.dtype is DType.i8 and static(op.operand(1)).dtype is DType.i8
    image = len(w) == 4 and kind.dilations[-1] == 1 and window.channel_block(op.operand(0)) == BLOCK
    return neon.has_dot(machine) and bytes_ and image and math.prod(w[2:]) <= MOST_TAPS


class Kernel:
    """The sizes and loops of one convolution."""

    def __init__(self, region: Region, op: Op) -> None:
        """Declare the arguments, and choose a tile."""
        self.region, self.op, self.s = region, op, depthwise.shape(op)
        s = self.s
        declare(region)
        (self.output,) = region.graph.outputs
        self.x, self.w = (region.tensors[op.operand(i)] for i in (0, 1))
        self.last, self.bias = biased(region, op, BLOCK)
        self.words = -(-s.kernel[1] // WORD)
        spare = WORD * self.words - s.kernel[1]
        self.shared = min(spare // s.strides[1] + 1, NEIGHBOURS)  # sums of a word
        held = SHARED + 2 * self.words * self.shared
        self.most = (region.machine.registers - held) // 2
        bands = WORD * (region.machine.band_bytes or region.machine.l1_bytes)
        self.rows = window.band(s, BLOCK, bands)
        self.reach = (s.out[1] - 1) * s.strides[1] + s.kernel[1]  # columns that taps see
        self.width = (s.out[1] - 1) * s.strides[1] + WORD * self.words  # and that words have

    def run(self) -> None:
        """Bands of rows of a block of channels, in parallel."""
        s = self.s
        blocks, bands = -(-s.channels // BLOCK), -(-s.out[0] // self.rows)
        parts, rest = s.n * blocks * bands, s.out[0] % self.rows
        spread = parts > 1 and loops.parallel_worth(s.work)
        with ir.parallel(0, parts) if spread else ir.serial(0, parts) as i:
            band = tirx.floormod(i, bands)
            cb = tirx.floormod(tirx.floordiv(i, bands), blocks)
            n = tirx.floordiv(i, bands * blocks)
            reach = (self.rows - 1) * s.strides[0] + (s.kernel[0] - 1) * s.dilations[0] + 1
            self.copy = ir.alloc_buffer((reach, self.width, BLOCK), "int8")
            rows: Expr = self.rows if not rest else tirx.min(self.rows, s.out[0] - band * self.rows)
            need = reach if not rest else reach - (self.rows - rows) * s.strides[0]
            with ir.serial(0, need) as j:
                self.pad(n, cb, band * self.rows * s.strides[0] - s.pads[0] + j, j)
            with ir.serial(0, rows) as r:
                vectors.tiles(s.out[1], self.tile_columns(), lambda begin, count: self.tile(
                    n, cb, band * self.rows + r, r, begin, count))  # fmt: skip

    def tile_columns(self) -> int:
        """As many columns as registers hold, in tiles of one size."""
        width = self.s.out[1]
        most = max(1, min(self.most, width))
        even = [c for c in range(1, most + 1) if width % c == 0 and 2 * c > most]
        return max(even, default=most)

    def pad(self, n: Expr, cb: Expr, row: Expr, j: Expr) -> None:
        """Row j of the copy."""
        s, fill = self.s, border(self.region, self.op)
        outside = tirx.const(fill, "int8") if isinstance(fill, int) else fill
        left = s.pads[1]
        used = min(s.size[1], self.reach - left)
        right = self.reach - left - used

        def put(begin: int, count: int, inside: bool) -> None:
            """Columns, up to four at once."""
            done = 0
            for wide in (4, 2, 1):
                turns = (count - done) // wide
                if turns <= 0:
                    continue
                with ir.serial(0, turns) as c, ir.vectorized(0, wide * BLOCK) as lane:
                    at = done + c * wide + tirx.floordiv(lane, BLOCK)
                    channel = tirx.floormod(lane, BLOCK)
                    value = self.x[n, cb, row, at, channel] if inside else outside
                    ir.buffer_store(self.copy, value, [j, begin + at, channel])
                done += turns * wide

        def line() -> None:
            put(0, left, False)
            put(left, used, True)
            put(left + used, right, False)

        if not s.pads[0] and not s.pads[2]:
            line()
            return
        with ir.If(tirx.all(row >= 0, row < s.size[0])):
            with ir.Then():
                line()
            with ir.Else():
                put(0, left + used + right, False)

    def weights(self, cb: Expr, row: Expr) -> Any:
        """Of each neighbour that a word serves, of each word: weights of a row, moved so far on."""
        s = self.s
        made = ir.alloc_buffer((self.shared, self.words, BLOCK), "int32", scope="local")
        for word in range(self.words):
            for d in range(self.shared):
                with ir.vectorized(0, BLOCK) as lane:
                    value = self.moved(cb, row, word, 8 * d * s.strides[1], lane)
                    ir.buffer_store(made, value, [d, word, lane])
        return made

    def moved(self, cb: Expr, row: Expr, word: int, bits: int, lane: Expr) -> Expr:
        """A word of the row of weights that begins some bits on."""
        away, by = divmod(bits, 32)
        low, high = word - away - 1, word - away

        def read(i: int) -> Expr:
            first = self.w[cb, 0, row, i, 0, 0]
            pointer = tvm.ir.PointerType(tvm.ir.PrimType("int8"))
            return call("words_at", tirx.op.Call("tirx.address_of", [first], ret_ty=pointer), lane)

        found: Expr = tirx.const(0, "int32")
        if high >= 0:
            found = tirx.shift_left(read(high), tirx.const(by, "int32")) if by else read(high)
        if by and low >= 0:
            rest = tirx.Cast("uint32", read(low))
            rest = tirx.shift_right(rest, tirx.const(32 - by, "uint32"))
            found = tirx.bitwise_or(found, tirx.Cast("int32", rest))
        return found

    def tile(self, n: Expr, cb: Expr, row: Expr, r: Expr, begin: Expr, columns: int) -> None:
        """Some pixels of a row, through the epilogue."""
        s = self.s
        acc = begun(self.region, self.bias, cb, columns, BLOCK)
        with ir.serial(0, bases.hidden(tirx.const(s.kernel[0], "int32"))) as k:
            weights = self.weights(cb, k)
            for c in range(0, columns, self.shared):
                for word in range(self.words):
                    self.sum(acc, weights, r * s.strides[0] + k * s.dilations[0],
                             begin + c, word, c, min(self.shared, columns - c))  # fmt: skip
        for c in range(columns):
            vectors.store(self.region, self.last, self.output, [n, cb, row, begin + c],
                          lambda lane, c=c: acc[c, lane], BLOCK)  # fmt: skip

    def sum(
        self, acc: Any, weights: Any, line: Expr, column: Expr, word: int, c: int, count: int
    ) -> None:
        """Add a word's products to `count` sums from c on."""
        first = self.copy[line, column * self.s.strides[1] + WORD * word, 0]
        pointer = tvm.ir.PointerType(tvm.ir.PrimType("int8"))
        place = tirx.op.Call("tirx.address_of", [first], ret_ty=pointer)
        made = ir.alloc_buffer((BLOCK,), "int32", scope="local")
        with ir.vectorized(0, BLOCK) as lane:
            ir.buffer_store(made, call("columns", place, lane, tirx.Cast("int8", lane)), [lane])
        for d in range(count):
            with ir.vectorized(0, BLOCK) as lane:
                total = call("dot", acc[c + d, lane], made[lane], weights[d, word, lane])
                ir.buffer_store(acc, total, [c + d, lane])


def build(region: Region, op: Op) -> Any:
    """The function of a depthwise convolution and its epilogue."""
    with IRBuilder() as builder, ir.prim_func(s_tir=True):
        ir.func_name("kernel")
        Kernel(region, op).run()
    return builder.get()
