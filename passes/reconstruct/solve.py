"""Least squares for one layer: how its weights and bias should change, and what that gains.

    argmin over D, d of |t - (y + D x + d)|^2 + ridge |D|^2

x what it reads now, y what it gives now, t what it should give (asymmetric reconstruction: Zhang
et al. 2015, arXiv 1505.06798, section 3.3). Where an activation clips the result, what lies on the
same side of a bound as the target is no error: from the second turn on, the other terms alone are
solved for, which lowers the sum over them each time (a majorant is minimised; section 3.2 there
has a relaxation for the same end).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.types import Array
from graphopt.lazy import Lazy

linalg: Any = Lazy("scipy.linalg")
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # of the mean square of what is read
TURNS = 6  # of solving, where the result is clipped
EXACT = 1e-10  # noise over signal, 100 dB: what rounding in float32 leaves
LEAST = 1e-3  # share of the error that a change must take away: less is chance

Solver = Callable[[Array], Array]


@dataclass(frozen=True)
class Problem:
    """Columns of a layer on samples; those from `fit` on are held out.

    x float32 [groups, K, P], less its `mean` float64 [groups, K] where there is a `bias`; y, t
    float32 [groups, M / groups, P]; `low` and `high` are what an activation clips the result to;
    `mask` bool [groups, M / groups, K]: the weights that may change (None: all).
    """

    x: Array
    mean: Array
    y: Array
    t: Array
    fit: int
    bias: bool
    low: float = -np.inf
    high: float = np.inf
    mask: Array | None = None

    @property
    def clipped(self) -> bool:
        """Whether some errors are none."""
        return bool(np.isfinite(self.low) or np.isfinite(self.high))

    def error(self, change: Change | None, of: slice) -> Array:
        """What is missing at some columns after a change; 0 where both are beyond one bound."""
        y, t = self.y[..., of], self.t[..., of]
        if change:
            y = y + change.w.astype(np.float32) @ self.x[..., of]
            y += change.b.astype(np.float32)[..., None]
        if not self.clipped:
            return t - y
        t = np.clip(t, self.low, self.high)
        none = ((t <= self.low) & (y < self.low)) | ((t >= self.high) & (y > self.high))
        return np.where(none, np.float32(0), t - y)

    def held(self, change: Change | None) -> float:
        """The sum of squared errors at the columns held out."""
        return _square(self.error(change, slice(self.fit, None)))


@dataclass(frozen=True)
class Change:
    """W + w, b + b, for the problem's x; float64 [groups, M / groups, K], [groups, M / groups]."""

    w: Array
    b: Array


@dataclass(frozen=True)
class Solution:
    """A change, and noise over signal on the held columns before and after it."""

    change: Change
    ridge: float
    before: float
    after: float

    @property
    def gain(self) -> float:
        """Decibels."""
        return 10 * float(np.log10(self.before / max(self.after, 1e-30)))


def solve(problem: Problem, ridges: tuple[float, ...] = RIDGES) -> Solution | None:
    """The change that lowers the error on held columns most; None where none does.

    What is fitted to the other columns decides on the ridge; then all are fitted to (with the next
    larger one with which their matrix can be factored). The change is of W and b for what the layer
    reads, its mean with it.
    """
    p = problem
    signal = _square(p.t[..., p.fit :])
    start = p.held(None)
    if not signal or not start > EXACT * signal:
        return None
    part = _Fit(p, slice(0, p.fit))
    tried = [(p.held(part.run(ridge, 1)), ridge) for ridge in part.able((*ridges, np.inf))]
    error, ridge = min(tried)
    turns = TURNS if p.clipped else 1
    if turns > 1:
        error = p.held(part.run(ridge, turns))
    if not error < (1 - LEAST) * start:
        return None
    whole = _Fit(p, slice(0, p.x.shape[-1]))
    ridge = next(whole.able(tuple(r for r in (*ridges, np.inf) if r >= ridge)))
    change = whole.run(ridge, turns)
    moved = Change(change.w, change.b - np.einsum("gmk,gk->gm", change.w, p.mean))
    return Solution(moved, ridge, start / signal, error / signal)


