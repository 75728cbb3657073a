"""sparsify: weights that matter least become zero, and the others of a row make up for them.

    W x + b -> W' x + b',  W' = W where it isn't 0, refitted: argmin || (W - W') C^(1/2) ||

With samples, weights go in a few steps, those first whose loss costs least after the others have
moved (Optimal Brain Surgeon, Hassibi and Stork 1993; OBC, arXiv 2208.11580), and after each step
all that stay are fitted together; then zeros and others change places where that lowers the error
(hard thresholding: Blumensath and Davies 2008). Biases take up the change of means. Without
samples, the smallest go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from graphopt.choices import Goal
from graphopt.errors import InputError
from graphopt.ir.core import Module
from graphopt.ir.types import Array
from graphopt.passes.layers.forms import Numbers
from graphopt.passes.layers.names import check_skip
from graphopt.passes.layers.sites import Site, sites
from graphopt.passes.layers.values import Offer, Revaluing
from graphopt.passes.layers.zeros import FOUR, FOURS, smallest, sparse
from graphopt.pipeline import Ahead, Context, Effect, Pass, PassResult

SHARES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # of a layer's weights, offered


@dataclass(frozen=True)
class Sparsify(Pass, name="sparsify"):
    """Set weights to zero, so that the library stores them in fewer bytes.

    `pattern`: `unstructured`, or `2:4` (of four weights along the input channels at most two, as
    sparse matrix units read them; other layers stay). `ratio`: of all layers' weights, to be zero;
    how many of each layer is chosen by the error that they make, and --max-drop limits them all.
    `skip`: parts of names of ONNX nodes.
    """

    effect: ClassVar[Effect] = "lossy"
    pattern: Literal["unstructured", "2:4"] = "unstructured"
    ratio: float | None = None
    skip: tuple[str, ...] = ()

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Change weights and biases.

        Raises:
            InputError: an option out of its range, or nothing that limits the zeros.
        """
        self.check(Ahead(module, ctx))
        if self.ratio == 0:
            return PassResult(False)
        weights = [s.weight.numpy() for s in sites(module.main)]
        zeros = sum(int(np.count_nonzero(w == 0)) for w in weights)
        wanted = (self.ratio or 0) * sum(w.size for w in weights) - zeros
        goal = None if self.ratio is None else Goal(wanted, "zeros")
        return Revaluing(self.name, ctx, self._offers, self.skip).run(module, goal)

    def check(self, ahead: Ahead) -> None:
        """Raise InputError for an option out of its range (see `Pass.check`)."""
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise InputError(f"ratio={self.ratio:g} isn't at least 0 and below 1")
        if self.pattern == "2:4" and (self.ratio or 0) > 0.5:
            raise InputError(f"ratio={self.ratio:g} is more than the half that 2:4 can set to zero")
        if self.pattern != "2:4" and self.ratio is None and ahead.ctx.max_drop is None:
            raise InputError("sparsify needs ratio=... or a limit on the loss (--max-drop)")
        check_skip(ahead.module, self.skip)

    def _offers(self, site: Site, numbers: Numbers) -> Iterator[Offer] | str:
        if not np.isfinite(numbers.w).all():
            return "a weight isn't finite"
        if self.pattern == "2:4":
            if site.ins % FOUR:
                return f"{site.ins} input channels, not a multiple of 4"
            return self._in_fours(site, numbers)
        return self._unstructured(numbers)

    def _in_fours(self, site: Site, numbers: Numbers) -> Iterator[Offer]:
        order = _channels_last(site)
        found = np.empty_like(numbers.w)
        for g, w in enumerate(numbers.w):
            c = numbers.inputs[g]
            turned = None if c is None else c[np.ix_(order, order)]
            found[g][:, order] = list(sparse(w[:, order], turned, FOURS))[-1]
        yield _offer("sparsified (2 of 4)", numbers.w, found)

    def _unstructured(self, numbers: Numbers) -> Iterator[Offer]:
        extra = (self.ratio,) if self.ratio else ()
        there = 1 - np.count_nonzero(numbers.w) / numbers.w.size
        shares = [share for share in sorted({*SHARES, *extra}) if share > there]
        keeps = [smallest(share) for share in shares]
        pairs = zip(numbers.w, numbers.inputs, strict=True)
        groups = [sparse(w, c, keeps) for w, c in pairs]
        for share, found in zip(shares, zip(*groups, strict=True), strict=True):
            yield _offer(f"sparsified: {share:.0%} zeros", numbers.w, np.stack(found))


def _offer(told: str, old: Array, new: Array) -> Offer:
    return Offer(told, new, float(np.count_nonzero(new == 0) - np.count_nonzero(old == 0)))


def _channels_last(site: Site) -> Array:
    """Columns of a row so that the input channels of one place in the window are neighbours."""
    taps = site.length // site.ins
    return np.arange(site.length).reshape(site.ins, taps).T.reshape(-1)
