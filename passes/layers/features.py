"""A layer through fewer features: y = W x is computed as y = B z, z = Q x, Q of some structure.

What makes the structure is how the numbers of a window are split into three: `own` ones are summed
by a feature, `shared` ones are those over which the same features slide, and features of one
`block` read that block alone.

    z[b, r, s] = sum over o of Q[b, r, o] x[b, o, s]
    y[m] = sum over b, r, s of B[m, b, r, s] z[b, r, s]

Of a K x K convolution, features of C x K x K numbers make a channel decomposition, of C x K a
spatial one, of C alone Tucker's first factor, and K x K in a block for each channel a depthwise
one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir.types import Array
from graphopt.passes.layers.forms import Numbers
from graphopt.passes.layers.least import descend, fitted, leading

ROUNDS, STEPS = 3, 6  # of alternating least squares, and of descent in a round
COSTLY = 2e8  # multiply-adds a step from which one round of two is enough: 1 % more error at most
SMALL = 1e-9  # of the mean of a diagonal, added to it before it is factored


@dataclass(frozen=True)
class Split:
    """How the K numbers of a row are taken: `order` lists them as [blocks, own, shared]."""

    blocks: int
    own: int
    shared: int
    order: Array

    @property
    def key(self) -> object:
        """What tells it from others."""
        return self.blocks, self.own, self.shared, self.order.tobytes()

    def arrange(self, w: Array) -> Array:
        """Rows [M, K] as [M, blocks, own, shared]."""
        return w[:, self.order].reshape(len(w), self.blocks, self.own, self.shared)

    def back(self, w: Array) -> Array:
        """The inverse of `arrange`."""
        found = np.empty((len(w), len(self.order)))
        found[:, self.order] = w.reshape(len(w), -1)
        return found


@dataclass(frozen=True)
class Features:
    """`q` float64 [blocks, R, own] and `b` float64 [M, blocks, R, shared]."""

    q: Array
    b: Array

    def product(self) -> Array:
        """The weight that they make, [M, blocks, own, shared]."""
        return through(self.b, self.q)


def through(b: Array, q: Array) -> Array:
    """sum over r of b[m, b, r, s] q[b, r, o], as [M, blocks, own, shared]."""
    found = b.transpose(1, 0, 3, 2) @ q[:, None]  # [blocks, M, shared, own]
    return found.transpose(1, 0, 3, 2)


def features(
    split: Split, w: Array, c: Array, start: Array, outputs: int | None = None, refine: bool = True
) -> Features:
    """Those of least error in the results: a whitened decomposition, then alternating refits.

    Args:
        split: the structure.
        w: the weight, float64 [M, K].
        c: the Gram matrix of the windows, float64 [K, K], positive definite.
        start: as many of `whitened` as there are to be of each block.
        outputs: the rank of `b` as a matrix of M rows; None: any.
        refine: whether to alternate; the second factor is refitted in any case.
    """
    wanted = split.arrange(w)
    own = c[np.ix_(split.order, split.order)]
    found = _refit(split, start, wanted, own, outputs)
    rounds, steps = (1, 2) if len(w) * len(own) ** 2 >= COSTLY else (ROUNDS, STEPS)
    for _ in range(rounds if refine and start.shape[1] < split.own else 0):
        q = _refeature(split, found, wanted, own, steps)
        found = _refit(split, q, wanted, own, outputs)
    return found


def spectrum(split: Split, w: Array, c: Array) -> Array:
    """The power that each of the whitened decomposition's features has, the largest first [own]."""
    own = c[np.ix_(split.order, split.order)]
    _, squares = _whitened(split, split.arrange(w), own)
    return np.maximum(np.linalg.eigvalsh(squares)[:, ::-1], 0).sum(0)


