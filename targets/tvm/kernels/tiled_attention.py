# pyright: basic
# TVM ships no types.
"""Attention of bfloat16 on AMX tiles: softmax(q k^T * scale + mask) v, a band of rows at a time.

    scores[m, s] = sum over words of dot(q[m, word], kt[s/16, word, s%16])
    y[m, e]      = sum over words of dot(p[m, word], vp[word, e/16, e%16])

First k and v are packed, a word of kt being two numbers of a key, one of vp those of two keys. The
scores of a band stay in the cache between the products: float32, the softmax over them, too. Its
result is rounded to bfloat16 (`p`), which v is multiplied by. Keys past the last have zeros in
`p` and `vp`; rows past the last are multiplied, and nothing else is done with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as ir

from graphopt.ir.core import Op, Value
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import amx, bfloat, expr, loops, movement, stack, tiles, vectors
from graphopt.targets.tvm.amx import BLOCK
from graphopt.targets.tvm.parameters import declare
from graphopt.targets.tvm.region import Region, broadcast, shape_of

Expr = Any
Ints = tuple[int, ...]
WORDS = tiles.WORDS  # of a tile, and so keys by twos
KEYS = 2 * WORDS  # of a step of the second product, or a pair of panels of the first
SIZES = tiles.Sizes(tiles.ROWS, WORDS)
LOWEST = float("-inf")


@dataclass(frozen=True)
class Plan:
    """An attention as tiles.

    Attributes:
        batch: leading sizes of the result.
        rows, keys, depth, width: T, S, D, E of `Attention`.
        pair: tiles of rows of a band, 1 or 2.
    """

    batch: Ints
    rows: int
    keys: int
    depth: int
    width: int
    pair: int

    @property
    def band(self) -> int:
        """Rows of a band."""
        return self.pair * tiles.ROWS

    @property
    def bands(self) -> int:
        """Bands of all rows of a batch."""
        return -(-self.rows // self.band)

    @property
    def steps(self) -> int:
        """Steps of the second product, and pairs of panels of keys."""
        return -(-self.keys // KEYS)

    @property
    def chunks(self) -> int:
        """Steps of the first product: D by the numbers of a row of a tile."""
        return -(-self.depth // (2 * WORDS))

    @property
    def across(self) -> int:
        """Panels of columns of the result that are summed at once, 1 or 2."""
        return min(2, -(-self.width // BLOCK))

    @property
    def groups(self) -> int:
        """Times that many panels."""
        return -(-self.width // (BLOCK * self.across))

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return math.prod(self.batch) * self.rows * self.keys * (self.depth + self.width)


def plan(op: Op, machine: Machine) -> Plan | None:
    """How an attention runs on tiles; None where it doesn't."""
    if amx.FEATURE not in machine.cpu_features or not amx.attends(op):
        return None
    q, k, v = (shape_of(op.operand(i)) for i in range(3))
    columns = -(-k[-2] // KEYS) * KEYS
    pair = 2 if q[-2] > tiles.ROWS and 4 * 32 * columns <= stack.OF_VECTORS else 1
    return Plan(shape_of(op.result)[:-2], q[-2], k[-2], q[-1], v[-1], pair)


class Kernel:
    """One attention: its buffers, and where its operands and results are."""

    def __init__(self, region: Region, op: Op, p: Plan) -> None:
        """Declare arguments and what k and v are packed in."""
        self.region, self.op, self.p = region, op, p
        self.parallel = loops.parallel_worth(p.macs)
        declare(region)
        (self.output,) = region.graph.outputs
        self.q, self.k, self.v = (op.operand(i) for i in range(3))
        lead = [math.prod(shape_of(value)[:-2]) for value in (self.k, self.v)]
        self.kt = ir.alloc_buffer((lead[0], 2 * p.steps, p.chunks, WORDS, BLOCK), "uint32")
        wide = p.groups * p.across
        self.vp = ir.alloc_buffer((lead[1], p.steps, wide, WORDS, BLOCK), "uint32")

    def over(self, size: int) -> Any:
        """A loop over independent parts."""
        return ir.parallel(0, size) if self.parallel and size > 1 else ir.serial(0, size)

    def run(self) -> None:
        """Pack, then all bands."""
        p = self.p
        packs: list[tuple[Value, Callable[[Expr, Expr], None]]] = [
            (self.k, self.keys), (self.v, self.values)
        ]  # fmt: skip
        alike = shape_of(self.k)[:-2] == shape_of(self.v)[:-2]
        for together in [packs] if alike else [[one] for one in packs]:
            lead = math.prod(shape_of(together[0][0])[:-2])
            with self.over(lead * p.steps) as task:
                for _, pack in together:
                    pack(tirx.floordiv(task, p.steps), tirx.floormod(task, p.steps))
        with self.over(math.prod(p.batch) * p.bands) as task:
            tiles.configure(SIZES)
            self.band(tirx.floordiv(task, p.bands), tirx.floormod(task, p.bands) * p.band)
            tiles.release()

    def keys(self, lead: Expr, step: Expr) -> None:
        """Pack two panels of 16 keys."""
        p, at = self.p, movement.unflat(lead, shape_of(self.k)[:-2])
        for half in range(2):
            with ir.serial(0, BLOCK) as i, ir.serial(0, p.chunks * WORDS) as word:
                panel, n = 2 * step + half, (2 * step + half) * BLOCK + i
                found = self.word(
                    [self.number(self.k, [*at, n, 2 * word + j], (p.keys, p.depth)) for j in (0, 1)]
                )
                place = [tirx.floordiv(word, WORDS), tirx.floormod(word, WORDS), i]
                ir.buffer_store(self.kt, found, [lead, panel, *place])

    def values(self, lead: Expr, step: Expr) -> None:
        """Pack the values of 32 keys."""
        p, at = self.p, movement.unflat(lead, shape_of(self.v)[:-2])
        with ir.serial(0, WORDS) as word, ir.serial(0, p.groups * p.across) as panel:
            n = step * KEYS + 2 * word
            with ir.vectorized(0, BLOCK) as lane:
                found = self.word(
                    [self.number(self.v, [*at, n + j, panel * BLOCK + lane], (p.keys, p.width))
                     for j in (0, 1)]
                )  # fmt: skip
                ir.buffer_store(self.vp, found, [lead, step, panel, word, lane])

    def number(self, value: Value, at: list[Expr], sizes: tuple[int, int]) -> Expr:
        """The bits of an element; zero past the last row or column."""
        padded = (self.p.steps * KEYS, self.padded(value))
        ends = list(zip(at[-2:], sizes, padded, strict=True))
        near = [tirx.min(i, size - 1) if size < whole else i for i, size, whole in ends]
        found = self.bits(value, [*at[:-2], *near])
        for i, size, whole in ends:
            if size < whole:
                found = tirx.Select(i < size, found, tirx.const(0, "uint16"))
        return found

    def padded(self, value: Value) -> int:
        """Columns that a packed operand has."""
        p = self.p
        return p.groups * p.across * BLOCK if value is self.v else p.chunks * 2 * WORDS

    def bits(self, value: Value, at: list[Expr]) -> Expr:
        """A bfloat16 that is read as float32, as it is stored."""
        return bfloat.narrowed(self.region.at(value, at))

    def word(self, numbers: list[Expr]) -> Expr:
        """Two numbers as a word."""
        low, high = (tirx.Cast("uint32", n) for n in numbers)
        return tirx.bitwise_or(low, tirx.shift_left(high, tirx.const(16, "uint32")))

    def band(self, batch: Expr, first: Expr) -> None:
        """All of the rows of a band, from one on."""
        p, columns = self.p, self.p.steps * KEYS
        at = movement.unflat(batch, p.batch)
        count = tirx.min(p.rows - first, p.band) if p.rows % p.band else p.band
        scores = room((p.band, columns), "float32")
        weights = room((p.band, columns), "uint16")
        self.scores(scores, at, first, count)
        self.softmax(scores, weights, at, first, count)
        self.products(weights, at, first, count)

    def lead(self, value: Value, at: list[Expr]) -> Expr:
        """Which of the packed matrices of an operand a batch reads."""
        own = shape_of(value)[:-2]
        return movement.flat_index(broadcast(at, own, self.p.batch), own) if own else 0

    def scores(self, scores: Any, at: list[Expr], first: Expr, count: Expr) -> None:
        """The first product."""
        p, lead = self.p, self.lead(self.k, at)
        queries = room((p.band, p.chunks * KEYS), "uint16")
        own = broadcast(at, shape_of(self.q)[:-2], p.batch)
        ragged, zero = p.depth % KEYS != 0, tirx.const(0, "uint16")
        with (
            ir.serial(0, count) as r,
            ir.serial(0, p.chunks) as chunk,
            ir.vectorized(0, KEYS) as lane,
        ):
            d = chunk * KEYS + lane
            near = tirx.min(d, p.depth - 1) if ragged else d
            found = self.bits(self.q, [*own, first + r, near])
            found = tirx.Select(d < p.depth, found, zero) if ragged else found
            ir.buffer_store(queries, found, [r, d])
        with ir.serial(0, p.steps) as step:
            for i in range(p.pair):
                for j in range(2):
                    tiles.zero(tiles.SUMS[2 * i + j])
            with ir.serial(0, p.chunks) as chunk:
                self.multiply(
                    queries, chunk, 2 * 2 * WORDS * p.chunks, 2,
                    lambda j: (self.kt, [lead, 2 * step + j, chunk, 0, 0]),
                )  # fmt: skip
            for i in range(p.pair):
                for j in range(2):
                    place = [i * tiles.ROWS, step * KEYS + j * BLOCK]
                    tiles.store(tiles.SUMS[2 * i + j], scores, place, 4 * KEYS * p.steps)

    def multiply(
        self, left: Any, chunk: Expr, stride: int, across: int,
        right: Callable[[int], tuple[Any, list[Expr]]],
    ) -> None:  # fmt: skip
        """Add the products of a step to the sums."""
        for i in range(self.p.pair):
            tiles.load(tiles.LEFT[i], left, [i * tiles.ROWS, chunk * KEYS], stride)
        for j in range(across):
            buffer, place = right(j)
            tiles.load(tiles.RIGHT[j], buffer, place, 4 * BLOCK)
        for i in range(self.p.pair):
            for j in range(across):
                numbers = tiles.SUMS[2 * i + j], tiles.LEFT[i], tiles.RIGHT[j]
                tiles.multiply("tdpbf16ps", *numbers)

    def softmax(
        self, scores: Any, weights: Any, at: list[Expr], first: Expr, count: Expr
    ) -> None:
        """`weights`, of scores that are scaled and masked; step by step, for all rows."""
        p = self.p
        panels, whole = -(-p.keys // BLOCK), p.keys // BLOCK
        tops, shares = (room((p.band,), "float32") for _ in range(2))

        def over_panels(body: Callable[[Expr], None]) -> None:
            with ir.serial(0, panels) as panel:
                body(panel)

        with ir.serial(0, count) as r:
            top = ir.alloc_buffer((BLOCK,), "float32", scope="local")
            fill(top, tirx.const(LOWEST, "float32"))

            def largest(panel: Expr, r: Expr = r, top: Any = top) -> None:
                self.score(scores, at, first, r, panel, panels > whole)
                with ir.vectorized(0, BLOCK) as lane:
                    value = scores[r, panel * BLOCK + lane]
                    ir.buffer_store(top, tirx.max(top[lane], value), [lane])

            over_panels(largest)
            ir.buffer_store(tops, across(top, tirx.max), [r])
        with ir.serial(0, count) as r:
            total = ir.alloc_buffer((BLOCK,), "float32", scope="local")
            fill(total, tirx.const(0, "float32"))

            def exponential(panel: Expr, r: Expr = r, total: Any = total) -> None:
                with ir.vectorized(0, BLOCK) as lane:
                    value = expr.exp(None, scores[r, panel * BLOCK + lane] - tops[r])
                    ir.buffer_store(scores, value, [r, panel * BLOCK + lane])
                with ir.vectorized(0, BLOCK) as lane:
                    value = scores[r, panel * BLOCK + lane]
                    ir.buffer_store(total, total[lane] + value, [lane])

            over_panels(exponential)
            one = tirx.const(1, "float32")
            ir.buffer_store(shares, one / across(total, lambda a, b: a + b), [r])
        with ir.serial(0, count) as r:
            with ir.serial(0, panels) as panel, ir.vectorized(0, BLOCK) as lane:
                value = scores[r, panel * BLOCK + lane] * shares[r]
                found = bfloat.narrowed(bfloat.rounded(value))
                ir.buffer_store(weights, found, [r, panel * BLOCK + lane])
            if panels < 2 * p.steps:
                with ir.vectorized(0, BLOCK) as lane:
                    ir.buffer_store(weights, tirx.const(0, "uint16"), [r, panels * BLOCK + lane])

    def score(
        self, scores: Any, at: list[Expr], first: Expr, r: Expr, panel: Expr, ragged: bool
    ) -> None:
        """Scale and mask a vector of scores; -inf past the last key."""
        p, mask, kind = self.p, self.op.operands[3], self.op.kind
        if kind.scale == 1 and mask is None and not ragged:
            return
        with ir.vectorized(0, BLOCK) as lane:
            column = panel * BLOCK + lane
            found = scores[r, column]
            if kind.scale != 1:
                found = found * tirx.const(kind.scale, "float32")
            if mask is not None:
                near = tirx.min(column, p.keys - 1) if ragged else column
                whole = (*p.batch, p.rows, p.keys)
                index = broadcast([*at, first + r, near], shape_of(mask), whole)
                found = found + self.region.at(mask, index)
            if ragged:
                found = tirx.Select(column < p.keys, found, tirx.const(LOWEST, "float32"))
            ir.buffer_store(scores, found, [r, column])

    def products(self, weights: Any, at: list[Expr], first: Expr, count: Expr) -> None:
        """The second product, and its epilogue."""
        p, lead = self.p, self.lead(self.v, at)
        total = room((p.band, p.across * BLOCK), "float32")
        with ir.serial(0, p.groups) as group:
            cells = [(i, j) for i in range(p.pair) for j in range(p.across)]
            for i, j in cells:
                tiles.zero(tiles.SUMS[2 * i + j])
            with ir.serial(0, p.steps) as step:
                self.multiply(
                    weights, step, 2 * KEYS * p.steps, p.across,
                    lambda j: (self.vp, [lead, step, group * p.across + j, 0, 0]),
                )  # fmt: skip
            for i, j in cells:
                place = [i * tiles.ROWS, j * BLOCK]
                tiles.store(tiles.SUMS[2 * i + j], total, place, 4 * BLOCK * p.across)
            with ir.serial(0, count) as r:
                for j in range(p.across):
                    self.lanes(total, at, first, r, group, j)

    def lanes(
        self, total: Any, at: list[Expr], first: Expr, r: Expr, group: Expr, j: int
    ) -> None:
        """Store a row of a panel through the epilogue; one by one, where columns don't fill it."""
        p = self.p
        whole = p.width % BLOCK == 0 and p.width // BLOCK % p.across == 0
        with ir.vectorized(0, BLOCK) if whole else ir.serial(0, BLOCK) as lane:
            column = (group * p.across + j) * BLOCK + lane
            with vectors.when(column < p.width, not whole):
                value = total[r, j * BLOCK + lane]
                self.region.bind(self.op.result, lambda index: value)
                index = [*at, first + r, column]
                made = self.region.element(self.output, index, "")
                ir.buffer_store(self.region.result, made, index)


def room(shape: Ints, dtype: str) -> Any:
    """A buffer of a band: on the stack where it is small, else of the driver."""
    size = math.prod(shape) * tvm.DataType(dtype).bits // 8
    if size > stack.OF_VECTORS:
        return ir.alloc_buffer(shape, dtype)
    return tiles.scratch(shape, dtype)


def fill(vector: Any, value: Expr) -> None:
    """Set all lanes."""
    with ir.vectorized(0, BLOCK) as lane:
        ir.buffer_store(vector, value, [lane])


def across(vector: Any, pair: Callable[[Expr, Expr], Expr]) -> Expr:
    """What `pair` makes of all lanes, by halves."""
    width = BLOCK // 2
    while width > 1:
        with ir.vectorized(0, width) as lane:
            ir.buffer_store(vector, pair(vector[lane], vector[width + lane]), [lane])
        width //= 2
    return pair(vector[0], vector[1])


def build(region: Region, op: Op, p: Plan) -> Any:
    """The function of an attention and its epilogue."""
    with IRBuilder() as builder, ir.prim_func(s_tir=True):
        ir.func_name("kernel")
        Kernel(region, op, p).run()
    return builder.get()
