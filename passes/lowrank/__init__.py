"""lowrank: layers as products of smaller ones, by whitened decompositions of their weights.

    W x + b -> U (V x) + b', U V of the rank that loses least of W x on samples

`svd`: two products or 1 x 1 convolutions for one (of a K x K convolution: K x K to fewer channels,
then 1 x 1; Zhang et al. 2015, arXiv 1505.06798). `spatial`: K x 1, then 1 x K (Jaderberg et al.
2014, arXiv 1405.3866). `tucker`: 1 x 1, K x K, 1 x 1 (Kim et al. 2016, arXiv 1511.06530). All
minimise the error of what the layer gives, || (W - W') C^(1/2) ||, C the Gram matrix of its inputs
(Chen et al. 2019, GSVD, arXiv 1910.09455): the first in closed form, the others by alternating
least squares from a whitened start. Biases take up what changes of means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from graphopt.errors import InputError
from graphopt.ir.core import Module, Op
from graphopt.ops.nn import Conv, ConvTranspose
from graphopt.passes.layers.forms import Form
from graphopt.passes.layers.gain import Aim, multiple
from graphopt.passes.layers.left import unruled
from graphopt.passes.layers.measured import LONGEST
from graphopt.passes.layers.propose import Asked, Rewriting
from graphopt.passes.layers.sites import Site
from graphopt.passes.lowrank.forms import Spatial, Svd, Tucker
from graphopt.passes.lowrank.ranks import Ranks
from graphopt.pipeline import Ahead, Context, Effect, Pass, PassResult


@dataclass(frozen=True)
class LowRank(Pass, name="lowrank"):
    """Replace layers by products of smaller ones.

    `method`: svd, spatial, tucker, or auto (each layer's best). `rank`: `choice` (several ranks are
    priced and measured; `ratio` or --max-drop bound the loss), `energy` (the least rank that keeps
    the share `energy` of the power), `vbmf` (variational Bayes), or a number. `whiten`: whether
    inputs count as they are on samples. `ratio`: of the model's multiply-adds (bytes, where `aim`
    is size), to be saved. `aim`: what has to become less. `skip`: parts of names of ONNX nodes.
    """

    effect: ClassVar[Effect] = "lossy"
    method: Literal["auto", "svd", "spatial", "tucker"] = "auto"
    rank: Literal["choice", "energy", "vbmf"] | int = "choice"
    energy: float = 0.9
    whiten: bool = True
    ratio: float | None = None
    aim: Aim = "time"
    skip: tuple[str, ...] = ()

    def check(self, ahead: Ahead) -> None:
        """Raise InputError for an option out of its range (see `Pass.check`)."""
        if isinstance(self.rank, int) and self.rank < 1:
            raise InputError(f"rank={self.rank} isn't 1 or more")
        if not 0 < self.energy <= 1:
            raise InputError(f"energy={self.energy:g} isn't above 0 and at most 1")
        self._asked.check(ahead)

    @property
    def _asked(self) -> Asked:
        return Asked.of(self, bounded=self.rank != "choice")

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Rewrite the main graph.

        Raises:
            InputError: an option out of its range.
        """
        self.check(Ahead(module, ctx))
        ranks = Ranks(self.rank, self.energy, multiple(self.aim, ctx))
        return Rewriting(self._asked, ctx, self._forms, ranks, self._left).run(module)

    def _left(self, op: Op) -> str:
        """Why a layer stays; products are a matter of `svd` alone."""
        convolves = isinstance(op.kind, Conv | ConvTranspose)
        why = unruled(op) if convolves or self.method in ("auto", "svd") else ""
        if why or not convolves:
            return why
        each, *taps = (op.operand(1).tensor.static or (1,))[1:]
        if math.prod(taps) > 1 and each * math.prod(taps) > LONGEST:
            return f"a row of its weights has more than {LONGEST} numbers"
        return "its window isn't along two axes" if self.method == "spatial" else ""

    def _forms(self, site: Site) -> list[Form]:
        """What a layer could be, by the method asked for."""
        wide = sum(k > 1 for k in site.taps)
        small = site.length <= LONGEST
        is_conv = isinstance(site.op.kind, Conv)
        found: list[Form] = []
        if self.method in ("auto", "svd"):
            found.append(Svd(site))
        if self.method in ("auto", "spatial") and is_conv and len(site.taps) == wide == 2 and small:
            found += [Spatial(site, 0), Spatial(site, 1)]
        if self.method in ("auto", "tucker") and is_conv and wide and small and site.ins > 1:
            found.append(Tucker(site))
        return found
