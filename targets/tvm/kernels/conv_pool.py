# pyright: basic
# TVM ships no types.
"""A direct convolution and the pool or global mean after it, in one call.

    e[o, y, x] = act(sum over i, k of w[o, i, k] * x[i, y*s + k, ..] + b[o])
    y[o, p, q] = max or mean of e[o, ..] over the window of p, q

Of the windows, a band is some rows of the result: for some blocks of channels at a time, rows of e
are made in a scratch buffer, each just before the first result that sees it, so that e never passes
through memory. Rows that two bands see are made twice. Of a mean over the image, each row of e is
added to a sum as soon as it is made. Bands (of a mean, groups of blocks) run on all threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as ir

from graphopt.targets.machine import Machine
from graphopt.targets.tvm import loops, pools, vectors
from graphopt.targets.tvm.kernels import conv, window
from graphopt.targets.tvm.parameters import declare
from graphopt.targets.tvm.pools import Pooled
from graphopt.targets.tvm.region import Region

Expr = Any
ZERO, LOWEST = (tirx.const(v, "float32") for v in (0.0, float("-inf")))


@dataclass(frozen=True)
class Knobs:
    """The free choices of a schedule.

    block: channels of a vector block; rows: results of a band; columns, blocks: the register tile
    of the convolution; pooled: columns of a tile of the pool.
    """

    block: int
    rows: int
    columns: int
    blocks: int
    pooled: int


class Kernel:
    """The buffers and loops of one convolution and its pool."""

    def __init__(self, region: Region, found: Pooled, k: Knobs) -> None:
        """Their names; the padded operand is made here, scratch in each task."""
        self.region, self.found, self.k = region, found, k
        self.s, self.window = conv.shape(found.conv), found.window
        self.w = region.tensors[found.conv.operand(1)]
        self.inner = conv.channel_block(found.conv.operand(0))
        self.groups = -(-self.s.outs // k.block) // k.blocks
        self.parallel = loops.parallel_worth(pools.macs(found))
        self.x = region.tensors[found.conv.operand(0)]
        self.e: Any = None  # [blocks, rows (used in turn), columns with the pool's padding, lanes]

    @property
    def width(self) -> int:
        """Columns of e that windows see, padding included; at least those that there are."""
        w = self.window
        return max((w.out[1] - 1) * w.strides[1] + w.kernel[1], w.pads[1] + self.s.out[1])

    def over(self, parts: int) -> Any:
        """A loop over independent parts."""
        return ir.parallel(0, parts) if self.parallel and parts > 1 else ir.serial(0, parts)

    def lanes(self) -> Any:
        """A loop over a vector."""
        return ir.vectorized(0, self.k.block)

    def run(self) -> None:
        """All tasks."""
        if any(self.s.pads):
            self.pad()
        if self.found.mean:
            with self.over(self.s.n * self.groups) as i:
                self.mean(tirx.floordiv(i, self.groups), tirx.floormod(i, self.groups))
            return
        rows, height = self.k.rows, self.window.out[0]
        bands, rest = -(-height // rows), height % rows
        with self.over(self.s.n * bands) as i:
            n, band = tirx.floordiv(i, bands), tirx.floormod(i, bands)
            self.scratch(self.window.kept)
            if not rest:
                self.band(n, band * rows, rows)
                return
            with ir.If(band < bands - 1):
                with ir.Then():
                    self.band(n, band * rows, rows)
                with ir.Else():
                    self.band(n, tirx.const((bands - 1) * rows, "int32"), rest)

    def pad(self) -> None:
        """Copy the operand with its padding."""
        s, source = self.s, self.x
        top, left, bottom, right = s.pads
        rows, columns = s.size[0] + top + bottom, s.size[1] + left + right
        outer = -(-s.ins // self.inner)
        shape = (s.n, outer, rows, columns)
        self.x = ir.alloc_buffer((*shape, self.inner) if self.inner > 1 else shape, "float32")
        with self.over(s.n * outer * rows) as i:
            row = tirx.floormod(i, rows)
            cb, n = (tirx.floormod(tirx.floordiv(i, rows), outer), tirx.floordiv(i, rows * outer))
            inside = tirx.all(row >= top, row < top + s.size[0])
            with ir.If(inside):
                with ir.Then():
                    self.copy(source, (n, cb, row), (0, left), None)
                    self.copy(source, (n, cb, row), (left, s.size[1]), row - top)
                    self.copy(source, (n, cb, row), (left + s.size[1], right), None)
                with ir.Else():
                    self.copy(source, (n, cb, row), (0, columns), None)

    def copy(self, source: Any, at: tuple[Any, ...], span: tuple[int, int], row: Any) -> None:
        """Columns of a padded row: of a row of the operand, or zeros."""
        n, cb, to = at
        begin, count = span
        if not count:
            return
        with ir.serial(0, count) as c:
            if self.inner == 1:
                ir.buffer_store(self.x, ZERO if row is None else source[n, cb, row, c],
                                [n, cb, to, begin + c])  # fmt: skip
                return
            with ir.vectorized(0, self.inner) as lane:
                ir.buffer_store(self.x, ZERO if row is None else source[n, cb, row, c, lane],
                                [n, cb, to, begin + c, lane])  # fmt: skip

    def scratch(self, rows: int) -> None:
        """Make the buffer of a task, with the pool's padding at the sides."""
        self.e = ir.alloc_buffer((self.k.blocks, rows, self.width, self.k.block), "float32")
        left = self.window.pads[1]
        right = self.width - left - self.s.out[1]
        for begin, count in ((0, left), (self.width - right, right)):
            if count:
                with ir.serial(0, self.k.blocks) as b, ir.serial(0, rows) as j:
                    self.lowest(b, j, begin, count)

    def lowest(self, b: Any, j: Any, begin: int, count: int) -> None:
        """Columns of a row of e that lie outside: padding never wins."""
        with ir.serial(0, count) as c, self.lanes() as lane:
            ir.buffer_store(self.e, LOWEST, [b, j, begin + c, lane])

    def band(self, n: Any, first: Any, rows: int) -> None:
        """`rows` rows of the result from `first` on."""
        w = self.window
        fresh = w.kernel[0] - w.again
        with ir.serial(0, self.groups) as group:
            if w.again:
                with ir.serial(0, w.again) as j:
                    self.fill(n, group, first, j)
            with ir.serial(0, rows) as r:
                with ir.serial(0, fresh) as j:
                    self.fill(n, group, first, r * w.strides[0] + w.again + j)
                for b in range(self.k.blocks):
                    self.pool(n, group * self.k.blocks + b, b, first, r)

    def fill(self, n: Any, group: Any, first: Any, j: Any) -> None:
        """Row j of what a band sees of e."""
        w = self.window
        row = first * w.strides[0] - w.pads[0] + j
        place = tirx.floormod(j, w.kept)
        last = (w.out[0] - 1) * w.strides[0] + w.kernel[0] - w.pads[0]
        if not w.pads[0] and last <= self.s.out[0]:
            self.row(n, group, row, place)
            return
        with ir.If(tirx.all(row >= 0, row < self.s.out[0])):
            with ir.Then():
                self.row(n, group, row, place)
            with ir.Else(), ir.serial(0, self.k.blocks) as b:
                self.lowest(b, place, w.pads[1], self.s.out[1])

    def row(self, n: Any, group: Any, row: Any, place: Any) -> None:
        """A row of e, for some blocks of channels."""
        blocks, op, last = self.k.blocks, self.found.conv, self.found.pool.operand(0)

        def tile(begin: Any, columns: int) -> None:
            acc = self.sums(n, group, row, begin, columns)
            for b in range(blocks):
                for c in range(columns):
                    at = [n, group * blocks + b, row, begin + c]
                    to = [b, place, self.window.pads[1] + begin + c]
                    vectors.store(self.region, op, last, at,
                                  lambda lane, i=b * columns + c: acc[i, lane],
                                  self.k.block, (self.e, to))  # fmt: skip

        vectors.tiles(self.s.out[1], self.k.columns, tile)

    def sums(self, n: Any, group: Any, row: Any, begin: Any, columns: int) -> Any:
        """A register tile of the convolution: columns of a row by blocks of channels."""
        s, blocks = self.s, self.k.blocks
        acc = ir.alloc_buffer((blocks * columns, self.k.block), "float32", scope="local")
        cells = loops.cells(columns, blocks, self.region.machine)
        for b, c in cells:
            with self.lanes() as lane:
                ir.buffer_store(acc, ZERO, [b * columns + c, lane])
        step = conv.together(s.ins, self.inner) if self.inner > 1 else 1
        parts = self.inner // step
        with (
            ir.serial(0, -(-s.ins // step)) as q,
            ir.serial(0, s.kernel[0]) as down,
            ir.serial(0, s.kernel[1]) as across,
            ir.serial(0, step) as i,
        ):
            cb, ci = tirx.floordiv(q, parts), tirx.floormod(q, parts) * step + i
            y = row * s.strides[0] + down * s.dilations[0]
            for b, c in cells:
                cell = b * columns + c
                x = (begin + c) * s.strides[1] + across * s.dilations[1]
                ob = group * blocks + b
                with self.lanes() as lane:
                    value = self.x[n, cb, y, x, ci] if self.inner > 1 else self.x[n, q, y, x]
                    weight = (self.w[ob, cb, down, across, ci, lane] if self.inner > 1
                              else self.w[ob, q, down, across, lane])  # fmt: skip
                    ir.buffer_store(acc, acc[cell, lane] + value * weight, [cell, lane])
        return acc

    def pool(self, n: Any, block: Any, b: int, first: Any, r: Any) -> None:
        """Row r of the band, of one block of channels."""
        w, largest = self.window, self.found.largest
        share = tirx.const(1.0 / (w.kernel[0] * w.kernel[1]), "float32")

        def tile(begin: Any, columns: int) -> None:
            acc = ir.alloc_buffer((columns, self.k.block), "float32", scope="local")
            for c in range(columns):
                with self.lanes() as lane:
                    ir.buffer_store(acc, LOWEST if largest else ZERO, [c, lane])
            with ir.serial(0, w.kernel[0]) as down, ir.serial(0, w.kernel[1]) as across:
                for c in range(columns):
                    row = tirx.floormod(r * w.strides[0] + down, w.kept)
                    column = (begin + c) * w.strides[1] + across
                    with self.lanes() as lane:
                        e = self.e[b, row, column, lane]
                        old = acc[c, lane]
                        ir.buffer_store(acc, tirx.max(old, e) if largest else old + e, [c, lane])
            for c in range(columns):
                value = lambda lane, c=c: acc[c, lane] if largest else acc[c, lane] * share  # noqa: E731
                self.store(value, [n, block, first + r, begin + c])

        vectors.tiles(w.out[1], self.k.pooled, tile)

    def store(self, value: Any, at: list[Any]) -> None:
        """A vector of the result."""
        (output,) = self.region.graph.outputs
        vectors.store(self.region, self.found.pool, output, at, value, self.k.block)

    def mean(self, n: Any, group: Any) -> None:
        """The means of some blocks of channels."""
        s, blocks = self.s, self.k.blocks
        self.e = ir.alloc_buffer((blocks, 1, self.width, self.k.block), "float32")
        acc = ir.alloc_buffer((blocks, self.k.block), "float32", scope="local")
        for b in range(blocks):
            with self.lanes() as lane:
                ir.buffer_store(acc, ZERO, [b, lane])
        with ir.serial(0, s.out[0]) as row:
            self.row(n, group, row, tirx.const(0, "int32"))
            for b in range(blocks):
                with ir.serial(0, s.out[1]) as c, self.lanes() as lane:
                    ir.buffer_store(acc, acc[b, lane] + self.e[b, 0, c, lane], [b, lane])
        count = tirx.const(float(s.out[0] * s.out[1]), "float32")
        rank = len(self.found.pool.result.tensor.static or ())
        for b in range(blocks):
            at = [n, group * blocks + b, *[tirx.const(0, "int32")] * (rank - 2)]
            self.store(lambda lane, b=b: acc[b, lane] / count, at)


def choose(found: Pooled, machine: Machine) -> list[Knobs]:
    """The schedules, the best by rule first."""
    s, block = conv.shape(found.conv), conv.channel_block(found.conv.result)
    rows = pools.rows_of_bands(found, machine)
    pooled = window.columns(found.window.out[1], block, machine)
    room = conv.with_room(machine, conv.channel_block(found.conv.operand(0)))
    tiles = conv.tiles(s.out[1], -(-s.outs // block), block, room)
    return [Knobs(block, rows, columns, blocks, pooled) for columns, blocks in tiles]


def build(region: Region) -> Any:
    """The function of a convolution, its pool and their epilogues."""
    found = pools.pooled_of(region.graph)
    assert found is not None
    k = region.pick(choose(found, region.machine))
    with IRBuilder() as builder, ir.prim_func(s_tir=True):
        ir.func_name("kernel")
        declare(region)
        Kernel(region, found, k).run()
    return builder.get()
