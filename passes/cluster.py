"""cluster: a layer's weights become a few values, which indices of few bits tell apart.

    w -> the nearest of 2^bits values, of least sum of E[x^2] (w - w')^2

The values are a layer's own, by k-means (weight sharing: Han et al. 2016, Deep Compression, arXiv
1510.00149); with samples, weights count by the power of what they multiply, the columns that come
later make up for the error of those before (GPTQ, arXiv 2210.17323, over values that aren't evenly
spaced) where that is better, and biases take up the change of means. Zeros stay zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.errors import InputError
from graphopt.ir.core import Module
from graphopt.ir.types import Array
from graphopt.passes.layers.forms import Numbers
from graphopt.passes.layers.least import power
from graphopt.passes.layers.means import kmeans, nearest
from graphopt.passes.layers.names import check_skip
from graphopt.passes.layers.sites import Site
from graphopt.passes.layers.sweep import sweep
from graphopt.passes.layers.values import Offer, Revaluing
from graphopt.pipeline import Ahead, Context, Effect, Pass, PassResult

MOST = 8  # bits of an index


@dataclass(frozen=True)
class Cluster(Pass, name="cluster"):
    """Let the weights of a layer share a few values, so that the library stores them as indices.

    `bits`: of an index, 1 to 8, for every layer; without it, each layer's are chosen by the error
    that they make, as few as --max-drop allows. A layer that has no more values than that stays as
    it is. `skip`: parts of names of ONNX nodes.
    """

    effect: ClassVar[Effect] = "lossy"
    bits: int | None = None
    skip: tuple[str, ...] = ()

    def check(self, ahead: Ahead) -> None:
        """Raise InputError for an option out of its range (see `Pass.check`)."""
        if self.bits is not None and not 1 <= self.bits <= MOST:
            raise InputError(f"bits={self.bits} isn't from 1 to {MOST}")
        if self.bits is None and ahead.ctx.max_drop is None:
            raise InputError("cluster needs bits=... or a limit on the loss (--max-drop)")
        check_skip(ahead.module, self.skip)

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Change weights and biases.

        Raises:
            InputError: bits out of range, or neither bits nor a limit.
        """
        self.check(Ahead(module, ctx))
        return Revaluing(self.name, ctx, self._offers, self.skip).run(module)

    def _offers(self, site: Site, numbers: Numbers) -> Iterator[Offer] | str:
        if not np.isfinite(numbers.w).all():
            return "a weight isn't finite"
        there = len(np.unique(numbers.w))
        able = [b for b in ((self.bits,) if self.bits else range(1, MOST + 1)) if 1 << b < there]
        return self._clustered(numbers, able) if able else f"{there} different values as it is"

    def _clustered(self, numbers: Numbers, able: list[int]) -> Iterator[Offer]:
        for bits in able:
            yield Offer(f"clustered: {bits} bits", shared(numbers, 1 << bits))


def shared(numbers: Numbers, count: int) -> Array:
    """A layer's weights by at most `count` values (all float32), float64 [groups, outs, K]."""
    weigh = np.empty_like(numbers.w)
    for g in range(len(numbers.w)):
        weigh[g] = np.diag(numbers.gram(g))
    there = numbers.w != 0
    spare = count if there.all() else count - 1
    centres = kmeans(numbers.w[there], spare, weigh[there])
    centres = np.unique(centres.astype(np.float32)).astype(np.float64)
    if not there.all():
        centres = np.unique([*centres, 0.0])
    pairs = zip(numbers.w, numbers.inputs, strict=True)
    return np.stack([_assigned(w, c, centres) for w, c in pairs])


@dataclass
class Nearest:
    """Each weight becomes the nearest of some values; zeros stay."""

    centres: Array
    zero: Array

    def begin(self, at: int, w: Array, costs: Array) -> None:
        """Note where the block is."""
        self.at = at

    def column(self, k: int, w: Array) -> Array:
        """The nearest values."""
        return np.where(self.zero[:, self.at + k], 0.0, self.centres[nearest(self.centres, w)])


def _assigned(w: Array, c: Array | None, centres: Array) -> Array:
    """Rows [M, K] by values: each its nearest, or with later columns making up for earlier ones."""
    plain = np.where(w == 0, 0.0, centres[nearest(centres, w)])
    if c is None:
        return plain
    swept = sweep(w, c, Nearest(centres, w == 0))
    return swept if power(w - swept, c) < power(w - plain, c) else plain
