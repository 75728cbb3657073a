# pyright: basic
# TVM ships no types.
"""3x3 convolution by minimal filtering, F(4x4, 3x3) (arXiv 1509.09308), in three passes.

    V[p, cb, t] = (B^T d B)[p]            for every block of channels and tile of the image
    M[p, mb, t] = sum over c of U[p, m, c] * V[p, c, t]       36 products of matrices
    y[mb, t]    = A^T M A, the bias, and the epilogue

over some tiles at a time, so that V and M stay in the second cache. Each pass runs on all threads;
of many such turns, each has a thread of its own. A 2x2 pool after it is of one tile: then the four
windows of y are stored, not y.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as ir

from graphopt.ir.core import Op
from graphopt.ops.winograd import REACH, TILE
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import ahead, loops, pools, vectors
from graphopt.targets.tvm.kernels import conv
from graphopt.targets.tvm.parameters import declare
from graphopt.targets.tvm.region import Region, shape_of

POINTS = REACH * REACH
SHARE = 8  # of the second cache that V and M have, where filters take no more
LEAST = 48  # tiles of a turn then
TURNS = 4  # of which each is computed by one thread
Side = tuple[int, int]
ZERO, TWO, FOUR, EIGHT = (tirx.const(v, "float32") for v in (0.0, 2.0, 4.0, 8.0))


@dataclass(frozen=True)
class Knobs:
    """The free choices of a schedule.

    block: channels of a vector block; columns, blocks: the register tile of the products; tiles:
    those of a turn, a multiple of `columns`.
    """

    block: int
    columns: int
    blocks: int
    tiles: int


@dataclass(frozen=True)
class Shape:
    """n images of `ins` channels; the result's channels, height, width; tiles down and across."""

    n: int
    ins: int
    outs: int
    size: tuple[int, int]
    out: tuple[int, int]
    pads: tuple[int, ...]

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles down and across."""
        return -(-self.out[0] // TILE), -(-self.out[1] // TILE)

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        return self.n * math.prod(self.grid)

    @property
    def work(self) -> int:
        """Multiply-adds of the products."""
        return self.tiles * POINTS * self.ins * self.outs


def shape(op: Op) -> Shape:
    """Read the sizes off the op."""
    x, y = shape_of(op.operand(0)), shape_of(op.result)
    kind: Any = op.kind
    return Shape(x[0], x[1], y[1], (x[2], x[3]), (y[2], y[3]), kind.pads)


def choose(s: Shape, op: Op, machine: Machine) -> list[Knobs]:
    """The schedules for a shape, the best by rule first."""
    block = conv.channel_block(op.result)
    ins, outs = (-(-c // block) * block for c in (s.ins, s.outs))
    fit = machine.l2_bytes // (4 * POINTS * (ins + outs))
    most = s.tiles if s.tiles <= fit * 3 // 4 else fit // 2  # filters pass once a turn
    if 4 * POINTS * ins * outs <= machine.l2_bytes // SHARE:
        most = min(most, max(fit // SHARE, LEAST), max(-(-s.tiles // TURNS), LEAST // TURNS))
    found: list[Knobs] = []
    for columns, blocks in conv.tiles(min(s.tiles, 64), -(-s.outs // block), block, machine):
        turns = max(1, -(-s.tiles // max(most, columns)))
        each = -(-s.tiles // turns)
        found.append(Knobs(block, columns, blocks, -(-each // columns) * columns))
    return found


class Kernel:
    """The buffers of one convolution."""

    def __init__(self, region: Region, op: Op, s: Shape, k: Knobs) -> None:
        """Their names; `buffers` makes them."""
        self.region, self.op, self.s, self.k = region, op, s, k
        self.pooled = pools.pooled_of(region.graph)
        self.x, self.u = (region.tensors[op.operand(i)] for i in (0, 1))
        (self.output,) = region.graph.outputs
        self.parallel = loops.parallel_worth(s.work)
        self.ins, self.outs = -(-s.ins // k.block), -(-s.outs // k.block)  # in blocks
        self.v: Any = None
        self.m: Any = None

    def over(self, size: int) -> Any:
        """A loop over independent parts."""
        return ir.parallel(0, size) if self.parallel and size > 1 else ir.serial(0, size)

    def lanes(self) -> Any:
        """A loop over a vector."""
        return ir.vectorized(0, self.k.block)

    def place(self, tile: Any) -> tuple[Any, Any, Any]:
        """The image, and the first row and column of the result, of a tile."""
        down, across = self.s.grid
        each = down * across
        rest = tirx.floormod(tile, each)
        return (tirx.floordiv(tile, each), tirx.floordiv(rest, across) * TILE,
                tirx.floormod(rest, across) * TILE)  # fmt: skip

    def run(self) -> None:
        """All turns: many of them apart, so that no thread waits for another's V and M."""
        turns = -(-self.s.tiles // self.k.tiles)
        if self.parallel and turns >= TURNS:
            self.parallel = False
            with ir.parallel(0, turns) as turn:
                self.buffers()
                self.turn(turn * self.k.tiles)
            return
        self.buffers()
        with ir.serial(0, turns) as turn:
            self.turn(turn * self.k.tiles)

    def buffers(self) -> None:
        """Make V and M of a turn."""
        self.v, self.m = (spread(c * self.k.tiles, self.k.block) for c in (self.ins, self.outs))

    def turn(self, first: Any) -> None:
        """Some tiles, from the first on."""
        k, there = self.k, self.there(first)
        with self.over(self.ins * k.tiles) as i:
            t = tirx.floormod(i, k.tiles)
            with vectors.when(t < there * k.columns, not isinstance(there, int)):
                self.image(tirx.floordiv(i, k.tiles), t, first)
        with self.over(POINTS * (self.outs // k.blocks)) as i:
            groups = self.outs // k.blocks
            self.products(tirx.floordiv(i, groups), tirx.floormod(i, groups), there)
        with self.over(self.outs * k.tiles) as i:
            self.result(tirx.floordiv(i, k.tiles), tirx.floormod(i, k.tiles), first)

    def there(self, first: Any) -> Any:
        """Register tiles of a turn, of which the last may have fewer."""
        columns, every = self.k.columns, self.k.tiles // self.k.columns
        if -(-self.s.tiles // columns) % every == 0:
            return every
        return tirx.min(every, tirx.floordiv(self.s.tiles - first + columns - 1, columns))

    def image(self, cb: Any, t: Any, first: Any) -> None:
        """V of one block and tile: 36 vectors, columns first."""
        n, y, x = self.place(tirx.min(first + t, self.s.tiles - 1))
        half = ir.alloc_buffer((POINTS, self.k.block), "float32", scope="local")
        for j in range(REACH):
            with self.lanes() as lane:
                column = [self.pixel((n, cb, y, x), i, j, lane) for i in range(REACH)]
                for a, total in enumerate(image_line(column)):
                    ir.buffer_store(half, total, [a * REACH + j, lane])
        for a in range(REACH):
            with self.lanes() as lane:
                line = [half[a * REACH + j, lane] for j in range(REACH)]
                for b, total in enumerate(image_line(line)):
                    ir.buffer_store(self.v, total, [a * REACH + b, cb * self.k.tiles + t, lane])

    def pixel(self, tile: tuple[Any, ...], i: int, j: int, lane: Any) -> Any:
        """An element of the operand, zero outside; only tiles at an edge have pixels there."""
        s, (n, cb, *begin) = self.s, tile
        at, checks = [], []
        for axis, k in enumerate((i, j)):
            at.append(begin[axis] + k - s.pads[axis])
            checks += [at[axis] >= 0] if k < s.pads[axis] else []
            last = (s.grid[axis] - 1) * TILE + k - s.pads[axis]
            checks += [at[axis] < s.size[axis]] if last >= s.size[axis] else []
        value = self.x[n, cb, *at, lane]
        return tirx.if_then_else(tirx.all(*checks), value, ZERO) if checks else value

    def products(self, p: Any, group: Any, there: Any) -> None:
        """M of one point and some blocks, for all tiles of the turn."""
        s, k = self.s, self.k
        with ir.serial(0, there) as turn:
            acc = ir.alloc_buffer((k.blocks * k.columns, k.block), "float32", scope="local")
            cells = loops.cells(k.columns, k.blocks, self.region.machine)
            for b, c in cells:
                with self.lanes() as lane:
                    ir.buffer_store(acc, tirx.const(0.0, "float32"), [b * k.columns + c, lane])
            part = conv.together(s.ins, k.block)  # channels of a turn: none beyond the last
            with ir.serial(0, -(-s.ins // part)) as q:
                self.fetch(p, group, turn * -(-s.ins // part) + q, -(-s.ins // part))
                with ir.serial(0, part) as i:
                    cb = tirx.floordiv(q * part, k.block)
                    ci = tirx.floormod(q * part, k.block) + i
                    for b, c in cells:
                        with self.lanes() as lane:
                            at = b * k.columns + c
                            u = self.u[p, group * k.blocks + b, q * part + i, lane]
                            product = self.v[p, cb * k.tiles + turn * k.columns + c, ci] * u
                            ir.buffer_store(acc, acc[at, lane] + product, [at, lane])
            for b, c in cells:
                with self.lanes() as lane:
                    place = (group * k.blocks + b) * k.tiles + turn * k.columns + c
                    ir.buffer_store(self.m, acc[b * k.columns + c, lane], [p, place, lane])

    def fetch(self, p: Any, group: Any, step: Any, steps: int) -> None:
        """Fetch a step's share of the filters of the next product into the second cache."""
        k, passes = self.k, self.k.tiles // self.k.columns
        lines = ahead.lines_of(self.u)
        panel = lines * k.blocks // (POINTS * self.outs)
        share = -(-panel // (passes * steps))
        if passes < ahead.PASSES_WORTH:
            return
        begin = (p * (self.outs // k.blocks) + group + 1) * panel
        begin = tirx.min(begin + tirx.min(step * share, panel - share), lines - share)
        for i in range(share):
            ir.evaluate(ahead.fetch(self.u, begin + i))

    def result(self, mb: Any, t: Any, first: Any) -> None:
        """The result of one block and tile, through the epilogue."""
        s, block = self.s, self.k.block
        half = ir.alloc_buffer((TILE * REACH, block), "float32", scope="local")
        y = ir.alloc_buffer((TILE * TILE, block), "float32", scope="local")
        with ir.If(first + t < s.tiles), ir.Then():
            for j in range(REACH):
                with self.lanes() as lane:
                    column = [self.m[i * REACH + j, mb * self.k.tiles + t, lane]
                              for i in range(REACH)]  # fmt: skip
                    for a, total in enumerate(result_line(column)):
                        ir.buffer_store(half, total, [a * REACH + j, lane])
            for a in range(TILE):
                with self.lanes() as lane:
                    line = [half[a * REACH + j, lane] for j in range(REACH)]
                    for b, total in enumerate(result_line(line)):
                        ir.buffer_store(y, total, [a * TILE + b, lane])
            n, top, left = self.place(first + t)
            if self.pooled:
                self.pool(self.pooled, y, (n, mb, top, left))
                return
            for a in range(TILE):
                for b in range(TILE):
                    at = (n, mb, top + a, left + b)
                    with contextlib.ExitStack() as inside:
                        self.within(inside, s.out, at)
                        vectors.store(self.region, self.op, self.output, at,
                                      lambda lane, i=a * TILE + b: y[i, lane], block)  # fmt: skip

    def within(self, inside: contextlib.ExitStack, size: Side, at: tuple[Any, ...]) -> None:
        """Enter the condition that a pixel isn't past the edge, where one of a tile may be."""
        each = TILE // 2 if self.pooled else TILE
        if size != (self.s.grid[0] * each, self.s.grid[1] * each):
            inside.enter_context(ir.If(tirx.all(at[2] < size[0], at[3] < size[1])))
            inside.enter_context(ir.Then())

    def pool(self, found: pools.Pooled, y: Any, at: tuple[Any, ...]) -> None:
        """The windows of a tile, from its first pixel on."""
        n, mb, top, left = at
        block, last = self.k.block, found.pool.operand(0)
        e = ir.alloc_buffer((TILE * TILE, block), "float32", scope="local")
        for a in range(TILE):
            for b in range(TILE):
                vectors.store(self.region, self.op, last, (n, mb, top + a, left + b),
                              lambda lane, i=a * TILE + b: y[i, lane], block,
                              (e, [a * TILE + b]))  # fmt: skip
        for a in range(TILE // 2):
            for b in range(TILE // 2):
                to = (n, mb, tirx.floordiv(top, 2) + a, tirx.floordiv(left, 2) + b)
                cells = [(2 * a + i) * TILE + 2 * b + j for i in range(2) for j in range(2)]
                with contextlib.ExitStack() as inside:
                    self.within(inside, found.window.out, to)
                    vectors.store(self.region, found.pool, self.output, to,
                                  lambda lane, cells=cells: together(found, e, cells, lane),
                                  block)  # fmt: skip


def together(found: pools.Pooled, e: Any, cells: list[int], lane: Any) -> Any:
    """The result of a window of four."""
    a, b, c, d = (e[i, lane] for i in cells)
    if found.largest:
        return tirx.max(tirx.max(a, b), tirx.max(c, d))
    return ((a + b) + (c + d)) * tirx.const(0.25, "float32")


def spread(vectors: int, block: int) -> Any:
    """A buffer of vectors for each point, which lie in different sets of the first cache.

    TVM cuts buffers down to what it sees used, so it is shown the last vector.
    """
    buffer = ir.alloc_buffer((POINTS, vectors | 1, block), "float32")
    ir.evaluate(tirx.address_of(buffer[POINTS - 1, (vectors | 1) - 1, block - 1]))
    return buffer


def image_line(x: list[Any]) -> list[Any]:
    """B^T x: six sums of six vectors, in twelve instructions."""
    even, odd = x[4] - x[2] * FOUR, x[3] - x[1] * FOUR
    near, far = x[4] - x[2], (x[3] - x[1]) * TWO
    return [(x[0] - x[2]) * FOUR + near, even + odd, even - odd, near + far, near - far,
            (x[1] - x[3]) * FOUR + (x[5] - x[3])]  # fmt: skip


def result_line(m: list[Any]) -> list[Any]:
    """A^T m: four sums of six vectors, in eleven instructions."""
    sum1, sum2 = m[1] + m[2], m[3] + m[4]
    rest1, rest2 = m[1] - m[2], m[3] - m[4]
    return [m[0] + sum1 + sum2, rest1 + rest2 * TWO, sum1 + sum2 * FOUR,
            rest1 + rest2 * EIGHT + m[5]]  # fmt: skip


def build(region: Region) -> Any:
    """The function of a convolution and its epilogue."""
    op = region.anchor
    assert op is not None
    s = shape(op)
    k = region.pick(choose(s, op, region.machine))
    with IRBuilder() as builder, ir.prim_func(s_tir=True):
        ir.func_name("kernel")
        declare(region)
        Kernel(region, op, s, k).run()
    return builder.get()