def _square(e: Array) -> float:
    return float(np.sum(np.square(e, dtype=np.float64)))


class _Fit:
    """Least squares over some columns."""

    def __init__(self, p: Problem, at: slice) -> None:
        self.p, self.at, self.x = p, at, p.x[..., at]
        self.n = max(self.x.shape[-1], 1)
        self.mean = self._means(self.x)
        self.gram = self._products(self.x, self.mean)
        first = p.t[..., at] - p.y[..., at]
        self.first = self._products(first, self._means(first)), self._means(first)

    def _means(self, of: Array) -> Array:
        """By row; 0 where there is no bias to take them up."""
        return of.sum(-1, dtype=np.float64) / self.n if self.p.bias else np.zeros(of.shape[:2])

    def _products(self, of: Array, means: Array) -> Array:
        """Covariances of rows with what is read."""
        both = (of @ self.x.transpose(0, 2, 1)).astype(np.float64) / self.n
        return both - means[:, :, None] * self.mean[:, None, :]

    def able(self, ridges: tuple[float, ...]) -> Iterator[float]:
        """The ridges with which the matrices can be factored; an infinite one needs none."""
        for ridge in ridges:
            try:
                if np.isfinite(ridge):
                    self._solvers(self._level(ridge))
            except np.linalg.LinAlgError:
                continue
            yield ridge

    def _level(self, ridge: float) -> Array:
        """Of each group, what is added to the diagonal."""
        return ridge * np.einsum("gkk->g", self.gram) / self.x.shape[1]

    def run(self, ridge: float, turns: int) -> Change:
        """The change after some turns; an infinite ridge changes the bias alone.

        The first turn takes results as they are, before an activation clips them: where a change
        makes them right, it is found.
        """
        cross, means = self.first
        w, b = np.zeros(cross.shape), np.zeros(means.shape)
        solvers = self._solvers(self._level(ridge)) if np.isfinite(ridge) else None
        for turn in range(turns):
            if turn:
                e = self.p.error(Change(w, b), self.at)
                means = self._means(e)
                cross = self._products(e, means) if solvers else cross
            if solvers is None:
                b += means
                continue
            pull = self._level(ridge)[:, None, None] * w
            step = np.stack([s(c) for s, c in zip(solvers, cross - pull, strict=True)])
            w += step
            b += means - np.einsum("gmk,gk->gm", step, self.mean)
        return Change(w, b)

    def _solvers(self, level: Array) -> list[Solver]:
        masks = [None] * len(level) if self.p.mask is None else list(self.p.mask)
        raised = zip(self.gram, level, masks, strict=True)
        return [_solver(gram + max(by, 1e-30) * np.eye(len(gram)), mask)
                for gram, by, mask in raised]  # fmt: skip


def _solver(gram: Array, mask: Array | None) -> Solver:
    """C -> C gram^-1, by rows that keep to their part of a mask where there is one.

    Raises:
        LinAlgError: the matrix isn't positive definite, but for rounding.
    """
    factor = linalg.cho_factor(gram, check_finite=False)

    def whole(c: Array) -> Array:
        return linalg.cho_solve(factor, c.T, check_finite=False).T

    def by_rows(c: Array) -> Array:
        assert mask is not None
        found, full = np.zeros(c.shape), mask.all(-1)
        found[full] = whole(c[full])
        for i in np.flatnonzero(mask.any(-1) & ~full):
            at = np.flatnonzero(mask[i])
            part = linalg.cho_factor(gram[np.ix_(at, at)], check_finite=False)
            found[i, at] = linalg.cho_solve(part, c[i, at], check_finite=False)
        return found

    return whole if mask is None else by_rows
