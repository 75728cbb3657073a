"""Which channels to remove: greedily the one of least loss, the other weights compensating.

    loss of B = tr W_B (H_BB)^-1 W_B^T
    W <- W - W_B (H_BB)^-1 H_B:,   H <- H - H_:B (H_BB)^-1 H_B:

H is the inverse of the Gram matrix of what a layer reads (Optimal Brain Surgeon for blocks of
columns: Frantar and Alistarh 2022, arXiv 2208.11580, equations 3 to 5; for structures: Wang et al.
2024, arXiv 2403.18955). What is removed of several layers at once loses the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.ir.types import Array
from graphopt.lazy import Lazy

linalg: Any = Lazy("scipy.linalg")
STEPS = 96  # in which a group's channels go, at most: large groups lose several at a time


@dataclass
class Reading:
    """y = W x of a layer (or of one group of a convolution) that reads channels that may go.

    `w`: float64 [M, K], changed; `inverse`: float64 [K, K], of the Gram matrix of x, changed;
    `at`: the columns that each unit has, [units] arrays; `weight`: what its squared error counts.
    """

    w: Array
    inverse: Array
    at: Sequence[Array]
    weight: float = 1.0
    batches: list[tuple[Array, Array]] = field(default_factory=list[tuple[Array, Array]])

    def __post_init__(self) -> None:
        """Put units of equally many columns together."""
        sizes = np.array([len(a) for a in self.at])
        for size in np.unique(sizes[sizes > 0]):
            units = np.flatnonzero(sizes == size)
            self.batches.append((units, np.stack([self.at[int(u)] for u in units])))

    def losses(self, alive: Array) -> Array:
        """What removing each unit alone would lose now; 0 of those that are gone."""
        found = np.zeros(len(self.at))
        for units, at in self.batches:
            there = alive[units]
            some = at[there]
            blocks = self.inverse[some[:, :, None], some[:, None, :]]  # [n, l, l]
            columns = self.w.T[some]  # [n, l, M]
            powers = columns @ columns.transpose(0, 2, 1)
            inverses = np.linalg.inv(blocks)
            found[units[there]] = np.einsum("nij,nij->n", inverses, powers)
        return self.weight * np.maximum(found, 0)

    def remove(self, unit: int) -> None:
        """Let a unit's columns go and the others make up for it."""
        b = self.at[unit]
        if not len(b):
            return
        rows = self.inverse[b]
        block = rows[:, b]
        ahead: Array = linalg.solve(block, rows, assume_a="pos")  # (H_BB)^-1 H_B:
        self.w -= self.w[:, b] @ ahead
        self.inverse -= rows.T @ ahead
        self.w[:, b] = 0
        self.inverse[b] = self.inverse[:, b] = 0
        self.inverse[b, b] = 1.0  # stands for nothing any more


def reading(w: Array, gram: Array, at: Sequence[Array], weight: float) -> Reading:
    """One to begin with.

    Args:
        w: float64 [M, K].
        gram: float64 [K, K], positive definite.
        at: columns of each unit.
        weight: what its squared error counts.
    """
    factor = linalg.cho_factor(gram, check_finite=False)
    inverse: Array = linalg.cho_solve(factor, np.eye(len(gram)), check_finite=False)
    return Reading(w.copy(), (inverse + inverse.T) / 2, at, weight)


@dataclass(frozen=True)
class Order:
    """Units in the order in which they go, and what is lost by then: `losses[n]` of the first n."""

    units: Array
    losses: Array


def eliminate(readings: Sequence[Reading], count: int, most: int) -> Order:
    """Remove units greedily.

    Args:
        readings: of the layers that read them; they are changed.
        count: units that there are.
        most: how many to remove.
    """
    alive = np.ones(count, np.bool_)
    gone, losses = list[int](), [0.0]
    each = -(-most // STEPS)
    while len(gone) < most:
        costs = sum((r.losses(alive) for r in readings), np.zeros(count))
        costs[~alive] = np.inf
        for unit in np.argsort(costs, kind="stable")[: min(each, most - len(gone))].tolist():
            now = float(costs[unit]) if each == 1 else _now(readings, alive, unit)
            alive[unit] = False
            gone.append(unit)
            losses.append(losses[-1] + now)
            for r in readings:
                r.remove(unit)
    return Order(np.array(gone, np.intp), np.array(losses))


def _now(readings: Sequence[Reading], alive: Array, unit: int) -> float:
    """What one unit loses after those that went since all were looked at."""
    only = np.zeros_like(alive)
    only[unit] = True
    return float(sum(r.losses(only)[unit] for r in readings))
