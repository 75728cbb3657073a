"""Least squares for one layer: how its weights and bias should change, and what that gains.

    argmin over D, d of |t - (y + D x + d)|^2 + ridge |D|^2

x what it reads now, y what it gives now, t what it should give (asymmetric reconstruction: Zhang et
al. 2015, arXiv 1505.06798, section 3.3). Where an activation clips the result, what lies on the same side of a bound as the target is
no error: the other terms are solved for repeatedly, which lowers the sum over them each time (it is
a majorant that is minimised; section 3.2 there has a relaxation for the same end).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from graphopt.ir.types import Array

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # of the mean square of what is read
TURNS = 6  # of solving, where the result is clipped
LONGEST = 6144  # numbers in a row: its Gram matrix and a factor are 0.6 GB in float64
MOST = 2e11  # multiply-adds of solving rows with zeros of their own
EXACT = 1e-10  # noise over signal, 100 dB: what rounding in float32 leaves

Solver = Callable[[Array], Array]


@dataclass(frozen=True)
class Problem:
    """Columns of a layer on samples; `held` are those that nothing is fitted to.

    x float32 [groups, K, P]; y, t float32 [groups, M / groups, P]; held bool [P]; `low` and `high`
    are what an activation clips the result to; `bias`: whether there is one; `mask` bool
    [groups, M / groups, K]: the weights that may change (None: all).
    """

    x: Array
    y: Array
    t: Array
    held: Array
    bias: bool
    low: float = -np.inf
    high: float = np.inf
    mask: Array | None = None

    @property
    def clipped(self) -> bool:
        """Whether some errors are none."""
        return bool(np.isfinite(self.low) or np.isfinite(self.high))

    def error(self, y: Array, of: Array) -> Array:
        """T - y at some columns, 0 where both are beyond the same bound."""
        if not self.clipped:
            return self.t[..., of] - y
        t = np.clip(self.t[..., of], self.low, self.high)
        none = ((t <= self.low) & (y < self.low)) | ((t >= self.high) & (y > self.high))
        return np.where(none, np.float32(0), t - y)


@dataclass(frozen=True)
class Change:
    """W + w, b + b; float64 [groups, M / groups, K] and [groups, M / groups]."""

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

    What is fitted to the other columns decides on the ridge; then all are fitted to.
    """
    p = problem
    fit, held = np.flatnonzero(~p.held), np.flatnonzero(p.held)
    signal = float(np.sum(np.square(p.t[..., held], dtype=np.float64)))
    start = _square(p.error(p.y[..., held], held))
    if not signal or start <= EXACT * signal:
        return None
    part = _Fit(p, fit)
    tried = [(_held(p, part.run(ridge, 1), held), ridge) for ridge in (*ridges, np.inf)]
    error, ridge = min(tried)
    turns = TURNS if p.clipped else 1
    if turns > 1:
        error = _held(p, part.run(ridge, turns), held)
    if not error < start:
        return None
    change = _Fit(p, np.arange(len(p.held))).run(ridge, turns)
    return Solution(change, ridge, start / signal, error / signal)


def _square(e: Array) -> float:
    return float(np.sum(np.square(e, dtype=np.float64)))


def _held(p: Problem, change: Change, held: Array) -> float:
    y = _changed(p.y[..., held], p.x[..., held], change)
    return _square(p.error(y, held))


def _changed(y: Array, x: Array, change: Change) -> Array:
    return y + change.w.astype(np.float32) @ x + change.b.astype(np.float32)[..., None]


class _Fit:
    """Least squares over some columns."""

    def __init__(self, p: Problem, at: Array) -> None:
        self.p, self.at, self.x = p, at, p.x[..., at]
        n = max(len(at), 1)
        self.mean = self.x.sum(-1, dtype=np.float64) / n if p.bias else np.zeros(self.x.shape[:2])
        self.gram = (self.x @ self.x.transpose(0, 2, 1)).astype(np.float64) / n
        self.gram -= self.mean[:, :, None] * self.mean[:, None, :]

    def run(self, ridge: float, turns: int) -> Change:
        """The change after some turns, from none."""
        p, n = self.p, max(len(self.at), 1)
        groups, m = p.y.shape[:2]
        w, b = np.zeros((groups, m, self.x.shape[1])), np.zeros((groups, m))
        level = ridge * np.einsum("gkk->g", self.gram) / self.x.shape[1]
        solvers = self._solvers(level) if np.isfinite(ridge) else None
        for _ in range(turns):
            y = _changed(p.y[..., self.at], self.x, Change(w, b))
            e = p.error(y, self.at)
            mean = e.sum(-1, dtype=np.float64) / n if p.bias else np.zeros((groups, m))
            if solvers is None:
                b += mean
                continue
            cross = (e @ self.x.transpose(0, 2, 1)).astype(np.float64) / n
            cross -= mean[:, :, None] * self.mean[:, None, :] + level[:, None, None] * w
            step = np.stack([s(c) for s, c in zip(solvers, cross, strict=True)])
            w += step
            b += mean - np.einsum("gmk,gk->gm", step, self.mean)
        return Change(w, b)

    def _solvers(self, level: Array) -> list[Solver]:
        masks = [None] * len(level) if self.p.mask is None else list(self.p.mask)
        raised = zip(self.gram, level, masks, strict=True)
        return [_solver(gram + max(by, 1e-30) * np.eye(len(gram)), mask)
                for gram, by, mask in raised]  # fmt: skip


def _solver(gram: Array, mask: Array | None) -> Solver:
    """C -> C gram^-1, by rows that keep to their part of a mask where there is one."""
    if mask is None:
        factor = linalg.cho_factor(gram, check_finite=False)
        return lambda c: linalg.cho_solve(factor, c.T, check_finite=False).T

    def by_rows(c: Array) -> Array:
        found = np.zeros(c.shape)
        for i, row in enumerate(mask):
            at = np.flatnonzero(row)
            if len(at):
                part = gram[np.ix_(at, at)]
                found[i, at] = linalg.solve(part, c[i, at], assume_a="pos", check_finite=False)
        return found

    return by_rows
