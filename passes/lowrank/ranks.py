"""Which ranks to try: fixed, by energy, by variational Bayes, or a ladder to choose from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir.types import Array
from graphopt.passes.layers.forms import Form, Numbers, Size
from graphopt.passes.lowrank.forms import Tucker
from graphopt.passes.lowrank.vbmf import vbmf_rank

STEPS = 10  # ranks of a ladder, at most
LARGE, FEWER = 1 << 20, 6  # weights of a layer from which so many do: each takes seconds to fit


@dataclass(frozen=True)
class Ranks:
    """The option `rank`, and the multiple that ranks are rounded up to."""

    rank: str | int
    energy: float
    multiple: int

    def __call__(self, form: Form, numbers: Numbers | None) -> Sequence[Size] | None:
        """Sizes below the full one (see `propose.Sizes`)."""
        full = form.full()
        if isinstance(self.rank, int):
            return self._below([tuple(min(self.rank, f) for f in full)], full)
        if self.rank == "choice":
            return self._ladder(form)
        if numbers is None:
            return None
        found = [self._of(form, i, p) for i, p in enumerate(form.spectra(numbers))]
        return self._below([tuple(map(self._rounded, found, full))], full)

    def _below(self, sizes: Sequence[Size], full: Size) -> list[Size]:
        return [s for s in dict.fromkeys(sizes) if s != full]

    def _rounded(self, rank: int, full: int) -> int:
        """Up to a multiple: what fills a vector costs no more."""
        return min(max(-(-rank // self.multiple), 1) * self.multiple, full)

    def _of(self, form: Form, axis: int, powers: Array) -> int:
        """The rank that the option says, of one of a form's factors."""
        if self.rank == "energy":
            kept = np.cumsum(powers) / max(float(np.sum(powers)), 1e-300)
            return int(np.searchsorted(kept, self.energy - 1e-12)) + 1
        return vbmf_rank(powers, *_matrix(form, axis))

    def _ladder(self, form: Form) -> list[Size]:
        """Ranks in even steps, from few to as many as are no larger than the layer."""
        full, s = form.full(), form.site
        weights = s.groups * s.outs * s.length
        sizes = [
            tuple(self._rounded(math.ceil(f * share), f) for f in full)
            for share in np.linspace(0, 1, 4 * STEPS + 1)[1:].tolist()
        ]
        able = [z for z in self._below(sizes, full) if form.parameters(z) < weights]
        count = min(STEPS if weights < LARGE else FEWER, len(able))
        kept = np.linspace(0, len(able) - 1, count).round().astype(int)
        return [able[i] for i in dict.fromkeys(kept.tolist())]


def _matrix(form: Form, axis: int) -> tuple[int, int]:
    """The sizes of the matrix whose rank one of a form's numbers is."""
    s = form.site
    whole = s.outs * s.length
    short = form.full()[axis]
    if isinstance(form, Tucker):
        short = (s.ins, s.outs)[axis]
    return short, whole // short
