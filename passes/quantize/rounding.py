"""Rounding weights so that a layer's result changes least: a quadratic form in integers.

With rows w of a weight in units of their scales and the Gram matrix H of the layer's inputs, the
squared error of the result is (q - w) H (q - w)^T for each row of integers q (Nagel et al. 2020,
AdaRound, arXiv 2004.10568, equation 13). Rounding each number to its nearest ignores that errors
of numbers whose inputs go together can cancel.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir.types import Array

BLOCK = 128  # columns between two updates of the whole gradient
DAMPING = 1e-3  # of the mean of the diagonal, added to it
UNSEEN = 10  # as many times the numbers of a row, inputs are enough for that


def damped(h: Array, count: int) -> Array:
    """A Gram matrix [K, K] of `count` inputs with its diagonal raised.

    No input counts for nothing; the fewer were seen for the numbers that a row has, the more do
    those directions count that they happened not to take.
    """
    raised, size = h.copy(), len(h)
    part = DAMPING * max(1.0, UNSEEN * size / max(count, 1))
    raised.flat[:: size + 1] += part * np.trace(h) / size + np.finfo(np.float32).tiny
    return raised


def cost(w: Array, q: Array, h: Array) -> Array:
    """(q - w) H (q - w)^T for each row (float64 [..., M])."""
    error = q - w
    return np.einsum("...mk,...mk->...m", error @ h, error)


def descend(w: Array, q: Array, h: Array, most: int, sweeps: int) -> Array:
    """Coordinate descent on `cost` from integers q: each step can only lower it.

    A column k moves to the integer at which the cost of its row is least, the others being as they
    are: by d = -round(G[k] / H[k, k]), G = (q - w) H, which changes the cost by 2 d G[k] +
    d^2 H[k, k]. It stays one of the two around w, as AdaRound has it: further off, a weight fits
    the samples and little else. All rows go through the columns together.

    Args:
        w: float64 [groups, M, K], in units of the scales.
        q: whole numbers [groups, M, K] to start from.
        h: float64 [groups, K, K], with positive diagonals.
        most: the largest magnitude of an integer.
        sweeps: over all columns, at most; fewer if nothing moves any more.

    Returns:
        float64 [groups, M, K], whole numbers: those of a row are as given where others cost more
        (steps are chosen in float32, for speed).
    """
    found, narrow = q.astype(np.float32), h.astype(np.float32)
    gradient = (q - w).astype(np.float32) @ narrow
    low, high = (np.clip(f(w), -most, most).astype(np.float32) for f in (np.floor, np.ceil))
    free = (low < high) & ((found == low) | (found == high))
    for _ in range(sweeps):
        moved = False
        for start in range(0, h.shape[-1], BLOCK):
            part = slice(start, min(start + BLOCK, h.shape[-1]))
            up = np.where(found[..., part] == low[..., part], np.float32(1), np.float32(-1))
            steps = _steps(up * free[..., part], gradient[..., part], narrow[:, part, part])
            if steps.any():
                found[..., part] += steps
                gradient += steps @ narrow[:, part]
                moved = True
        if not moved:
            break
    better = cost(w, found.astype(np.float64), h) < cost(w, q, h)
    return np.where(better[..., None], found, q)


def _steps(way: Array, gradient: Array, h: Array) -> Array:
    """What the columns of a block move by, in their order, each row at a pace of its own.

    A step `way` (1 or -1, the only one that a column can take; 0: none) changes the cost by
    h[k, k] + 2 way gradient[k]. Rows have few columns that move, so each goes from one to the next.

    Args:
        way: float32 [groups, M, B].
        gradient: the same.
        h: float32 [groups, B, B].
    """
    shape, size = way.shape, way.shape[-1]
    gains = np.where(way == 0, 0, h.diagonal(0, 1, 2)[:, None] + 2 * way * gradient)
    later = 2 * np.triu(h, 1)  # what a step changes of the gradients behind it
    steps, way, gains = np.zeros(shape, np.float32).reshape(-1, size), *(
        a.reshape(-1, size) for a in (way, gains))  # fmt: skip
    rows, group = np.arange(len(way)), np.repeat(np.arange(shape[0]), shape[1])
    while True:
        first = (gains < 0).argmax(1)
        own = np.arange(len(rows))
        (left,) = np.nonzero(gains[own, first] < 0)
        if not len(left):
            return steps.reshape(shape)
        if len(left) < len(rows):
            rows, group, first = rows[left], group[left], first[left]
            way, gains, own = way[left], gains[left], own[: len(left)]
        by = way[own, first]
        steps[rows, first] = by
        gains[own, first] = 0
        gains += way * (by[:, None] * later[group, first])
