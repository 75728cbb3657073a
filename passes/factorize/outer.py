"""Sums of outer products for each row of a weight, of least error in the results.

    W[m] [C, S] ~ sum over t of p[m, t] d[m, t]^T

Each row is a problem of its own. Where inputs count alike, it is a singular value decomposition;
else p and d are fitted in turn (each by linear least squares), which can only lower the error.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir.types import Array
from graphopt.passes.layers.least import leading

ROUNDS = 4
WORK = 2e11  # multiply-adds that alternating may take for one weight; above it: the start alone
SMALL = 1e-10  # of the mean of a diagonal, added to it before a system is solved


def outer(w: Array, c: Array | None, terms: int) -> tuple[Array, Array]:
    """The factors p float64 [M, terms, C] and d [M, terms, S].

    Args:
        w: float64 [M, C, S].
        c: the Gram matrix of inputs, float64 [C S, C S]; None: all count alike.
        terms: of each row's sum, at most min(C, S).
    """
    m, ins, taps = w.shape
    if c is None:
        d = leading(w.transpose(0, 2, 1) @ w, terms).transpose(0, 2, 1)
        return (w @ d.transpose(0, 2, 1)).transpose(0, 2, 1), d
    grams = c.reshape(ins, taps, ins, taps)
    shared = np.einsum("asbs->ab", grams)  # of channels, the taps summed over
    d = leading(w.transpose(0, 2, 1) @ (shared @ w), terms).transpose(0, 2, 1)
    right = (w.reshape(m, -1) @ c).reshape(w.shape)
    cost = m * (terms * (ins * taps) ** 2 + (terms * ins) ** 3 / 3)
    rounds = int(min(ROUNDS, WORK / max(cost, 1)))
    p = (w @ d.transpose(0, 2, 1)).transpose(0, 2, 1)
    for _ in range(rounds):
        p = np.stack([_other(grams, r, one) for r, one in zip(right, d, strict=True)])
        d = np.stack([_other(grams.transpose(1, 0, 3, 2), r.T, one)
                      for r, one in zip(right, p, strict=True)])  # fmt: skip
        size = np.linalg.norm(d, axis=2, keepdims=True).clip(1e-30)
        d, p = d / size, p * size
    return p, d


def _other(grams: Array, right: Array, known: Array) -> Array:
    """One factor [T, A] of least error for the other, `known` [T, B].

    grams: [A, B, A, B]; right: W C of the row, [A, B].
    """
    t, a = len(known), len(right)
    half = np.tensordot(grams, known, (3, 1))  # [A, B, A, T]
    system = np.tensordot(known, half, (1, 1))  # [T, A, A, T]
    system = system.transpose(0, 1, 3, 2).reshape(t * a, t * a)
    system.flat[:: t * a + 1] += SMALL * np.trace(system) / (t * a) + np.finfo(np.float64).tiny
    return np.linalg.solve(system, (known @ right.T).reshape(-1)).reshape(t, a)
