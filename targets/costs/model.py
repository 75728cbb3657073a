"""A kernel's time where nobody has measured it: the roofline, and how near its family comes.

    seconds = call + least(work) / efficiency

`least` is the machine's roofline. The efficiency is that of the most similar kernels of the same
family that were measured on this machine (a geometric mean over the nearest in operations and
bytes, on logarithmic scales); with none, what the family typically reaches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from graphopt.analysis.work import Work
from graphopt.targets.costs.database import Row
from graphopt.targets.roofline import Roofline

NEAREST = 4  # kernels that are asked
CALL = 0.1e-6  # seconds of a call that computes nothing, one thread
SLOWEST = 0.01  # of the roofline: below it a time says nothing about a family

# Of the roofline, where nothing was measured: round numbers from this library's own profiles.
TYPICAL = {
    "conv": 0.5,
    "matmul": 0.5,
    "attention": 0.4,
    "depthwise": 0.25,
    "conv_transpose": 0.15,
    "pool": 0.2,
    "norm": 0.1,
    "softmax": 0.1,
    "onnxruntime": 0.15,
}
OTHERS = 0.15


@dataclass(frozen=True)
class _Point:
    """A measured kernel: octaves of its operations and bytes, the logarithm of its efficiency."""

    flops: float
    bytes: float
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

    def learn(self, row: Row) -> None:
        """Take one more kernel into account."""
        least = self.roofline.bound(row.work).seconds
        spent = max(1e-6 * row.us - CALL, 1e-9)
        if least <= 0:
            return
        efficiency = math.log(min(max(least / spent, SLOWEST), 1.0))
        self.points.setdefault(row.family, []).append(_Point(*_place(row.work), efficiency))

    def seconds(self, family: str, work: Work) -> float:
        """The time of a kernel of a family."""
        least = self.roofline.bound(work).seconds
        return CALL + least / self.efficiency(family, work)

    def efficiency(self, family: str, work: Work) -> float:
        """How much of the roofline a kernel reaches."""
        known = self.points.get(family, [])
        if not known:
            return TYPICAL.get(family, OTHERS)
        return math.exp(_mean(_nearest(known, work)))


def _nearest(points: Sequence[_Point], work: Work) -> list[tuple[float, float]]:
    """Weights and efficiencies of the nearest points: the nearer, the heavier."""
    flops, moved = _place(work)
    found = sorted((math.hypot(p.flops - flops, p.bytes - moved), p.efficiency) for p in points)
    return [(1 / (0.1 + distance), efficiency) for distance, efficiency in found[:NEAREST]]


def _mean(weighted: Sequence[tuple[float, float]]) -> float:
    return sum(w * e for w, e in weighted) / sum(w for w, _ in weighted)


def _place(work: Work) -> tuple[float, float]:
    """Octaves of operations and of bytes."""
    return math.log2(work.flops + 1), math.log2(work.bytes + 1)
