"""A kernel's time where nobody has measured it: the roofline, and how near its family comes.

    seconds = call + least(work) / efficiency

`least` is the machine's roofline; of families that compute and wait for memory in turn, the sum of
both times instead of the larger one. The efficiency is that of the most similar kernels of the same
family that were measured on this machine: a weighted geometric mean over the nearest in operations,
bytes and kinds of ops, with what the family typically reaches as one more, far away.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from graphopt.analysis.work import Work
from graphopt.targets.costs.database import Row
from graphopt.targets.roofline import Roofline

NEAREST = 4  # kernels that are asked
PRIOR = 4.0  # octaves from every kernel to what is typical
OTHER_OP = 0.25  # octaves for an op that only one of two kernels has
OTHER_MOVE = 4.0  # the same in the family of element-wise ops and movements, where ops are all
CALL = 0.1e-6  # seconds of a call that computes nothing, one thread
SLOWEST = 0.01  # of the roofline: below it a time says nothing about a family

# Of the roofline, where nothing was measured: the medians of 16 models' kernels on one thread of a
# server with AVX-512, rounded. Convolutions of bytes: what dense ones reach (0.87 to 0.98 of Zen
# 4's peak, 0.77 to 0.9 of that server's); the median has those of three channels in it.
TYPICAL = {
    "winograd": 0.85,
    "conv": 0.75,
    "conv_chain": 0.65,
    "conv_integer": 0.85,
    "matmul_integer": 0.5,
    "depthwise_integer": 0.3,
    "matmul": 0.7,
    "reduce": 0.4,
    "depthwise": 0.35,
    "excite": 0.35,
    "attention": 0.3,
    "pool": 0.3,
    "conv_transpose": 0.15,
    "norm": 0.15,
}
OTHERS = 0.15
IN_TURN = {"winograd"}  # transforms, then products with all filters, tile by tile


@dataclass(frozen=True)
class _Point:
    """A measured kernel: octaves of its operations and bytes, the logarithm of its efficiency."""

    flops: float
    bytes: float
    ops: frozenset[str]
    efficiency: float


@dataclass
class Model:
    """Prices from a roofline and the rows of the same CPU and threads."""

    roofline: Roofline
    points: dict[str, list[_Point]] = field(default_factory=dict[str, list[_Point]])

    @staticmethod
    def of(roofline: Roofline, rows: Iterable[Row]) -> Model:
        """Learn from measured kernels."""
        model = Model(roofline)
        for row in rows:
            model.learn(row)
        return model

    def learn(self, row: Row, footprint: int = 0) -> None:
        """Take one more kernel into account, timed in a model of `footprint` bytes."""
        least = self.least(row.family, row.work, footprint)
        spent = max(1e-6 * row.us - CALL, 1e-9)
        if least <= 0:
            return
        efficiency = math.log(min(max(least / spent, SLOWEST), 1.0))
        point = _Point(*_place(row.work), frozenset(row.ops.split()), efficiency)
        self.points.setdefault(row.family, []).append(point)

    def seconds(self, family: str, ops: Iterable[str], work: Work, footprint: int = 0) -> float:
        """The time of a kernel of a family; `footprint` as in `Roofline.bound`."""
        return CALL + self.least(family, work, footprint) / self.efficiency(family, ops, work)

    def least(self, family: str, work: Work, footprint: int = 0) -> float:
        """The time of a kernel that does all that the machine can."""
        parts = self.roofline.parts(work, footprint)
        return sum(parts) if family in IN_TURN else max(parts)

    def efficiency(self, family: str, ops: Iterable[str], work: Work) -> float:
        """How much of the roofline a kernel reaches."""
        mine = _Point(*_place(work), frozenset(ops), math.log(TYPICAL.get(family, OTHERS)))
        other = OTHER_MOVE if family == "elementwise" else OTHER_OP
        known = ((_distance(mine, p, other), p.efficiency) for p in self.points.get(family, []))
        asked = [*sorted(known)[:NEAREST], (PRIOR, mine.efficiency)]
        weights = [1 / (0.1 + distance) for distance, _ in asked]
        total = sum(w * e for w, (_, e) in zip(weights, asked, strict=True))
        return math.exp(total / sum(weights))


def _distance(a: _Point, b: _Point, other: float) -> float:
    return math.hypot(a.flops - b.flops, a.bytes - b.bytes) + other * len(a.ops ^ b.ops)


def _place(work: Work) -> tuple[float, float]:
    """Octaves of operations and of bytes."""
    return math.log2(work.flops + 1), math.log2(work.bytes + 1)
