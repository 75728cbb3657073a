# pyright: basic
# TVM ships no types.
"""The epilogue of a register tile on AMX, beside the products of the next one.

Stores of tiles wait for the products, and what waits fills the core's schedulers: right behind the
last products they kept all that follows from starting. So a register tile's sums are stored in the
first step of the next one, each just before its tile is cleared, and the pieces of the epilogue
(some rows of a tile) come between the products of the steps. Where a single step is all, sums are
stored behind it, each after the epilogue of the tile that it replaces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as ir

from graphopt.targets.tvm import tiles, vectors
from graphopt.targets.tvm.amx import BLOCK

Expr = Any


@dataclass(frozen=True)
class Before:
    """A register tile whose sums are done.

    Attributes:
        kernel: that has it.
        total: the copy of its sums.
        group: its rows.
        panel: its columns.
        held: tells whether there is one; None: there is.
    """

    kernel: Any
    total: Any
    group: Expr
    panel: Expr
    held: Expr | None

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Its tiles: of rows, of columns."""
        p = self.kernel.p
        return [(i, j) for i in range(p.pair) for j in range(p.width)]

    @property
    def steps(self) -> int:
        """Of the next register tile's sum."""
        return math.prod(self.kernel.steps())

    @property
    def late(self) -> bool:
        """Whether sums are stored in the first step of the next register tile."""
        return self.steps > 1

    @property
    def parts(self) -> int:
        """Pieces of a tile."""
        return -(-self.kernel.p.sizes.rows // self.kernel.rows_of_piece())

    @property
    def count(self) -> int:
        """Pieces of all its tiles."""
        return self.parts * len(self.cells)

    @property
    def share(self) -> int:
        """Pieces beside a step."""
        return -(-self.count // self.steps)

    @property
    def busy(self) -> int:
        """The first steps, beside which there are pieces."""
        return -(-self.count // self.share)

    def keep(self, cell: int) -> None:
        """Store the sums of a tile."""
        i, j = self.cells[cell]
        place = [i * tiles.ROWS, j * BLOCK]
        tiles.store(tiles.SUMS[2 * i + j], self.total, place, 4 * self.kernel.p.width * BLOCK)

    def beside(self, step: int, cell: int) -> None:
        """The pieces that follow a product of a step."""
        share, cells = self.share, len(self.cells)
        for piece in range(share * cell // cells, share * (cell + 1) // cells):
            if step * share + piece < self.count:
                self.piece(step * share + piece)

    def exchange(self) -> None:
        """Tile by tile: its epilogue, then the sums of the next one in its place."""
        for cell in range(len(self.cells)):
            with ir.serial(0, self.parts) as part:
                self.piece(cell * self.parts + part)
            self.keep(cell)

    def rest(self) -> None:
        """All of it, where no register tile follows."""
        if self.late:
            for cell in range(len(self.cells)):
                self.keep(cell)
        with ir.serial(0, self.count) as piece:
            self.piece(piece)

    def piece(self, piece: Expr) -> None:
        """Some rows of a tile through the epilogue."""
        k, p = self.kernel, self.kernel.p
        cell, part = _divided(piece, self.parts)
        i, j = _divided(cell, p.width)
        image, mine = _divided(self.group, p.groups)
        here = self.panel * p.width + j
        checks = [] if self.held is None else [self.held]
        checks += [here < p.panels] if p.panels % p.width else []
        with vectors.when(tirx.all(*checks) if checks else None, bool(checks)):
            rows = k.tile_of(mine, i)
            k.store(self.total, [i * tiles.ROWS, j * BLOCK], part, image, rows, here)


def _divided(a: Expr, b: int) -> tuple[Expr, Expr]:
    """Quotient and remainder."""
    return divmod(a, b) if isinstance(a, int) else (tirx.floordiv(a, b), tirx.floormod(a, b))
