"""Rows of weights with zeros, for the least error of what they give: which, and the other numbers.

To set w to 0 costs w^2 / [C^-1]_kk, if all others then move to where they are best (Optimal Brain
Surgeon; OBC, arXiv 2208.11580). So zeros come in a few steps, with a refit of what stays after
each; then a step down the gradient says which zeros would rather be others, and they change places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from graphopt.ir.types import Array
from graphopt.passes.layers.least import descend, power

FOUR = 4
STEPS = 12  # of descent in a refit on the way
LAST = 100  # in the one of what a step ends with
SWAPS = 4  # times that zeros may change places
WORK = 4e11  # multiply-adds that either may take

Keep = Callable[[Array], Array]
"""Which weights stay, bool [M, K], by what it costs to lose each, float64 [M, K]."""


def smallest(share: float) -> Keep:
    """A share of all goes, those of least cost."""

    def keep(costs: Array) -> Array:
        found = np.ones(costs.size, np.bool_)
        order = np.argsort(costs.reshape(-1), kind="stable")
        found[order[: round(share * costs.size)]] = False
        return found.reshape(costs.shape)

    return keep


def of_four(gone: int) -> Keep:
    """So many of each four neighbours in a row go, those of least cost; K is a multiple of 4."""

    def keep(costs: Array) -> Array:
        fours = costs.reshape(len(costs), -1, FOUR)
        ranks = np.argsort(np.argsort(fours, axis=-1, kind="stable"), axis=-1)
        return (ranks >= gone).reshape(costs.shape)

    return keep


FOURS = (of_four(1), of_four(2))


def sparse(w: Array, c: Array | None, keeps: Sequence[Keep]) -> Iterator[Array]:
    """Weights with more and more zeros.

    Args:
        w: float64 [M, K]; its zeros stay.
        c: Gram matrix of what the rows read, float64 [K, K], positive definite; None: unknown.
        keeps: what stays, step by step.

    Yields:
        float64 [M, K] for each step; as they were where they aren't 0, if `c` is unknown.
    """
    zero, found = w == 0, w
    curve = np.ones(w.shape[1]) if c is None else 1 / np.diag(np.linalg.inv(c))
    for keep in keeps:
        there = _there(keep, found * found * curve, zero | (found == 0))
        if c is None:
            found = np.where(there, w, 0.0)
        else:
            found = _swapped(w, c, keep, refit(w, c, np.where(there, found, 0.0)))
            found = refit(w, c, found, int(min(LAST, WORK / max(w.size * len(c), 1))))
        yield found


def refit(w: Array, c: Array, start: Array, steps: int = STEPS) -> Array:
    """The numbers that aren't 0 of `start` where they give the least tr (W - W') C (W - W')^T.

    By conjugate gradients, so never further off than `start`.
    """
    there, scale = start != 0, np.diag(c)
    return descend(start, w - start, c, _same, lambda p: p * there, lambda p: p / scale, steps)


def _same(p: Array) -> Array:
    return p


def _there(keep: Keep, costs: Array, zero: Array) -> Array:
    """What stays; zeros go first."""
    return keep(np.where(zero, -1.0, costs)) & ~zero


def _swapped(w: Array, c: Array, keep: Keep, found: Array) -> Array:
    """With zeros in other places, while the error falls."""
    zero, scale, lost = w == 0, np.diag(c), power(w - found, c)
    for _ in range(int(min(SWAPS, WORK / STEPS / max(w.size * len(c), 1)))):
        moved = found + (w - found) @ c / scale
        there = _there(keep, moved * moved * scale, zero)
        new = refit(w, c, np.where(there, moved, 0.0))
        if not (now := power(w - new, c)) < lost:
            break
        found, lost = new, now
    return found
