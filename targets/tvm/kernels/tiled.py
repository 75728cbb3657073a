# pyright: basic
# TVM ships no types.
"""Products and convolutions on AMX tiles: of u8 by s8 integers, or of bfloat16.

    y[p, ob, oi] = sum over taps, c of x[p at tap, 4c + i] * w[ob, tap, c, oi, i]

A register tile is 2 x 2 tiles: 32 rows (of a matrix, or pixels of a line of the image), 32 columns.
The last tile of a line starts early, so that it ends where that does; what it computes again is not
stored again. A convolution reads a copy of the image with its channels beside each other, padded.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as ir

from graphopt.errors import UnsupportedError
from graphopt.ir.core import Op
from graphopt.ir.types import DType
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import amx, bfloat, loops, movement, tiles, vectors
from graphopt.targets.tvm.amx import BLOCK
from graphopt.targets.tvm.kernels import conv, matmul
from graphopt.targets.tvm.kernels.integer import border
from graphopt.targets.tvm.parameters import declare
from graphopt.targets.tvm.region import Region, broadcast, shape_of, static

Expr = Any


@dataclass(frozen=True)
class Plan:
    """A product as tiles: `rows` of each of `lines` lines, `panels` of columns, `words` of a sum.

    `taps` are the sizes of the window, and `sizes` those of the tiles.
    """

    lines: int
    rows: int
    panels: int
    words: int
    taps: tuple[int, ...]
    sizes: tiles.Sizes

    @property
    def across(self) -> int:
        """Tiles of a register tile along a line, and along the columns."""
        return 2 if self.rows > tiles.ROWS else 1

    @property
    def groups(self) -> int:
        """Register tiles of a line."""
        return -(-self.rows // (self.across * tiles.ROWS))

    @property
    def columns(self) -> int:
        """Panels of a register tile."""
        return min(2, self.panels)


def plan(lines: int, rows: int, columns: int, words: int, taps: tuple[int, ...]) -> Plan | None:
    """The tiles of a product; None where too few words are summed at once."""
    if not amx.together(words):
        return None
    sizes = tiles.Sizes(min(rows, tiles.ROWS), amx.together(words))
    return Plan(lines, rows, -(-columns // BLOCK), words, taps, sizes)


def product_plan(op: Op, machine: Machine) -> Plan | None:
    """How a matrix product runs on tiles; None where it doesn't."""
    a, b, y = (static(v) for v in (op.operand(0), op.operand(1), op.result))
    if amx.FEATURE not in machine.cpu_features or a.layout or y.layout or b.layout != amx.PANELS:
        return None
    s = matmul.shape(op)
    if (a.dtype, b.dtype) != (DType.u8, DType.i8) or s.batch or s.trans_a or s.m < 2 or s.k % 4:
        return None
    return plan(1, s.m, s.n, s.k // 4, ())


def half_plan(op: Op, machine: Machine) -> Plan | None:
    """How a product of bfloat16 runs on tiles; None where it doesn't."""
    tag, weights = amx.halves(op), static(op.operand(1))
    if amx.FEATURE not in machine.cpu_features or not tag or weights.layout != tag:
        return None
    s = matmul.shape(op)
    rounded = amx.is_half(op.operand(1))
    return None if s.batch or not rounded else plan(1, s.m, s.n, s.k // 2, ())


def conv_plan(op: Op, machine: Machine) -> Plan | None:
    """How a convolution of images runs on tiles; None where it doesn't.

    Raises:
        UnsupportedError: its weights are laid out for tiles, but it doesn't run on them.
    """
    tag = static(op.operand(1)).layout
    if tag not in (amx.WEIGHTS, amx.HALF_WEIGHTS):
        return None
    half = tag == amx.HALF_WEIGHTS
    fits = amx.convolves_halves(op) if half else amx.convolves(op)
    if amx.FEATURE not in machine.cpu_features or not fits:
        raise UnsupportedError("a convolution with weights for tiles that it can't use")
    s = conv.shape(op)
    flat = pointwise(s)
    lines, rows = (1, math.prod(s.out)) if flat else s.out
    channels = -(-s.ins // BLOCK) * BLOCK
    return plan(s.n * lines, rows, s.outs, channels // (2 if half else 4), s.kernel)


def pointwise(s: conv.Shape) -> bool:
    """Whether pixels are multiplied one by one, so that the image is one line."""
    return not any(s.pads) and {*s.kernel, *s.strides} == {1}


class Kernel:
    """One product: its buffers, and where its operands and results are.

    `dtype` is what is summed in, `per` the numbers of a word, `multiply` the instruction.
    """

    dtype, per, multiply = "int32", 4, "tdpbusd"

    def __init__(self, region: Region, op: Op, p: Plan, work: int) -> None:
        """Declare arguments; results are stored as the region says."""
        self.region, self.op, self.p = region, op, p
        self.parallel = loops.parallel_worth(work)
        declare(region)
        (self.output,) = region.graph.outputs
        self.x, self.w = (bfloat.raw(region.tensors[op.operand(i)]) for i in (0, 1))

    def left(self, line: Expr, row: Expr, taps: list[Expr], word: Expr) -> tuple[list[Expr], int]:
        """Where a tile of x begins, and the bytes from row to row."""
        raise NotImplementedError

    def right(self, panel: Expr, taps: list[Expr], word: Expr) -> list[Expr]:
        """Where a tile of w begins."""
        raise NotImplementedError

    def index(self, line: Expr, row: Expr, column: Expr) -> list[Expr]:
        """The result's logical index."""
        raise NotImplementedError

    def over(self, size: int) -> Any:
        """A loop over independent parts."""
        return ir.parallel(0, size) if self.parallel and size > 1 else ir.serial(0, size)

    def run(self) -> None:
        """All register tiles, lines or panels in parallel, whichever are more."""
        p = self.p
        lines, panels = p.lines * p.groups, -(-p.panels // p.columns)
        with self.over(max(lines, panels)) as outer:
            tiles.configure(p.sizes)
            with ir.serial(0, min(lines, panels)) as inner:
                group, panel = (outer, inner) if lines >= panels else (inner, outer)
                self.tile(tirx.floordiv(group, p.groups), tirx.floormod(group, p.groups), panel)
            tiles.release()

    def tile(self, line: Expr, group: Expr, panel: Expr) -> None:
        """One register tile: the sums, then the epilogue from their copy in the first cache."""
        p, width = self.p, self.p.columns * BLOCK
        total = tiles.copy_of(p.across * tiles.ROWS, width, self.dtype)
        firsts = [(group * p.across + i) * tiles.ROWS for i in range(p.across)]
        starts = [tirx.min(f, max(0, p.rows - tiles.ROWS)) for f in firsts]
        panels = [tirx.min(panel * p.columns + j, p.panels - 1) for j in range(p.columns)]
        cells = [(i, j) for i in range(p.across) for j in range(p.columns)]
        for i, j in cells:
            tiles.zero(tiles.SUMS[2 * i + j])
        self.sums(line, starts, panels, cells)
        for i, j in cells:
            tiles.store(tiles.SUMS[2 * i + j], total, [i * tiles.ROWS, j * BLOCK], 4 * width)
        for i, j in cells:
            here = panel * p.columns + j
            with vectors.when(here < p.panels, p.panels % p.columns != 0):
                self.rows(total, i, j, line, firsts[i], starts[i], here)

    def sums(
        self, line: Expr, starts: list[Expr], panels: list[Expr], cells: list[tuple[int, int]]
    ) -> None:
        """All taps and words of the register tile."""
        p, step = self.p, self.p.sizes.words
        with contextlib.ExitStack() as stack:
            taps = [stack.enter_context(ir.serial(0, d)) for d in p.taps]
            word = stack.enter_context(ir.serial(0, p.words // step)) * step
            for i, start in enumerate(starts):
                at, stride = self.left(line, start, taps, word)
                tiles.load(tiles.LEFT[i], self.x, at, stride)
            for j, panel in enumerate(panels):
                tiles.load(tiles.RIGHT[j], self.w, self.right(panel, taps, word), 4 * BLOCK)
            for i, j in cells:
                tiles.multiply(self.multiply, tiles.SUMS[2 * i + j], tiles.LEFT[i], tiles.RIGHT[j])

    def rows(
        self, total: Any, i: int, j: int, line: Expr, first: Expr, start: Expr, panel: Expr
    ) -> None:
        """Store the rows of a tile from `first` on, through the epilogue."""
        size = self.p.sizes.rows
        with ir.serial(0, size) as r:
            row = start + r
            with vectors.when(row >= first, self.p.rows % size != 0):
                self.lanes(total, [i * tiles.ROWS + r, j * BLOCK], line, row, panel)

    def lanes(self, total: Any, at: list[Expr], line: Expr, row: Expr, panel: Expr) -> None:
        """Store a row of a panel; one by one, where the columns don't fill it."""
        whole = self.columns_total() % BLOCK == 0
        loop = ir.vectorized(0, BLOCK) if whole else ir.serial(0, BLOCK)
        with loop as lane:
            column = panel * BLOCK + lane
            with vectors.when(column < self.columns_total(), not whole):
                value = total[at[0], at[1] + lane]
                self.region.bind(self.op.result, lambda index: self.summed(value, index))
                index = self.index(line, row, column)
                made = self.region.stored(self.output, lambda: self.region.at(self.output, index))
                place = self.region.physical(static(self.output).layout, index)
                ir.buffer_store(self.region.result, made, place)

    def summed(self, value: Expr, index: Any) -> Expr:
        """What the op makes of its sum."""
        return value

    def columns_total(self) -> int:
        """Columns of the result."""
        raise NotImplementedError


class Product(Kernel):
    """A matrix product; x is [.., m, k], w [n/16, k/4, 16, 4]."""

    def left(self, line: Expr, row: Expr, taps: list[Expr], word: Expr) -> tuple[list[Expr], int]:
        """Row after row of x."""
        own, word = shape_of(self.op.operand(0)), word * self.per
        return [*movement.unflat(row, own[:-1]), word], own[-1] * 4 // self.per

    def right(self, panel: Expr, taps: list[Expr], word: Expr) -> list[Expr]:
        """Words of a panel."""
        return [panel, word, 0, 0]

    def index(self, line: Expr, row: Expr, column: Expr) -> list[Expr]:
        """All axes but the last are rows."""
        simplify = self.region.analyzer.simplify
        return [*map(simplify, movement.unflat(row, shape_of(self.op.result)[:-1])), column]

    def columns_total(self) -> int:
        """The last axis."""
        return shape_of(self.op.result)[-1]


class HalfProduct(Product):
    """A product of bfloat16, summed in float32; w is [n/16, k/2, 16, 2]."""

    dtype, per, multiply = "float32", 2, "tdpbf16ps"

    def summed(self, value: Expr, index: Any) -> Expr:
        """A gemm's addend joins."""
        addend = self.op.operands[2] if self.op.kind.name == "gemm" else None
        if addend is None:
            return value
        at = broadcast(index, shape_of(addend), shape_of(self.op.result))
        return value + self.region.at(addend, at)


class Convolution(Kernel):
    """A convolution; w is [ob, kh, kw, ib, 4, 16, 4]."""

    stored = "uint8"

    def __init__(self, region: Region, op: Op, p: Plan, work: int) -> None:
        """Copy the image, padded, channels beside each other."""
        super().__init__(region, op, p, work)
        self.s = conv.shape(op)
        self.flat = pointwise(self.s)
        self.copied()

    def copied(self) -> None:
        """x becomes [n, height, width, channels] with its padding."""
        s, image = self.s, self.x
        size = tuple((o - 1) * st + (k - 1) * d + 1 for o, st, k, d in
                     zip(s.out, s.strides, s.kernel, s.dilations, strict=True))  # fmt: skip
        blocks = -(-s.ins // BLOCK)
        copy = ir.alloc_buffer((s.n, *size, blocks * BLOCK), self.stored)
        fill = self.border()
        outside = tirx.const(fill, self.stored) if isinstance(fill, int) else fill
        with self.over(s.n * size[0]) as line, ir.serial(0, size[1]) as column:
            n, row = tirx.floordiv(line, size[0]), tirx.floormod(line, size[0])
            y, x = row - s.pads[0], column - s.pads[1]
            checks = [y >= 0, y < s.size[0], x >= 0, x < s.size[1]]
            with ir.serial(0, blocks) as cb, ir.vectorized(0, BLOCK) as lane:
                found = image[n, cb, y, x, lane]
                if any(s.pads):
                    found = tirx.if_then_else(tirx.all(*checks), found, outside)
                ir.buffer_store(copy, found, [n, row, column, cb * BLOCK + lane])
        self.x = copy

    def border(self) -> Any:
        """What lies around the image."""
        return border(self.region, self.op)

    def left(self, line: Expr, row: Expr, taps: list[Expr], word: Expr) -> tuple[list[Expr], int]:
        """Pixels of a row of the image, `strides` apart."""
        s, channels = self.s, int(self.x.shape[3])
        width, first = channels * 4 // self.per, word * self.per
        if self.flat:
            return [line, *movement.unflat(row, s.out), first], width
        (height, _), (down, across) = s.out, s.strides
        y = tirx.floormod(line, height) * down + taps[0] * s.dilations[0]
        x = row * across + taps[1] * s.dilations[1]
        return [tirx.floordiv(line, height), y, x, first], across * width

    def right(self, panel: Expr, taps: list[Expr], word: Expr) -> list[Expr]:
        """Words of a tap's channels."""
        words = BLOCK // self.per
        return [panel, *taps, tirx.floordiv(word, words), tirx.floormod(word, words), 0, 0]

    def index(self, line: Expr, row: Expr, column: Expr) -> list[Expr]:
        """Image, channel, and place in it."""
        if self.flat:
            return [line, column, *movement.unflat(row, self.s.out)]
        height = self.s.out[0]
        return [tirx.floordiv(line, height), column, tirx.floormod(line, height), row]

    def columns_total(self) -> int:
        """Output channels."""
        return self.s.outs


class HalfConvolution(Convolution):
    """A convolution of bfloat16, summed in float32; w is [ob, kh, kw, ib, 8, 16, 2]."""

    dtype, per, multiply, stored = "float32", 2, "tdpbf16ps", "uint16"

    def border(self) -> Any:
        """Zero."""
        return 0

    def summed(self, value: Expr, index: Any) -> Expr:
        """The bias joins."""
        bias = self.op.operands[2]
        return value if bias is None else value + self.region.at(bias, [index[1]])


def build(region: Region, op: Op, p: Plan, form: type[Kernel], work: int) -> Any:
    """The function of a product and its epilogue."""
    with IRBuilder() as builder, ir.prim_func(s_tir=True):
        ir.func_name("kernel")
        form(region, op, p, work).run()
    return builder.get()