def _own_grams(split: Split, c: Array) -> Array:
    """E[x x^T] of each block's own numbers, the shared ones summed over; [blocks, own, own]."""
    each = split.blocks, split.own, split.shared
    found = np.einsum("bosbps->bop", c.reshape(*each, *each))
    at = np.arange(split.own)
    found[:, at, at] += SMALL * np.trace(found, axis1=1, axis2=2)[:, None] / split.own
    found[:, at, at] += np.finfo(np.float64).tiny
    return found


def _whitened(split: Split, wanted: Array, c: Array) -> tuple[Array, Array]:
    """Roots L of the blocks' Gram matrices, and (W L)^T (W L)."""
    root = np.linalg.cholesky(_own_grams(split, c))
    rows = wanted.transpose(1, 0, 3, 2).reshape(split.blocks, -1, split.own) @ root
    return root, rows.transpose(0, 2, 1) @ rows


def whitened(split: Split, w: Array, c: Array) -> Array:
    """V^T L^-1 of the singular vectors V of W L: features of unit power [blocks, own, own].

    Those that give most come first; w float64 [M, K], c float64 [K, K].
    """
    own = c[np.ix_(split.order, split.order)]
    root, squares = _whitened(split, split.arrange(w), own)
    v = leading(squares, split.own)
    return np.linalg.solve(root.transpose(0, 2, 1), v).transpose(0, 2, 1)


def _refit(split: Split, q: Array, wanted: Array, c: Array, outputs: int | None) -> Features:
    """The b of least error for given features (reduced-rank regression, Izenman 1975)."""
    m, n = len(wanted), q.shape[0] * q.shape[1] * split.shared
    zc = _project(split, q, c)  # [N, K]
    gram = _project(split, q, zc.T)
    b = fitted((gram + gram.T) / 2, wanted.reshape(m, -1) @ zc.T)
    if outputs is not None and outputs < min(m, n):
        u = leading(b @ gram @ b.T, outputs)
        b = u @ (u.T @ b)
    return Features(q, b.reshape(m, split.blocks, -1, split.shared))


def _project(split: Split, q: Array, c: Array) -> Array:
    """Z C for the features' rows Z; c is [K, any], the result [blocks * R * shared, any]."""
    four = c.reshape(split.blocks, split.own, -1)
    return (q @ four).reshape(q.shape[0] * q.shape[1] * split.shared, -1)


def _refeature(split: Split, found: Features, wanted: Array, c: Array, steps: int) -> Array:
    """Better features for a given b."""
    b, m = found.b, len(wanted)
    flat = b.transpose(1, 2, 0, 3).reshape(split.blocks, b.shape[2], -1)  # [blocks, R, M * shared]
    mixed = np.linalg.pinv(flat @ flat.transpose(0, 2, 1), hermitian=True)
    inverse = np.linalg.inv(_own_grams(split, c) / split.shared)

    def adjoint(x: Array) -> Array:
        rows = x.reshape(wanted.shape).transpose(1, 0, 3, 2)
        return flat @ rows.reshape(split.blocks, -1, split.own)

    return descend(
        found.q, (wanted - found.product()).reshape(m, -1), c,
        lambda q: through(b, q).reshape(m, -1), adjoint, lambda g: mixed @ g @ inverse, steps,
    )  # fmt: skip


def fitted_groups(
    split: Split, numbers: Numbers, rank: int, outputs: int | None = None
) -> tuple[list[Features], Array]:
    """The features of each group, and the weight that they make [groups, outs, K].

    Where all inputs count alike, the decomposition is the best already, but for a second rank.
    """
    found = list[Features]()
    for g, w in enumerate(numbers.w):
        c, able = numbers.gram(g), numbers.inputs[g] is not None or outputs is not None
        every = numbers.once((split.key, g), lambda w=w, c=c: whitened(split, w, c))
        found.append(features(split, w, c, every[:, :rank], outputs, able))
    return found, np.stack([split.back(f.product()) for f in found])


def spectra(split: Split, numbers: Numbers) -> Array:
    """The power of whitened features, summed over groups."""
    return np.sum([spectrum(split, w, numbers.gram(g)) for g, w in enumerate(numbers.w)], axis=0)
