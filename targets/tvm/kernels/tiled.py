# pyright: basic
# TVM ships no types.
"""Sums of products on AMX tiles, of u8 by s8 integers or of bfloat16.

    y[p, ob, oi] = sum over steps, words of dot(x[p at step, word], w[ob, step, word, oi])

A register tile is up to 2 x 2 tiles: two tiles of 16 rows (of a matrix, or pixels of an image), two
panels of 16 columns. Rows are those of `lines` of equal length; the last tile of a line starts
early, so that it ends where that does, and what it computes again is not stored again. Sums go
through a copy in the first cache to the epilogue (`tiled_before`), which the core computes beside
the products of the next register tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as ir

from graphopt.ir.core import Op
from graphopt.targets.tvm import ahead, bfloat, loops, movement, packs, tiles, vectors
from graphopt.targets.tvm.amx import BLOCK
from graphopt.targets.tvm.intrinsics import call
from graphopt.targets.tvm.kernels.tiled_before import Before
from graphopt.targets.tvm.kernels.tiled_plan import Plan, Rows
from graphopt.targets.tvm.parameters import declare
from graphopt.targets.tvm.region import Region, static

Expr = Any
TOGETHER = 4  # rows that are stored at once, where they lie beside each other


class Kernel:
    """One product: its buffers, and where its operands and results are."""

    def __init__(self, region: Region, op: Op, p: Plan, work: int) -> None:
        """Declare arguments; results are stored as the region says."""
        self.region, self.op, self.p = region, op, p
        self.parallel = loops.parallel_worth(work)
        declare(region)
        (self.output,) = region.graph.outputs
        self.x, self.w = (bfloat.raw(region.tensors[op.operand(i)]) for i in (0, 1))

    def steps(self) -> tuple[int, ...]:
        """The loops over what is summed, a step of `words` in each turn."""
        raise NotImplementedError

    def left(self, image: Expr, i: int, rows: Rows, at: list[Expr]) -> tuple[list[Expr], int]:
        """Where tile `i` of x begins in a step, and the bytes from row to row."""
        raise NotImplementedError

    def right(self, panel: Expr, at: list[Expr]) -> list[Expr]:
        """Where a tile of w begins in a step."""
        raise NotImplementedError

    def place(self, rows: Rows, r: Expr) -> list[Expr]:
        """The index of row `r` of a tile in the result, but for its image and column."""
        raise NotImplementedError

    def index(self, image: Expr, place: list[Expr], column: Expr) -> list[Expr]:
        """The result's logical index."""
        raise NotImplementedError

    def start(self) -> None:
        """Declare what a task needs besides."""

    def done(self, chunk: Expr, first: Expr) -> None:
        """Store what is kept until a task's last register tile; its panels are from `first` on."""

    def ready(self, image: Expr, rows: list[Rows]) -> None:
        """Make ready what the tiles of a register tile read."""

    def counts(self, place: list[Expr]) -> list[Expr]:
        """What tells whether a place is one of the result."""
        return []

    def consecutive(self) -> bool:
        """Whether places of one line lie beside each other in the result."""
        return False

    def beside(self, place: list[Expr]) -> list[Expr]:
        """What tells whether `TOGETHER` places from one on are of its line."""
        return []

    def over(self, size: int) -> Any:
        """A loop over independent parts."""
        return ir.parallel(0, size) if self.parallel and size > 1 else ir.serial(0, size)

    def run(self) -> None:
        """All register tiles, in the plan's order.

        A task has register tiles one after another; while one is summed, the one before it goes
        through the epilogue.
        """
        p = self.p
        panels, chunk, chunks = p.pairs // p.parts, p.chunk, -(-p.images * p.groups // p.chunk)
        with self.over(panels * chunks if p.panels_first else chunks * p.parts) as task:
            mine = tirx.floormod(task, chunks)
            part = tirx.floordiv(task, chunks) * panels
            groups = tirx.min(chunk, p.images * p.groups - mine * chunk)
            turns = groups if p.panels_first else groups * panels

            def tile(turn: Expr) -> tuple[Expr, Expr]:
                if p.panels_first:
                    return mine * chunk + turn, tirx.floordiv(task, chunks)
                panel = tirx.floormod(turn, panels)
                panel = part + panel if p.parts > 1 else panel
                return mine * chunk + tirx.floordiv(turn, panels), panel

            tiles.configure(p.sizes)
            self.start()
            total = tiles.scratch((p.pair * tiles.ROWS, p.width * BLOCK), p.of.dtype)
            with ir.serial(0, turns) as turn:
                before = Before(self, total, *tile(tirx.max(turn - 1, 0)), turn > 0)
                self.sum(before, *tile(turn), turn)
            last = Before(self, total, *tile(turns - 1), None)
            last.rest()
            tiles.release()
            self.done(mine, tirx.floordiv(task, chunks) if p.panels_first else part)

    def rows_of(self, group: Expr) -> tuple[Expr, list[Rows]]:
        """The image and the tiles of rows of a register tile."""
        p = self.p
        image, mine = tirx.floordiv(group, p.groups), tirx.floormod(group, p.groups)
        return image, [self.tile_of(mine, i) for i in range(p.pair)]

    def tile_of(self, mine: Expr, i: Expr) -> Rows:
        """Tile `i` of rows of a register tile of an image."""
        p, tile = self.p, mine * self.p.pair + i
        held = tirx.min(tile, p.count - 1)
        line, part = tirx.floordiv(held, p.across), tirx.floormod(held, p.across)
        first = part * tiles.ROWS
        start = tirx.min(first, max(0, p.rows - tiles.ROWS))
        if p.count % p.pair:  # a tile too many stores nothing
            first = first + tirx.Select(tile < p.count, 0, p.rows)
        return Rows(line, first, start)

    def sum(self, before: Before, group: Expr, panel: Expr, turn: Expr) -> None:
        """The sums of a register tile, and the epilogue of the one before it."""
        p = self.p
        image, rows = self.rows_of(group)
        fresh = True if p.panels_first else tirx.floormod(turn, p.pairs // p.parts) == 0
        with vectors.when(fresh, not p.panels_first):
            self.ready(image, rows)
        panels = [tirx.min(panel * p.width + j, p.panels - 1) for j in range(p.width)]
        fetch = self.fetcher(panel, turn) if p.cold else None
        self.sums(image, rows, panels, before, fetch)

    def fetcher(self, panel: Expr, turn: Expr) -> Callable[[Expr], None]:
        """What fetches, in a step, its share of the next panels into the second cache."""
        p, steps = self.p, math.prod(self.steps())
        every = ahead.lines_of(self.w)
        lines = every * p.width // p.panels
        share = -(-lines // (steps * p.chunk))
        last = every - share

        def fetch(step: Expr) -> None:
            line = (panel + 1) * lines + tirx.min((turn * steps + step) * share, lines - share)
            for i in range(share):
                ir.evaluate(ahead.fetch(self.w, tirx.min(line, last) + i))

        return fetch

    def sums(
        self, image: Expr, rows: list[Rows], panels: list[Expr], before: Before,
        fetch: Callable[[Expr], None] | None,
    ) -> None:  # fmt: skip
        """All steps of the register tile.

        Those beside which the epilogue runs are written out, so that its places are constants.
        """
        sizes, written = self.steps(), before.busy
        for step in range(written):
            at = [tirx.const(i, "int32") for i in map(int, np.unravel_index(step, sizes))]
            if fetch:
                fetch(step)
            self.step(image, rows, panels, before, at, step)
        if written < before.steps:
            with ir.serial(0, before.steps - written) as rest:
                if fetch:
                    fetch(rest + written)
                at = movement.unflat(rest + written, sizes)
                self.step(image, rows, panels, before, at, written)
        if not before.late:
            before.exchange()

    def step(
        self, image: Expr, rows: list[Rows], panels: list[Expr], before: Before,
        at: list[Expr], step: int,
    ) -> None:  # fmt: skip
        """One step, at a place among the sizes: load, multiply, and what is computed beside it."""
        for i, one in enumerate(rows):
            where, stride = self.left(image, i, one, at)
            tiles.load(tiles.LEFT[i], self.x, where, stride)
        for j, panel in enumerate(panels):
            tiles.load(tiles.RIGHT[j], self.w, self.right(panel, at), 4 * BLOCK)
        for cell, (i, j) in enumerate(before.cells):
            if step == 0:
                if before.late:
                    before.keep(cell)
                tiles.zero(tiles.SUMS[2 * i + j])
            numbers = tiles.SUMS[2 * i + j], tiles.LEFT[i], tiles.RIGHT[j]
            tiles.multiply(self.p.of.multiply, *numbers)
            if before.late:
                before.beside(step, cell)

    def rows_of_piece(self) -> int:
        """Rows that go through the epilogue together."""
        return TOGETHER

    def store(
        self, total: Any, at: list[Expr], part: Expr, image: Expr, rows: Rows, panel: Expr
    ) -> None:
        """Store a piece of a tile, of its rows those from its first on, through the epilogue."""
        p, size = self.p, self.p.sizes.rows
        skips, ragged = p.rows % size != 0 or p.count % p.pair != 0, size % TOGETHER != 0

        def one(r: Expr) -> None:
            place = self.place(rows, r)
            checks = [*([rows.start + r >= rows.first] if skips else []), *self.counts(place)]
            checks += [r < size] if ragged else []
            with vectors.when(tirx.all(*checks) if checks else None, bool(checks)):
                self.lanes(total, [at[0] + r, at[1]], image, place, panel)

        r = part * TOGETHER
        place = self.place(rows, r)
        checks = [*([rows.start + r >= rows.first] if skips else []), *self.beside(place)]
        checks += [part < size // TOGETHER] if ragged else []
        if not self.consecutive():
            with ir.serial(0, TOGETHER) as rest:
                one(r + rest)
        elif not checks:
            self.several(total, [at[0] + r, at[1]], image, place, panel)
        else:
            with ir.If(tirx.all(*checks)):
                with ir.Then():
                    self.several(total, [at[0] + r, at[1]], image, place, panel)
                with ir.Else(), ir.serial(0, TOGETHER) as rest:
                    one(r + rest)

    def several(
        self, total: Any, at: list[Expr], image: Expr, place: list[Expr], panel: Expr
    ) -> None:
        """Store rows that that lie beside each other in the result; bytes are packed first."""
        row, first = at

        def beside(i: Expr) -> list[Expr]:
            return [*place[:-1], place[-1] + i]

        if not packs.fits(self.region, self.output):
            for i in range(TOGETHER):
                self.lanes(total, [row + i, first], image, beside(i), panel)
            return
        tag = static(self.output).layout
        rounded, padding, shift = packs.numbers(self.region, self.output)
        near = ir.alloc_buffer((TOGETHER, BLOCK), "int32", scope="local")
        for i in range(TOGETHER):
            with ir.vectorized(0, BLOCK) as lane:
                self.read(total[row + i, first + lane])
                index = self.index(image, beside(i), panel * BLOCK + lane)
                made = self.region.element(self.output, index, tag, rounded, padding)
                ir.buffer_store(near, made, [i, lane])
        with ir.vectorized(0, TOGETHER * BLOCK) as lane:
            i, c = tirx.floordiv(lane, BLOCK), tirx.floormod(lane, BLOCK)
            index = self.index(image, beside(i), panel * BLOCK + c)
            found = call("narrow", near[i, c], shift)
            ir.buffer_store(self.region.result, found, self.region.physical(tag, index))

    def lanes(
        self, total: Any, at: list[Expr], image: Expr, place: list[Expr], panel: Expr
    ) -> None:
        """Store a row of a panel; one by one, where the columns of a matrix don't fill it."""
        tag, columns = static(self.output).layout, self.p.columns
        whole = bool(tag) or columns % BLOCK == 0
        with ir.vectorized(0, BLOCK) if whole else ir.serial(0, BLOCK) as lane:
            column = panel * BLOCK + lane
            with vectors.when(column < columns, not whole):
                self.read(total[at[0], at[1] + lane])
                index = self.index(image, place, column)
                made = self.region.element(self.output, index, tag)
                ir.buffer_store(self.region.result, made, self.region.physical(tag, index))

    def read(self, value: Expr) -> None:
        """Let the epilogue read a sum."""
        self.region.bind(self.op.result, lambda index: self.summed(value, index))

    def summed(self, value: Expr, index: Any) -> Expr:
        """What the op makes of its sum."""
        return value


def build(region: Region, op: Op, p: Plan, form: Any, work: int) -> Any:
    """The function of a product and its epilogue; `form` makes its kernel."""
    with IRBuilder() as builder, ir.prim_func(s_tir=True):
        ir.func_name("kernel")
        form(region, op, p, work).run()
    return builder.get()
