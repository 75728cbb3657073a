"""reconstruct: change the weights of a compressed model so that it gives what the original gave.

    conv(x', w, b) -> conv(x', w', b'),  w', b' = argmin E|w' x' + b' - y|^2

x' is what the compressed model, repaired up to there, feeds the layer on samples, y the original's
value of the same name (asymmetric reconstruction: He et al. 2017, arXiv 1707.06168; Zhang et al.
2015, arXiv 1505.06798). A layer whose result goes into a sum is to make the sum right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphopt.errors import InputError
from graphopt.ir.core import Loc, Module
from graphopt.passes.layers.apart import fitted
from graphopt.passes.reconstruct.prepare import prepared
from graphopt.passes.reconstruct.repair import repair
from graphopt.passes.reconstruct.sites import NAME, Site
from graphopt.passes.reconstruct.solve import RIDGES, Solution
from graphopt.pipeline import Ahead, Context, Effect, Pass, PassResult
from graphopt.rewrite import Remark

__all__ = ["Reconstruct"]

MOST = 1024  # runs to look at where the user doesn't say
LEFT = 4  # one in so many runs is left to measure losses on


@dataclass(frozen=True)
class Reconstruct(Pass, name="reconstruct"):
    """Fit the weights of a compressed model to what the original gives, layer by layer.

    `samples`: runs to look at; none: as many as MOST, and a quarter of all is left to measure
    losses on; fewer where they don't fit into memory. `ridge`: how much
    a change of weights counts, as a share of the mean square of what the layer reads; 0: chosen by
    the quarter of the samples that nothing is fitted to. A layer's change that doesn't lower the
    error there isn't made, and none is where the outputs would be worse there. Zeros stay zeros;
    layers in integers, and weights that share few values, stay (a float bias of theirs doesn't).
    """

    effect: ClassVar[Effect] = "lossy"
    repairs: ClassVar[bool] = True
    samples: int | None = None
    ridge: float = 0.0

    def check(self, ahead: Ahead) -> None:
        """Raise InputError for an option out of its range, missing samples (see `Pass.check`)."""
        if self.samples is not None and self.samples < 1:
            raise InputError(f"samples={self.samples} isn't 1 or more")
        if not 0 <= self.ridge < float("inf"):
            raise InputError(f"ridge={self.ridge} isn't a number from 0 up")
        if ahead.ctx.samples is None or ahead.ctx.samples.data != "given":
            raise InputError("reconstruct needs samples of what the model will see: give some "
                             "with --data")  # fmt: skip

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Change weights and biases.

        Raises:
            InputError: no samples were given, or an option out of its range.
        """
        self.check(Ahead(module, ctx))
        before = ctx.before
        assert before and ctx.samples
        most = self.samples or min(fitted(ctx.samples.runs, LEFT), MOST)
        work = prepared(module, before, ctx.channels, ctx.samples, most)
        if isinstance(work, list):
            return PassResult(False, tuple(work))
        remarks, solved = list(work.remarks), list[tuple[Site, Solution]]()
        noise, total = work.noise(), len(work.sites)
        for site, done in repair(work.pair, work.sites, self._ridges(), ctx.permit):
            remarks.append(_remark(site, done))
            solved += [(site, done)] if isinstance(done, Solution) else []
            ctx.progress("reconstruct layers", len(remarks) - len(work.remarks), total)
        if solved and not work.noise() <= noise:
            why = "the outputs would be further from the original's on the samples held out"
            told = (f"reconstruct changed nothing: {why}",)
            return PassResult(False, (*work.remarks, Remark(NAME, Loc(), False, why)), notes=told)
        for site, _ in solved:
            work.copy(site)
        gains = [done.gain for _, done in solved]
        return PassResult(bool(gains), tuple(remarks), notes=_notes(gains, total))

    def _ridges(self) -> tuple[float, ...]:
        return (self.ridge,) if self.ridge else RIDGES


def _remark(site: Site, done: Solution | str) -> Remark:
    loc = site.layer.op.loc
    if isinstance(done, str):
        return Remark(NAME, loc, False, done)
    told = f"{done.gain:.1f} dB (noise {done.before:.1e} -> {done.after:.1e} of the signal)"
    return Remark(NAME, loc, True, told)


def _notes(gains: Sequence[float], total: int) -> tuple[str, ...]:
    """For the screen."""
    if not gains:
        return ()
    middle = sorted(gains)[len(gains) // 2]
    return (f"{len(gains)} of {total} layers reconstructed, by {middle:.1f} dB (median)",)
