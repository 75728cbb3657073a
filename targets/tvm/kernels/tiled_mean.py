# pyright: basic
# TVM ships no types.
"""A convolution on AMX tiles (`tiled_conv`) and the mean of its image, in one call.

    y[n, c] = (sum over the image of act(sums)[n, c, ..]) / pixels

A task has all rows of an image, and some panels. Each tile's rows are summed through the epilogue,
and join the sum of their panel, which stays in the first cache: so the order of a sum doesn't
depend on the number of threads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as ir

from graphopt.ir.core import Op
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import loops, means, tiles, vectors
from graphopt.targets.tvm.amx import BLOCK
from graphopt.targets.tvm.kernels import tiled, tiled_conv
from graphopt.targets.tvm.kernels.tiled_conv import Geometry
from graphopt.targets.tvm.kernels.tiled_plan import Rows
from graphopt.targets.tvm.region import Region, static

Expr = Any
ZERO = tirx.const(0.0, "float32")


def plan(op: Op, machine: Machine) -> Geometry | None:
    """How the convolution runs: a task has all rows; as many tasks as cores, where there are."""
    g = tiled_conv.plan(op, machine)
    if g is None:
        return None
    p = replace(g.plan, whole=True)
    if not p.panels_first:
        shares = reversed(loops.divisors(p.pairs, p.pairs))
        enough = (d for d in shares if p.images * d >= machine.cores)
        p = replace(p, parts=next(enough, p.pairs))
    return replace(g, plan=p)


class Mean(tiled_conv.Convolution):
    """A convolution whose results are summed by channel."""

    def __init__(self, region: Region, op: Op, g: Geometry, work: int) -> None:
        """What is summed is the operand of the mean."""
        super().__init__(region, op, g, work)
        found = means.mean_of(region.graph)
        assert found
        self.mean, self.element = found.mean, found.mean.operand(0)
        self.kept = self.p.width * (1 if self.p.panels_first else self.p.pairs // self.p.parts)
        self.first: Expr = 0

    def start(self) -> None:
        """The sums of a task's panels."""
        super().start()
        self.sums_kept = tiles.scratch((self.kept, BLOCK), "float32")
        with ir.serial(0, self.kept) as panel, ir.vectorized(0, BLOCK) as lane:
            ir.buffer_store(self.sums_kept, ZERO, [panel, lane])

    def rows_of_piece(self) -> int:
        """As many as divide the rows of a tile."""
        return next(d for d in (4, 3, 2, 1) if self.p.sizes.rows % d == 0)

    def store(
        self, total: Any, at: list[Expr], part: Expr, image: Expr, rows: Rows, panel: Expr
    ) -> None:
        """Add the rows of a piece from the tile's first on to the panel's sum."""
        several, tag = self.rows_of_piece(), static(self.element).layout
        near = ir.alloc_buffer((several, BLOCK), "float32", scope="local")
        for turn in range(several):
            r = part * several + turn
            place = self.place(rows, r)
            counts = tirx.all(rows.start + r >= rows.first, *self.counts(place))
            with ir.vectorized(0, BLOCK) as lane:
                self.read(total[at[0] + r, at[1] + lane])
                index = self.index(image, place, panel * BLOCK + lane)
                found = self.region.element(self.element, index, tag)
                ir.buffer_store(near, tirx.Select(counts, found, ZERO), [turn, lane])
        local = tirx.floormod(panel, self.kept)
        with ir.vectorized(0, BLOCK) as lane:
            found = near[0, lane]
            for turn in range(1, several):
                found = found + near[turn, lane]
            added = self.sums_kept[local, lane] + found
            ir.buffer_store(self.sums_kept, added, [local, lane])

    def done(self, chunk: Expr, first: Expr) -> None:
        """The means of a task's panels."""
        tag, columns = static(self.output).layout, self.p.columns
        whole = bool(tag) or columns % BLOCK == 0
        rank = len(static(self.mean.result).shape or ())
        pixels = tirx.const(float(self.g.s.out[0] * self.g.s.out[1]), "float32")
        with ir.serial(0, self.kept) as local:
            panel = first * self.p.width + local
            lanes = ir.vectorized(0, BLOCK) if whole else ir.serial(0, BLOCK)
            held = vectors.when(panel < self.p.panels, self.p.panels % self.p.width != 0)
            with held, lanes as lane:
                column = panel * BLOCK + lane
                with vectors.when(column < columns, not whole):
                    value = self.sums_kept[local, lane] / pixels
                    self.region.bind(self.mean.result, lambda index: value)
                    index = [chunk, column, *[tirx.const(0, "int32")] * (rank - 2)]
                    made = self.region.element(self.output, index, tag)
                    ir.buffer_store(self.region.result, made, self.region.physical(tag, index))


def build(region: Region) -> Any:
    """The function of a convolution, the mean and their epilogues."""
    found = means.mean_of(region.graph)
    assert found
    g = plan(found.conv, region.machine)
    assert g
    return tiled.build(region, found.conv, g, Mean, g.s.macs)
