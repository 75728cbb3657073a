# pyright: basic
# TVM ships no types.
"""A depthwise convolution and the 1x1 convolutions around it, band by band, in one call.

    e[c, y, x] = act(sum over i of w1[c, i] * x[i, y, x] + b1[c])       expand; else e is x
    d[c, y, x] = act(sum over k of w2[c, k] * e[c, y*s + k, ..] + b2[c])
    y[o, y, x] = act(sum over c of w3[o, c] * d[c, y, x] + b3[o])       project; else y is d

A band is some rows of the result. For some blocks of channels at a time, the rows of e that the
band sees are made in a scratch buffer, each just before the row of d that needs it, so that the
filter reads them from the first cache; d of all channels stays in the second for the last product.
Neither passes through memory. The rows of e that two bands share are computed twice. Bands run on
all threads, each with its own scratch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as ir

from graphopt.ir.core import Op, Value
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import bases, loops, neon, vectors
from graphopt.targets.tvm.chains import Chain, Sizes, block_of, chain_of, copies, macs, plan, sizes
from graphopt.targets.tvm.kernels import conv, window
from graphopt.targets.tvm.parameters import declare
from graphopt.targets.tvm.region import Region

Expr = Any
ZERO = tirx.const(0.0, "float32")
ALONE = (1, 1)  # the tile where there is no product
BEST = 4  # tiles of a product that tuning may choose from


@dataclass(frozen=True)
class Knobs:
    """The free choices of a schedule.

    block: channels of a vector block; rows: of a band; expand, project: register tiles (columns,
    blocks) of the products; columns: of the filter's tile.
    """

    block: int
    rows: int
    expand: tuple[int, int]
    columns: int
    project: tuple[int, int]


class Kernel:
    """The buffers and loops of one chain."""

    def __init__(self, region: Region, chain: Chain, s: Sizes, k: Knobs) -> None:
        """Their names; scratch is made in each band."""
        self.region, self.chain, self.s, self.k = region, chain, s, k
        (self.output,) = region.graph.outputs
        self.x = region.tensors[chain.convolutions[0].operand(0)]
        self.copied = copies(chain, s)
        self.groups = -(-s.inner // k.block) // k.expand[1]  # of blocks
        self.e: Any = None  # [blocks of a turn, rows (used in turn), columns, lanes]
        self.d: Any = None  # [blocks, pixels of a band, lanes]

    @property
    def width(self) -> int:
        """Columns of e that are needed, padding included."""
        return (self.s.out[1] - 1) * self.s.strides[1] + self.s.reach[1]

    @property
    def used(self) -> int:
        """Columns of x or the expansion among them."""
        return min(self.s.size[1], self.width - self.s.pads[1])

    def lanes(self) -> Any:
        """A loop over a vector."""
        return ir.vectorized(0, self.k.block)

    def run(self) -> None:
        """All bands; the last one may have fewer rows."""
        s, rows = self.s, self.k.rows
        bands, rest = -(-s.out[0] // rows), s.out[0] % rows
        groups = 1 if self.chain.project else self.groups
        with self.over(s.n * bands * groups) as i:
            image = tirx.floordiv(i, bands * groups)
            band = tirx.floormod(tirx.floordiv(i, groups), bands)
            group = None if self.chain.project else tirx.floormod(i, groups)
            self.scratch()
            if not rest:
                self.band(image, group, band * rows, rows)
                return
            with ir.If(band < bands - 1):
                with ir.Then():
                    self.band(image, group, band * rows, rows)
                with ir.Else():
                    self.band(image, group, tirx.const((bands - 1) * rows, "int32"), rest)

    def over(self, parts: int) -> Any:
        """A loop over independent parts."""
        parallel = parts > 1 and loops.parallel_worth(sum(macs(self.chain, self.s)))
        return ir.parallel(0, parts) if parallel else ir.serial(0, parts)

    def scratch(self) -> None:
        """Make the buffers of a band, with e's padding at the sides."""
        s, k = self.s, self.k
        if self.copied:
            rows, turn = s.kept, k.expand[1]
            self.e = ir.alloc_buffer((turn, rows, self.width, k.block), "float32")
            left, right = s.pads[1], self.width - s.pads[1] - self.used
            for begin, count in ((0, left), (self.width - right, right)):
                if count:
                    with ir.serial(0, turn) as b, ir.serial(0, rows) as j, ir.serial(0, count) as c:
                        self.zero(b, j, begin + c)
        if self.chain.project:
            blocks = -(-s.inner // k.block)
            self.d = ir.alloc_buffer((blocks, k.rows * s.out[1], k.block), "float32")

    def ring(self, j: Any) -> Any:
        """Where row j of e is kept."""
        return tirx.floormod(j, self.s.kept)

    def zero(self, b: Any, j: Any, column: Any) -> None:
        """A vector of e that lies outside the image."""
        with self.lanes() as lane:
            ir.buffer_store(self.e, ZERO, [b, self.ring(j), column, lane])

    def band(self, n: Any, group: Any, first: Any, rows: int) -> None:
        """`rows` rows of the result from `first` on; of one group of blocks, or of all."""
        if group is not None:
            self.rows(n, group, first, rows)
            return
        with ir.serial(0, self.groups) as each:
            self.rows(n, each, first, rows)
        self.project(n, first, rows)

    def rows(self, n: Any, group: Any, first: Any, rows: int) -> None:
        """Rows of d, of a group of blocks."""
        s, turn = self.s, self.k.expand[1]
        fresh = min(s.strides[0], s.reach[0])  # rows of e that a row of d adds
        ahead = s.reach[0] - fresh
        if self.copied and ahead:
            with ir.serial(0, ahead) as j:
                self.fill(n, group, first, j)
        with ir.serial(0, rows) as r:
            if self.copied:
                with ir.serial(0, fresh) as j:
                    self.fill(n, group, first, r * s.strides[0] + ahead + j)
            for b in range(turn):
                self.filter(n, group * turn + b, b, first, r)

    def fill(self, n: Any, group: Any, first: Any, j: Any) -> None:
        """Row j of e, for some blocks of channels."""
        s = self.s
        row = first * s.strides[0] - s.pads[0] + j
        make = self.expand if self.chain.expand else self.copy
        if not s.pads[0] and (s.out[0] - 1) * s.strides[0] + s.reach[0] <= s.size[0]:
            make(n, group, row, j)
            return
        with ir.If(tirx.all(row >= 0, row < s.size[0])):
            with ir.Then():
                make(n, group, row, j)
            with ir.Else():
                for b in range(self.k.expand[1]):
                    with ir.serial(0, self.used) as column:
                        self.zero(b, j, s.pads[1] + column)

    def copy(self, n: Any, group: Any, row: Any, j: Any) -> None:
        """e is x."""
        turn = self.k.expand[1]
        for b in range(turn):
            with ir.serial(0, self.used) as column, self.lanes() as lane:
                value = self.x[n, group * turn + b, row, column, lane]
                ir.buffer_store(self.e, value, [b, self.ring(j), self.s.pads[1] + column, lane])

    def expand(self, n: Any, group: Any, row: Any, j: Any) -> None:
        """e is the expansion of x."""
        op, blocks = self.chain.expand, self.k.expand[1]
        assert op is not None

        def tile(begin: Any, columns: int) -> None:
            def put(b: int, c: int, sum_of: Callable[[Any], Any]) -> None:
                at = [n, group * blocks + b, row, begin + c]
                place = [b, self.ring(j), self.s.pads[1] + begin + c]
                self.store(op, self.chain.filter.operand(0), at, sum_of, self.e, place)

            self.product(op, (columns, blocks), group,
                         lambda c, cb, ci: self.x[n, cb, row, begin + c, ci], put)  # fmt: skip

        vectors.tiles(self.used, self.k.expand[0], tile)

    def filter(self, n: Any, block: Any, b: int, first: Any, r: Any) -> None:
        """Row r of the band's part of d, for one block of channels."""
        s = self.s
        op, last = self.chain.filter, self.output
        if self.chain.project:
            last = self.chain.project.operand(0)

        def tile(begin: Any, columns: int) -> None:
            acc = self.taps(n, block, b, first, r, begin, columns)
            for c in range(columns):
                at = [n, block, first + r, begin + c]
                place = [block, r * s.out[1] + begin + c]
                target = self.d if self.chain.project else None
                self.store(op, last, at, lambda lane, c=c: acc[c, lane], target, place)

        vectors.tiles(s.out[1], self.k.columns, tile)

    def start(self, op: Op, block: Any, lane: Any) -> Any:
        """What a sum begins with: the bias, which costs no more than a zero and is added then."""
        bias = vectors.bias_of(op)
        return ZERO if bias is None else self.region.at(bias, [block * self.k.block + lane])

    def taps(self, n: Any, block: Any, b: int, first: Any, r: Any, begin: Any, columns: int) -> Any:
        """The sums over the window, of a tile of columns."""
        s, w = self.s, self.region.tensors[self.chain.filter.operand(1)]
        top = first * s.strides[0]
        acc = ir.alloc_buffer((columns, self.k.block), "float32", scope="local")
        for c in range(columns):
            with self.lanes() as lane:
                ir.buffer_store(acc, self.start(self.chain.filter, block, lane), [c, lane])

        def row(down: Any) -> None:
            j = r * s.strides[0] + down * s.dilations[0]
            for c, across in self.order(columns):
                column = (begin + c) * s.strides[1] + across * s.dilations[1]
                with self.lanes() as lane:
                    e = self.x[n, block, top + j, column, lane]
                    if self.copied:
                        e = self.e[b, self.ring(j), column, lane]
                    product = e * w[block, 0, down, across, lane]
                    ir.buffer_store(acc, acc[c, lane] + product, [c, lane])

        if neon.is_neon(self.region.machine):
            with ir.serial(0, bases.hidden(tirx.const(s.kernel[0], "int32"))) as down:
                row(down)
        elif s.kernel[0] * s.kernel[1] <= window.UNROLLED_TAPS:
            for down in range(s.kernel[0]):
                row(down)
        else:
            with ir.serial(0, s.kernel[0]) as down:
                row(down)
        return acc

    def order(self, columns: int) -> list[tuple[int, int]]:
        """Columns of a tile and taps of a row, in the order that they are multiplied in."""
        s = self.s
        every = [(c, across) for across in range(s.kernel[1]) for c in range(columns)]
        if not neon.is_neon(self.region.machine):
            return every
        return sorted(every, key=lambda p: p[0] * s.strides[1] + p[1] * s.dilations[1])

    def project(self, n: Any, first: Any, rows: int) -> None:
        """The result of a band."""
        op, (most, blocks) = self.chain.project, self.k.project
        assert op is not None
        width = self.s.out[1]

        def tile(begin: Any, columns: int) -> None:
            with ir.serial(0, -(-self.s.outs // self.k.block) // blocks) as group:

                def put(b: int, c: int, sum_of: Callable[[Any], Any]) -> None:
                    row = first + tirx.floordiv(begin + c, width)
                    at = [n, group * blocks + b, row, tirx.floormod(begin + c, width)]
                    self.store(op, self.output, at, sum_of, None, [])

                self.product(op, (columns, blocks), group,
                             lambda c, cb, ci: self.d[cb, begin + c, ci], put)  # fmt: skip

        vectors.tiles(rows * width, most, tile)

    def product(
        self,
        op: Op,
        tile: tuple[int, int],
        group: Any,
        source: Callable[[int, Any, Any], Any],
        put: Callable[[int, int, Callable[[Any], Any]], None],
    ) -> None:
        """A register tile of a 1x1 convolution: columns of `source` by blocks of outputs."""
        columns, blocks = tile
        w, width = self.region.tensors[op.operand(1)], self.k.block
        acc = ir.alloc_buffer((blocks * columns, width), "float32", scope="local")
        cells = loops.cells(columns, blocks, self.region.machine)
        for b, c in cells:
            with self.lanes() as lane:
                first = self.start(op, group * blocks + b, lane)
                ir.buffer_store(acc, first, [b * columns + c, lane])

        ins = (op.operand(1).tensor.static or (0, 0))[1]
        part = conv.together(ins, width)  # one loop of a length that LLVM won't mix with the rest
        with ir.serial(0, -(-ins // part)) as q, ir.serial(0, part) as i:
            cb, ci = tirx.floordiv(q * part, width), tirx.floormod(q * part, width) + i
            for b, c in cells:
                with self.lanes() as lane:
                    at = [b * columns + c, lane]
                    weight = w[group * blocks + b, cb, 0, 0, ci, lane]
                    ir.buffer_store(acc, acc[tuple(at)] + source(c, cb, ci) * weight, at)
        for b, c in cells:
            put(b, c, lambda lane, b=b, c=c: acc[b * columns + c, lane])

    def store(
        self,
        op: Op,
        last: Value,
        at: list[Any],
        sum_of: Callable[[Any], Any],
        target: Any,
        place: list[Any],
    ) -> None:
        """A vector of `last` to `place` of `target`, or to the result (see `vectors.store`)."""
        to = (target, place)
        vectors.store(self.region, op, last, at, sum_of, self.k.block, to, biased=True)


def choose(chain: Chain, machine: Machine) -> list[Knobs]:
    """The schedules for a chain, the best by rule first."""
    s, block = sizes(chain), block_of(chain.filter.result)
    inner, outs = (-(-c // block) for c in (s.inner, s.outs))
    columns = _columns(s, block, machine)
    before, after = [ALONE], [ALONE]
    if chain.expand:
        before = conv.tiles(s.size[1], inner, block, machine)[:BEST]
    found: list[Knobs] = []
    for expand in before:
        rows = plan(chain, machine, expand[1]).rows
        if chain.project:
            after = conv.tiles(rows * s.out[1], outs, block, machine)[:BEST]
        found += [Knobs(block, rows, expand, columns, project) for project in after]
    return found


def _columns(s: Sizes, block: int, machine: Machine) -> int:
    """Columns of the filter's tile; of NEON few tiles of a row, all but the last alike."""
    if not neon.is_neon(machine):
        return window.columns(s.out[1], block, machine)
    most = window.most_columns(loops.vectors(block, machine), machine, s.kernel[1])
    return -(-s.out[1] // -(-s.out[1] // most))


def build(region: Region) -> Any:
    """The function of a chain and its epilogue."""
    chain = chain_of(region.graph)
    assert chain is not None
    s = sizes(chain)
    k = region.pick(choose(chain, region.machine))
    with IRBuilder() as builder, ir.prim_func(s_tir=True):
        ir.func_name("kernel")
        declare(region)
        Kernel(region, chain, s, k).run()
    return builder.get()
