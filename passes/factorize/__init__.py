"""factorize: K x K convolutions as depthwise and 1 x 1 ones, or in groups with a shuffle.

    W x -> sum over t of P_t (D_t x), T terms that lose least of W x on samples

`depthwise`: K x K channel by channel, then 1 x 1 (network decoupling, arXiv 1808.05517);
`pointwise`: 1 x 1, then channel by channel; `shuffle`: in groups, a channel shuffle, 1 x 1 in
groups (arXiv 1707.02725). A term costs K^2 M + M N multiply-adds a pixel, for K^2 M N. Without
samples it is a singular value decomposition for each channel, with them whitened least squares
(GSVD, arXiv 1910.09455). Biases take up what changes of means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from graphopt.errors import InputError
from graphopt.ir.core import Module, Op
from graphopt.ops.nn import Conv, ConvTranspose
from graphopt.passes.factorize.forms import DepthwiseFirst, PointwiseFirst
from graphopt.passes.factorize.shuffled import Shuffled
from graphopt.passes.layers.forms import Form, Numbers, Size
from graphopt.passes.layers.gain import Aim, multiple
from graphopt.passes.layers.left import unruled
from graphopt.passes.layers.measured import LONGEST
from graphopt.passes.layers.propose import Asked, Rewriting
from graphopt.passes.layers.sites import Site
from graphopt.pipeline import Ahead, Context, Effect, Pass, PassResult

GROUPS = 2, 4  # that a shuffled form is tried with
STEPS = 8  # numbers of features that it is tried with, at most


@dataclass(frozen=True)
class Factorize(Pass, name="factorize"):
    """Replace K x K convolutions by terms of depthwise and 1 x 1 ones.

    `form`: depthwise (first), pointwise (first), shuffle (groups and a channel shuffle), or auto
    (each layer's best). `terms`: `choice` (several are priced and measured; `ratio` or --max-drop
    bound the loss), or a number (shuffle: features of a pair of groups). `whiten`: whether inputs
    count as they are on samples. `ratio`: of the model's multiply-adds (bytes, where `aim` is
    size), to be saved. `aim`: what has to become less. `skip`: parts of names of ONNX nodes.
    """

    effect: ClassVar[Effect] = "lossy"
    form: Literal["auto", "depthwise", "pointwise", "shuffle"] = "auto"
    terms: Literal["choice"] | int = "choice"
    whiten: bool = True
    ratio: float | None = None
    aim: Aim = "time"
    skip: tuple[str, ...] = ()

    def check(self, ahead: Ahead) -> None:
        """Raise InputError for an option out of its range (see `Pass.check`)."""
        if isinstance(self.terms, int) and self.terms < 1:
            raise InputError(f"terms={self.terms} isn't 1 or more")
        self._asked.check(ahead)

    @property
    def _asked(self) -> Asked:
        return Asked.of(self, bounded=self.terms != "choice")

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Rewrite the main graph.

        Raises:
            InputError: an option out of its range.
        """
        self.check(Ahead(module, ctx))
        terms = Terms(self.terms, multiple(self.aim, ctx))
        return Rewriting(self._asked, ctx, self._forms, terms, self._left).run(module)

    def _forms(self, site: Site) -> list[Form]:
        """What a convolution could be, by the form asked for."""
        small = site.length <= LONGEST
        is_conv = isinstance(site.op.kind, Conv)
        if not is_conv or math.prod(site.taps) == 1 or site.ins == 1 or not small:
            return []
        found: list[Form] = []
        if self.form in ("auto", "depthwise"):
            found.append(DepthwiseFirst(site))
        if self.form in ("auto", "pointwise"):
            found.append(PointwiseFirst(site))
        static = all(one.op.result.tensor.static for one in site.family)
        if self.form in ("auto", "shuffle") and site.groups == 1 and static:
            whole = [g for g in GROUPS if site.ins % g == 0 == site.outs % g]
            found += [Shuffled(site, g, h) for g in whole for h in whole]
        return found

    def _left(self, op: Op) -> str:
        """Why a convolution with a window and channels that it sums stays."""
        if not isinstance(op.kind, Conv | ConvTranspose):
            return ""
        each, *taps = (op.operand(1).tensor.static or (1,))[1:]
        if each == 1 or math.prod(taps) == 1:
            return ""
        if why := unruled(op):
            return why
        if each * math.prod(taps) > LONGEST:
            return f"a row of its weights has more than {LONGEST} numbers"
        return self._unshuffled(op, op.kind.group) if self.form == "shuffle" else ""

    def _unshuffled(self, op: Op, groups: int) -> str:
        """Why a convolution can't be in groups with a shuffle, if it can't."""
        if groups > 1:
            return "it is in groups as it is"
        if not op.result.tensor.static:
            return "its sizes aren't known before a run"
        counts = (op.operand(0).tensor.shape or ())[1:2], (op.result.tensor.shape or ())[1:2]
        even = all(isinstance(n, int) and n % GROUPS[0] == 0 for c in counts for n in c)
        return "" if even else f"its channels aren't multiples of {GROUPS[0]}"


@dataclass(frozen=True)
class Terms:
    """The option `terms`, and the multiple that features of groups are rounded up to."""

    terms: str | int
    multiple: int

    def __call__(self, form: Form, numbers: Numbers | None) -> Sequence[Size] | None:
        """Sizes below the full one (see `propose.Sizes`)."""
        (full,), s = form.full(), form.site
        if isinstance(self.terms, int):
            return [(self.terms,)] if self.terms < full else []
        step = self._step(form)
        weights = s.groups * s.outs * s.length
        able: list[Size] = [
            (n,) for n in range(step, full, step) if form.parameters((n,)) < weights
        ]
        kept = np.linspace(0, len(able) - 1, min(STEPS, len(able))).round().astype(int)
        places: list[int] = kept.tolist()
        return [able[i] for i in dict.fromkeys(places)]

    def _step(self, form: Form) -> int:
        """Features fill vectors in each group of both convolutions."""
        if not isinstance(form, Shuffled):
            return 1
        return -(-self.multiple // min(form.first, form.second))
