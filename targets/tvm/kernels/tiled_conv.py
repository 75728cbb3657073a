# pyright: basic
# TVM ships no types.
"""Convolutions of images on AMX tiles (`tiled`).

    y[n, ob, y, x, oi] = sum over taps, chunks, words of
                         dot(copy[n, chunk, y*stride + ky*dilation, x*stride + kx*dilation, word],
                             w[ob, chunk, ky, kx, word, oi])

Tiles read a copy of the image, padded, in which the channels of a chunk are 64 bytes beside each
other and every pixel of a line is as far from the next: so a tap is one distance for all rows of a
tile. Lines that are `stride` apart lie beside each other in the copy. Then the pixels of all lines
are one long row: where that takes fewer tiles than tiles that end with a line, tiles cross lines,
and what they compute between two lines is not stored. A convolution of single pixels copies a
register tile's rows just before it multiplies them, where its weights stay in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as ir

from graphopt.ir.core import Op, Value
from graphopt.ir.layout import parse_layout
from graphopt.ops.quant import Scaled
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import amx, tiles
from graphopt.targets.tvm.amx import BLOCK, Form
from graphopt.targets.tvm.kernels import conv, tiled
from graphopt.targets.tvm.kernels.integer import border
from graphopt.targets.tvm.kernels.tiled_plan import (
    BYTES,
    GROUPS,
    HALVES,
    Plan,
    Rows,
    Words,
    stays,
)
from graphopt.targets.tvm.region import Region, shape_of, static

Expr = Any
SCRATCH = 1 << 16  # bytes of rows that are copied for one register tile


@dataclass(frozen=True)
class Copy:
    """The image as tiles read it: [chunk, phase, line * width + column, numbers of a chunk].

    Attributes:
        phases: lines of an image that lie between two of the result's; each phase has its own.
        lines: of a phase.
        width: pixels of a line, a multiple of `step`.
        step: pixels from a row of a tile to the next.
        numbers: of a pixel's chunk.
    """

    phases: int
    lines: int
    width: int
    step: int
    numbers: int

    @property
    def columns(self) -> int:
        """Rows of tiles that a line has, those between lines with them."""
        return self.width // self.step


@dataclass(frozen=True)
class Geometry:
    """A convolution on tiles: its sizes, the form of its channels, its copy, its tiles."""

    s: conv.Shape
    form: Form
    copy: Copy
    plan: Plan
    long: bool  # whether tiles cross lines
    single: bool  # whether it has one tap and no padding: the copy is of its pixels alone
    scratch: bool  # whether rows are copied just before they are multiplied


def plan(op: Op, machine: Machine) -> Geometry | None:
    """How a convolution of images runs on tiles; None where it doesn't."""
    if amx.FEATURE not in machine.cpu_features:
        return None
    of, form = BYTES, amx.integers(op)
    if form is None:
        of, form = HALVES, amx.convolved_halves(op)
    if form is None or form.tag != static(op.operand(1)).layout:
        return None
    return geometry(conv.shape(op), of, form, machine)


