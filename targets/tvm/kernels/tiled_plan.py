# pyright: basic
# TVM ships no types.
"""How a product runs on AMX tiles: what is multiplied, in how many tiles, in which order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphopt.targets.machine import Machine
from graphopt.targets.tvm import amx, tiles
from graphopt.targets.tvm.amx import BLOCK

TASKS = 16  # that threads share, where there are as many
GROUPS = 8  # register tiles of rows, from which on threads share those


@dataclass(frozen=True)
class Words:
    """What is multiplied: numbers of a word, the type of sums, the instruction."""

    per: int
    dtype: str
    multiply: str
    stored: str


BYTES = Words(amx.BYTES, "int32", "tdpbusd", "uint8")
HALVES = Words(amx.HALVES, "float32", "tdpbf16ps", "uint16")


@dataclass(frozen=True)
class Rows:
    """A tile of rows: its line, the first row that it stores, and the row where it starts."""

    line: Any
    first: Any
    start: Any


@dataclass(frozen=True)
class Plan:
    """A product as tiles.

    Attributes:
        of: what is multiplied.
        images: independent images (or 1), each of `lines` lines of `rows` rows.
        lines: lines that no tile crosses.
        rows: of a line.
        columns: of the result.
        words: that are summed at once.
        panels_first: whether a panel of weights stays while all rows pass, or rows stay.
        cold: whether weights don't stay in the cache, so that the next panels are fetched ahead.
        parts: of the panels, that tasks share where rows stay; they divide the pairs.
        whole: whether a task has all rows of an image.
    """

    of: Words
    images: int
    lines: int
    rows: int
    columns: int
    words: int
    panels_first: bool
    cold: bool = False
    parts: int = 1
    whole: bool = False

    @property
    def sizes(self) -> tiles.Sizes:
        """Of the tiles."""
        return tiles.Sizes(min(self.rows, tiles.ROWS), self.words)

    @property
    def across(self) -> int:
        """Tiles of a line."""
        return -(-self.rows // tiles.ROWS)

    @property
    def count(self) -> int:
        """Tiles of rows of an image."""
        return self.lines * self.across

    @property
    def pair(self) -> int:
        """Tiles of rows of a register tile."""
        return min(2, self.count)

    @property
    def groups(self) -> int:
        """Register tiles of rows of an image."""
        return -(-self.count // self.pair)

    @property
    def panels(self) -> int:
        """Tiles of columns."""
        return -(-self.columns // BLOCK)

    @property
    def width(self) -> int:
        """Tiles of columns of a register tile."""
        return min(2, self.panels)

    @property
    def pairs(self) -> int:
        """Register tiles of columns."""
        return -(-self.panels // self.width)

    @property
    def chunk(self) -> int:
        """Register tiles of rows of a task."""
        if self.whole:
            return self.groups
        tasks = -(-TASKS // self.pairs) if self.panels_first else TASKS
        return -(-self.images * self.groups // tasks)


def stays(panel: int, panels: int, machine: Machine) -> bool:
    """Whether two panels of some bytes, of several pairs, stay in the first cache."""
    return panels > 2 and 2 * panel <= machine.l1_bytes * 3 // 4
