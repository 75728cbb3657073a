"""Structured pruning: channels and attention heads that go together, cut out of a module.

`units`: sets of elements that only go together. `moves`, `products`, `rules`: what ops do to them.
`groups`: those of a module that could go, and why others can't. `shrink`, `surgery`: cutting them
out. `scores`, `eliminate`: which to remove, and what that loses. `repair`: the weights of those
that are left. `propose`: choices. `rounds`: a part at a time. Here: the pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from graphopt.errors import InputError
from graphopt.ir.core import Module
from graphopt.passes.layers.gain import Aim, multiple
from graphopt.passes.layers.names import check_skip
from graphopt.passes.prune.rounds import Asked, Rounds
from graphopt.passes.prune.scores import Criterion
from graphopt.pipeline import Ahead, Context, Effect, Pass, PassResult

__all__ = ["Prune"]


@dataclass(frozen=True)
class Prune(Pass, name="prune"):
    """Remove channels and attention heads, with all weights that belong to them.

    `ratio`: of the model's multiply-adds (bytes, where `aim` is size), to be saved; without it,
    --max-drop bounds the loss. `criterion`: `l1` and `l2` are norms of weights, and need no data;
    `reconstruct` is what the layers that read a channel lose on samples when the others make up for
    it, which their new weights then do. `round_to`: channels left are a multiple; `auto`: of the
    target's vectors where time counts, else 1. `heads`: of attention, `whole` ones go, or channels
    `inside` them, of each as many. `rounds`: in which the ratio is reached, after each
    of which all is looked at again; 0: by the criterion. `aim`: what has to become less. `skip`:
    parts of names of ONNX nodes.
    """

    effect: ClassVar[Effect] = "lossy"
    ratio: float | None = None
    criterion: Criterion = "reconstruct"
    round_to: Literal["auto"] | int = "auto"
    rounds: int = 0
    aim: Aim = "time"
    heads: Literal["whole", "inside"] = "whole"
    skip: tuple[str, ...] = ()

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Prune the main graph.

        Raises:
            InputError: an option out of its range, or samples are missing.
        """
        self.check(Ahead(module, ctx))
        asked = Asked(self.criterion, self.ratio, self.aim, self._multiple(ctx), self.rounds,
                      self.skip, self.heads == "inside")  # fmt: skip
        return Rounds(module, ctx, asked).run()

    def check(self, ahead: Ahead) -> None:
        """Raise InputError for an option out of its range, missing samples (see `Pass.check`)."""
        ctx = ahead.ctx
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise InputError(f"ratio={self.ratio:g} isn't at least 0 and below 1")
        if self.ratio is None and ctx.max_drop is None:
            raise InputError("prune needs ratio=... or a limit on the loss (--max-drop)")
        if isinstance(self.round_to, int) and self.round_to < 1:
            raise InputError(f"round_to={self.round_to} isn't 1 or more")
        if self.rounds < 0:
            raise InputError(f"rounds={self.rounds} isn't 0 or more")
        given = ctx.samples is not None and ctx.samples.data == "given" and ctx.samples.runs > 0
        if self.criterion == "reconstruct" and not given:
            raise InputError(
                "criterion=reconstruct needs samples of what the model will see: "
                "give some with --data, or ask for criterion=l1, which needs none"
            )
        check_skip(ahead.module, self.skip)

    def _multiple(self, ctx: Context) -> int:
        """What channels are rounded to."""
        return multiple(self.aim, ctx) if self.round_to == "auto" else self.round_to
