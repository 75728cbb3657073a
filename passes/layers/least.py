"""Least squares in the space of a layer's results: || (W - W') X ||, X by its Gram matrix alone.

sum over samples of |W x - W' x|^2 = tr (W - W') C (W - W')^T, C = sum of x x^T
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.ir.types import Array
from graphopt.lazy import Lazy

_linalg: Any = Lazy("scipy.linalg")
Linear = Callable[[Array], Array]
ENOUGH = 1e-12  # of the gradient's square, below which descent ends


def power(w: Array, c: Array | None) -> float:
    """tr W C W^T; C = 1 where it is None."""
    return float(np.vdot(w if c is None else w @ c, w))


def responses(w: Array, c: Array | None) -> Array:
    """W C W^T, float64 [M, M]: the Gram matrix of a layer's results."""
    found = (w if c is None else w @ c) @ w.T
    return (found + found.T) / 2


def leading(gram: Array, count: int) -> Array:
    """The eigenvectors of the largest eigenvalues of symmetric matrices.

    Args:
        gram: float64 [..., N, N].
        count: how many.

    Returns:
        float64 [..., N, count], the largest first; the largest component of each is positive.
    """
    vectors = np.linalg.eigh(gram)[1][..., ::-1][..., :count]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(-2)[..., None, :], -2)
    return vectors * np.where(largest < 0, -1.0, 1.0)


def fitted(gram: Array, right: Array) -> Array:
    """The B of least |B G^(1/2) - Y|, where B G = Y G^(1/2) = right.

    Args:
        gram: float64 [N, N], positive definite up to rounding.
        right: float64 [M, N].
    """
    try:
        found: Array = _linalg.solve(gram, right.T, assume_a="pos")
    except np.linalg.LinAlgError:
        found = _linalg.lstsq(gram, right.T)[0]
    return found.T


def descend(
    start: Array, residual: Array, c: Array, forward: Linear, adjoint: Linear, near: Linear,
    steps: int,
) -> Array:  # fmt: skip
    """Conjugate gradients on the p of least tr (W - L p) C (W - L p)^T; steps only lower it.

    Hestenes and Stiefel 1952, preconditioned, on the normal equations.

    Args:
        start: p to begin with.
        residual: W - L start, float64 [M, K].
        c: float64 [K, K].
        forward: L, linear, p -> [M, K].
        adjoint: its adjoint.
        near: about the inverse of adjoint(forward(p) C).
        steps: at most.
    """
    p, gradient = start, adjoint(residual @ c)
    ready = near(gradient)
    way, size = ready, float(np.vdot(gradient, ready))
    least = ENOUGH * size
    for _ in range(steps):
        if not size > least:
            break
        turned = adjoint(forward(way) @ c)
        curve = float(np.vdot(way, turned))
        if not curve > 0:
            break
        p = p + size / curve * way
        gradient = gradient - size / curve * turned
        ready = near(gradient)
        size, old = float(np.vdot(gradient, ready)), size
        way = ready + size / old * way
    return p