def geometry(s: conv.Shape, of: Words, form: Form, machine: Machine) -> Geometry:
    """The copy and the tiles of a convolution."""
    (height, width), (down, across) = s.out, s.strides
    single = set(s.kernel) == {1} and not any(s.pads)
    if single:
        copy = Copy(1, height, width, 1, form.words * of.per)
    else:
        (taps, wide), (dy, dx) = s.kernel, s.dilations
        lines = height + (taps - 1) * dy // down
        need = (width - 1) * across + (wide - 1) * dx + 1
        copy = Copy(min(down, (taps - 1) * dy + 1), lines, -(-need // across) * across, across,
                    form.words * of.per)  # fmt: skip
    row = (height - 1) * copy.columns + width
    long = -(-row // tiles.ROWS) < height * -(-width // tiles.ROWS)
    lines, rows = (1, row) if long else (height, width)
    count = lines * -(-rows // tiles.ROWS)
    panel = 4 * BLOCK * form.words * form.chunks * math.prod(s.kernel)
    panels = -(-s.outs // BLOCK)
    cold = amx.passes_once(panels * panel, machine)
    first = cold or s.n * -(-count // 2) < GROUPS
    first |= not single and stays(panel, panels, machine)
    made = Plan(of, s.n, lines, rows, s.outs, form.sums, first, cold)
    scratch = single and not first and 32 * 4 * form.words * form.chunks <= SCRATCH
    return Geometry(s, form, copy, made, long, single, scratch)


def flat(region: Region, op: Op, g: Geometry) -> bool:
    """Whether an image's pixels lie one after another in all that the epilogue reads and stores.

    So they do where the result's lines are those of the copy; then no line needs be told from the
    next. Where channels don't fill their blocks, indices are kept inside lines (`Region.place`).
    """
    reads = {v for o in region.graph if o is not op
             for i, v in enumerate(o.operands) if v and not (i and isinstance(o.kind, Scaled))}
    ways = [*(v for v in region.graph.args if v in reads), *region.graph.outputs]
    lines = g.copy.columns == g.s.out[1] and g.s.outs % BLOCK == 0
    return lines and all(_dense(v, g.s.out) for v in ways)


def _dense(value: Value, sizes: Sequence[int]) -> bool:
    """Whether pixels of images of some sizes lie so in a tensor, or there is one for all."""
    shape, tag = shape_of(value), static(value).layout
    if all(d == 1 for d in shape[-2:]):
        return True
    layout = parse_layout(tag or "abcd")
    across, down = (layout.order.index(a) for a in (3, 2))
    split = {a for a, _ in layout.blocks}
    return shape[-2:] == tuple(sizes) and across == down + 1 and not split & {2, 3}


class Convolution(tiled.Kernel):
    """A convolution of images in channel blocks, or of few dense channels."""

    def __init__(self, region: Region, op: Op, g: Geometry, work: int) -> None:
        """Copy the image, if it isn't copied row by row."""
        super().__init__(region, op, g.plan, work)
        self.g, self.image = g, self.x
        self.blocks = -(-g.s.ins // BLOCK)
        self.outside, self.flat = self.border(), flat(region, op, g)
        if g.scratch:
            return
        c = g.copy
        shape = (g.s.n, g.form.chunks, c.phases, c.lines * c.width, c.numbers)
        self.x = ir.alloc_buffer(shape, g.plan.of.stored)
        if g.single:
            self.pixels()
        else:
            self.lines()

    def border(self) -> Expr:
        """What lies around the image."""
        if self.p.of is HALVES:
            return tirx.const(0, "uint16")
        fill = border(self.region, self.op)
        return tirx.const(fill, "uint8") if isinstance(fill, int) else fill

    def pixels(self) -> None:
        """Copy the pixels that a convolution of single ones reads."""
        s = self.g.s
        with self.over(s.n * s.out[0]) as line:
            n, y = tirx.floordiv(line, s.out[0]), tirx.floormod(line, s.out[0])
            for chunk in range(self.g.form.chunks):
                with ir.serial(0, s.out[1]) as x:
                    place = [n, chunk, 0, y * s.out[1] + x]
                    self.pixel(chunk, place, [n, y * s.strides[0], x * s.strides[1]])

    def start(self) -> None:
        """Rows that are copied for a register tile."""
        if self.g.scratch:
            shape = (self.g.form.chunks, self.p.pair * tiles.ROWS, self.g.copy.numbers)
            self.x = tiles.scratch(shape, self.p.of.stored)

    def ready(self, image: Expr, rows: list[Rows]) -> None:
        """Copy the rows of a register tile."""
        if not self.g.scratch:
            return
        s, chunks = self.g.s, self.g.form.chunks
        for i, one in enumerate(rows):
            with ir.serial(0, self.p.sizes.rows) as r:
                y, x = self.place(one, r) if s.strides == (1, 1) else self.pixel_of(one, r)
                for chunk in range(chunks):
                    place = [chunk, i * tiles.ROWS + r]
                    self.pixel(chunk, place, [image, y * s.strides[0], x * s.strides[1]])

    def pixel(self, chunk: int, place: list[Expr], at: list[Expr]) -> None:
        """Copy a chunk of the channels of a pixel (image, line, column); zeros past the last.

        Its blocks are stored as one vector, which a load of a tile takes before it is in the cache.
        """
        n, y, x = at
        per = self.g.copy.numbers // BLOCK
        if per == 0:
            return self.few(place, at, 1)
        zero = tirx.const(0, self.p.of.stored)
        held = [chunk * per + j for j in range(per) if chunk * per + j < self.blocks]
        first = tirx.const(0, "int32")
        found: list[Expr] = [
            tirx.BufferLoad(self.image, [n, cb, y, x, tirx.Ramp(first, 1, BLOCK)]) for cb in held
        ]
        found += [tirx.Broadcast(zero, BLOCK)] * (per - len(held))
        lanes = [tirx.const(i, "int32") for i in range(per * BLOCK)]
        whole = tirx.Shuffle(found, lanes) if per > 1 else found[0]
        ir.buffer_store(self.x, whole, [*place, tirx.Ramp(first, 1, per * BLOCK)])
        return None

    def few(self, place: list[Expr], at: list[Expr], count: Expr) -> None:
        """Copy a run of pixels of few channels from one on: of a dense tensor, or of words of four.

        Written in words, and word after word of the pixels, so that LLVM vectorizes the loops.
        """
        (n, y, x), numbers, per = at, self.g.copy.numbers, self.p.of.per
        *outer, first = place
        if len(self.image.shape) == 5:
            with ir.serial(0, count * numbers) as i:
                pixel, c = tirx.floordiv(i, numbers), tirx.floormod(i, numbers)
                found = self.image[n, 0, y, x + pixel, c]
                ir.buffer_store(self.x, found, [*outer, first + pixel, c])
            return
        *shape, _ = (int(d) for d in self.x.shape)
        words = ir.decl_buffer((*shape, numbers // per), "uint32", data=self.x.data)
        with ir.serial(0, count) as pixel:
            for word in range(numbers // per):
                total: Expr = tirx.const(0, "uint32")
                for part in range(per):
                    c = word * per + part
                    if c < self.g.s.ins:
                        number = tirx.Cast("uint32", self.image[n, c, y, x + pixel])
                        shift = tirx.const(part * 32 // per, "uint32")
                        total = tirx.bitwise_or(total, tirx.shift_left(number, shift))
                ir.buffer_store(words, total, [*outer, first + pixel, word])

    def run_of(self, chunk: int, place: list[Expr], at: list[Expr], count: int) -> None:
        """Copy a chunk of the channels of a run of pixels of a line, from one on."""
        if self.g.copy.numbers < BLOCK:
            return self.few(place, at, count)
        (*outer, first), (n, y, x) = place, at
        with ir.serial(0, count) as pixel:
            self.pixel(chunk, [*outer, first + pixel], [n, y, x + pixel])
        return None

    def lines(self) -> None:
        """Copy the image line by line, its border around it."""
        s, c = self.g.s, self.g.copy
        with self.over(s.n * c.phases * c.lines) as flat:
            n, rest = (
                tirx.floordiv(flat, c.phases * c.lines),
                tirx.floormod(flat, c.phases * c.lines),
            )
            phase, line = tirx.floordiv(rest, c.lines), tirx.floormod(rest, c.lines)
            y = line * s.strides[0] + phase - s.pads[0]
            left = s.pads[1]
            held = max(0, min(c.width - left, s.size[1]))
            for chunk in range(self.g.form.chunks):
                start = [n, chunk, phase]
                with ir.If(self.inside(y)):
                    with ir.Then():
                        self.fill(start, line * c.width, left)
                        self.run_of(chunk, [*start, line * c.width + left], [n, y, 0], held)
                        self.fill(start, line * c.width + left + held, c.width - left - held)
                    with ir.Else():
                        self.fill(start, line * c.width, c.width)

    def inside(self, y: Expr) -> Expr:
        """Whether a line of the copy is the image's.

        Where one line alone isn't, and is the last, TVM would take the loop's variable for that
        line's number, and make the copy as large as an expression of it. It doesn't look into
        a comparison of unsigned numbers.
        """
        s, c = self.g.s, self.g.copy
        numbers = [i * s.strides[0] + phase - s.pads[0] for phase in range(c.phases)
                   for i in range(c.lines)]  # fmt: skip
        beyond = [n for n in numbers if not 0 <= n < s.size[0]]
        if s.n == len(beyond) == 1 and not s.pads[0]:
            return tirx.Cast("uint32", y) < tirx.const(s.size[0], "uint32")
        return tirx.all(y >= 0, y < s.size[0])

    def fill(self, start: list[Expr], first: Expr, count: int) -> None:
        """Border pixels."""
        if not count:
            return
        with ir.serial(0, count) as x, ir.vectorized(0, self.g.copy.numbers) as lane:
            ir.buffer_store(self.x, self.outside, [*start, first + x, lane])

    def place(self, rows: Rows, r: Expr) -> list[Expr]:
        """A row's pixel, told by a line and a column (which may be past the line's end)."""
        if self.flat:
            return [tirx.const(0, "int32"), rows.line * self.p.rows + rows.start + r]
        return self.pixel_of(rows, r)

    def pixel_of(self, rows: Rows, r: Expr) -> list[Expr]:
        """A row's pixel: its line and column, or a column past the result's, between lines."""
        columns = self.g.copy.columns
        if not self.g.long:
            return [rows.line, rows.start + r]
        if columns < tiles.ROWS:
            row = rows.start + r
            return [tirx.floordiv(row, columns), tirx.floormod(row, columns)]
        line, column = tirx.floordiv(rows.start, columns), tirx.floormod(rows.start, columns) + r
        past = tirx.Cast("int32", column >= columns)  # of one line at most
        return [line + past, column - past * columns]

    def steps(self) -> tuple[int, ...]:
        """Chunks, lines of the window, and parts of its columns that a row of a tile has."""
        height, width = self.g.s.kernel
        return self.g.form.chunks, height, width // self.g.form.line

    def left(self, image: Expr, i: int, rows: Rows, at: list[Expr]) -> tuple[list[Expr], int]:
        """Pixels `step` apart, as far into the copy as the tap is."""
        chunk, ky, kx = at
        c, s = self.g.copy, self.g.s
        stride = c.step * c.numbers * 4 // self.p.of.per
        if self.g.scratch:
            return [chunk, i * tiles.ROWS, 0], stride
        first = rows.start if self.g.long else rows.line * c.columns + rows.start
        down = ky * s.dilations[0]
        line = tirx.floordiv(down, s.strides[0]) * c.width
        phase = tirx.floormod(down, s.strides[0]) if c.phases > 1 else 0
        across = s.dilations[1] * self.g.form.line  # one of them is 1
        pixel = line + kx * across + first * c.step
        return [image, chunk, phase, pixel, 0], stride

    def right(self, panel: Expr, at: list[Expr]) -> list[Expr]:
        """Words of a tap's chunk."""
        chunk, ky, kx = at
        word = [0] if self.g.form.words > 1 else []
        return [panel, chunk, ky, kx * self.g.form.line, *word, 0, 0]

    def counts(self, place: list[Expr]) -> list[Expr]:
        """A pixel between two lines isn't."""
        columns, width = self.g.copy.columns, self.g.s.out[1]
        return [] if not self.g.long or columns == width else [place[1] < width]

    def consecutive(self) -> bool:
        """Pixels of a block of channels are."""
        return True

    def beside(self, place: list[Expr]) -> list[Expr]:
        """Where tiles cross lines, some aren't."""
        crossed = self.g.long and not self.flat
        return [place[1] + (tiled.TOGETHER - 1) < self.g.s.out[1]] if crossed else []

    def index(self, image: Expr, place: list[Expr], column: Expr) -> list[Expr]:
        """Image, channel, and place in it."""
        return [image, column, *place]

    def summed(self, value: Expr, index: Any) -> Expr:
        """A bias joins."""
        bias = self.op.operands[2] if self.op.kind.name == "conv" else None
        return value if bias is None else value + self.region.at(bias, [index[1]])
