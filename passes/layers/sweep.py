"""Weights onto a set of values, column by column; later columns make up for what earlier ones lose.

With rows w of a weight and the Gram matrix C of what they read, a change of column k costs
|dw|^2 / [C_k^-1]_00 (C_k of the columns from k on), if the others then move to where they are best:
Optimal Brain Surgeon (Hassibi and Stork 1993; OBC, arXiv 2208.11580) in a fixed order of columns,
for all rows at once (SparseGPT, arXiv 2301.00774; GPTQ, arXiv 2210.17323).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from graphopt.ir.types import Array

BLOCK = 128  # columns between two updates of all later ones


class Rule(Protocol):
    """What columns may hold."""

    def begin(self, at: int, w: Array, costs: Array) -> None:
        """Look at the weights of a block: its first column, float64 [M, B], and its `costs` [B].

        To change a weight by d costs d^2 / costs, the later ones making up for it.
        """
        ...

    def column(self, k: int, w: Array) -> Array:
        """What column k of the block becomes, from [M]."""
        ...


def sweep(w: Array, c: Array, rule: Rule) -> Array:
    """All columns as a rule has them, float64 [M, K].

    Args:
        w: float64 [M, K].
        c: float64 [K, K], positive definite.
        rule: is shown blocks of columns in order, and then each column.
    """
    u, w, found = _upper(c), w.copy(), np.empty_like(w)
    for start in range(0, w.shape[1], BLOCK):
        part = slice(start, min(start + BLOCK, w.shape[1]))
        rule.begin(start, w[:, part], np.diag(u)[part] ** 2)
        lost = np.empty_like(w[:, part])
        for k in range(part.start, part.stop):
            found[:, k] = rule.column(k - start, w[:, k])
            lost[:, k - start] = (w[:, k] - found[:, k]) / u[k, k]
            w[:, k : part.stop] -= np.outer(lost[:, k - start], u[k, k : part.stop])
        w[:, part.stop :] -= lost @ u[part, part.stop :]
    return found


def _upper(c: Array) -> Array:
    """The upper triangular U of U^T U = C^-1."""
    r = np.linalg.cholesky(c[::-1, ::-1])[::-1, ::-1]  # C = R R^T, R upper triangular
    return np.linalg.inv(r)
