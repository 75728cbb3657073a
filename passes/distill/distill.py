"""distill: train a changed model to answer as the original did, with PyTorch.

    min over weights w of E[loss(model_w(x), original(x))], x the samples, made anew each time

No labels are needed: the original's outputs are what is learnt, and its values on the way
(`objective`). It goes after passes that change the structure and before those that round numbers.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.activations import bytes_of
from graphopt.errors import InputError, UnsupportedError
from graphopt.ir.core import Loc, Module
from graphopt.ir.types import Array
from graphopt.limits import max_memory
from graphopt.passes.distill import library, targets
from graphopt.passes.distill.augment import check, is_image
from graphopt.passes.distill.network import Network, parameters
from graphopt.passes.distill.objective import Objective
from graphopt.passes.distill.train import History, Settings, Trainer
from graphopt.passes.layers.apart import fitted
from graphopt.pipeline import Activations, Ahead, Context, Effect, Pass, PassResult
from graphopt.rewrite import Remark

PROBED = 4  # runs on which is tried whether all can be computed as one batch
LEFT = 10  # one in so many runs is left to measure losses on
SHARE = 4  # of the memory limit that samples may take: its fourth part


@dataclass(frozen=True)
class Distill(Pass, name="distill"):
    """Train the weights to give the original's outputs and values on the way (needs PyTorch).

    `epochs`: how often each sample is seen; 0 changes nothing. `seconds`: stop by the clock (the
    result then depends on the machine; without it, the same input, options and `threads` give the
    same bytes). `lr`: what a step changes a weight by, as a share of its root mean square, at
    first. `batch`: runs a step. `augment`: ways to make images anew, of flip, shift, mix, cut;
    inputs that aren't images stay as they are. `features`: the weight of values on the way;
    `temperature`: of classes. `patience`: epochs without a better loss, on a tenth of the runs kept
    aside, after which it stops; none: it doesn't, as the loss may rise until the rate falls.
    `samples`: runs to use; none: all but a tenth, which is left to measure losses on. `bf16`:
    multiply in bfloat16, weights and losses being float32: faster on CPUs that have it. `threads`:
    0: one a core. Zeros of weight matrices stay zeros, and weights that share few values stay as
    they are.
    """

    effect: ClassVar[Effect] = "lossy"
    repairs: ClassVar[bool] = True
    epochs: float = 10.0
    seconds: float | None = None
    lr: float = 0.003
    batch: int = 64
    augment: tuple[str, ...] = ("flip", "shift", "mix", "cut")
    features: float = 0.0
    temperature: float = 2.0
    patience: int | None = None
    samples: int | None = None
    bf16: bool = False
    threads: int = 0
    seed: int = 0

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Train on a module's own values.

        Raises:
            InputError: no samples, or an option out of its range.
            UnsupportedError: PyTorch isn't there, or the model has an op it can't train through.
        """
        self.check(Ahead(module, ctx))
        torch = library.load()
        assert ctx.samples
        before = ctx.before
        if not self.epochs or not parameters(module.main):
            return _nothing("0 epochs" if not self.epochs else "it has no float weights to train")
        if before is None or not ctx.permit("distill", Loc()):
            return PassResult(False)
        objective = self._objective(torch, module, before, ctx)
        mine = Network(torch, module.main, [g.mine for g in objective.goals], train=True)
        original = Network(torch, before.main, [g.wanted for g in objective.goals], train=False)
        data = self._data(before, ctx.samples)
        some = [torch.from_numpy(x[:PROBED]) for x in data]
        for network in (mine, original):
            network.merge(some, self.bf16)
        images = [is_image(a) for a in before.main.args]
        trainer = Trainer(torch, mine, original, objective, data, images, self._settings(),
                          ctx.progress)  # fmt: skip
        best = self._trained(torch, trainer)
        if not trainer.history.after < trainer.history.before:
            return _nothing(f"the loss stays {trainer.history.before:.4g} on runs kept aside")
        mine.write(best)
        return _told(trainer.history, len(data[0]))

    def _trained(self, torch: Any, trainer: Trainer) -> list[Any]:
        """The best state.

        Raises:
            UnsupportedError: PyTorch fails on the model.
        """
        try:
            with library.repeatable(torch, self.threads or os.cpu_count() or 1):
                return trainer.train()
        except RuntimeError as why:
            first = str(why).strip().partition("\n")[0]
            raise UnsupportedError(f"PyTorch can't train this model: {first}") from why

    def check(self, ahead: Ahead) -> None:
        """Raise for an option out of its range, without PyTorch or samples (see `Pass.check`)."""
        least: dict[str, float] = {
            "epochs": 0, "seconds": 0, "features": 0, "patience": 0, "seed": 0, "threads": 0,
            "batch": 1, "samples": 1,
        }  # fmt: skip
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and not low <= value < math.inf:
                raise InputError(f"{name}={value} isn't {low:g} or more")
        for name in ("lr", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)} isn't more than 0")
        check(self.augment)
        library.find()
        samples = ahead.ctx.samples
        if samples is None or not samples.runs or samples.data != "given":
            raise InputError("distill needs samples to train on; give some with --data")

    def _settings(self) -> Settings:
        names = (f.name for f in dataclasses.fields(Settings))
        return Settings(**{n: getattr(self, n) for n in names})

    def _objective(self, torch: Any, module: Module, before: Module, ctx: Context) -> Objective:
        """What is to be learnt.

        Raises:
            InputError: the model gives no floats.
        """
        ends = targets.outputs(module, before)
        if not ends:
            raise InputError("distill has nothing to learn: the model has no float output")
        way = targets.features(module, before, ctx.channels) if self.features else []
        return Objective(torch, ends, way, self.temperature, self.features)

    def _data(self, before: Module, samples: Activations) -> list[Array]:
        """The inputs of the runs, [runs, ...] each, as many as fit into memory."""
        args = before.main.args
        room = max_memory() // SHARE // max(sum(map(bytes_of, args)), 1)
        runs = max(min(self.samples or fitted(samples.runs, LEFT), samples.runs, room), 1)
        feeds = list(samples.take(runs))
        return [np.stack([feed[a.hint] for feed in feeds]) for a in args]


def _nothing(why: str) -> PassResult:
    told = f"distill changed nothing: {why}"
    return PassResult(False, (Remark("distill", Loc(), False, why),), notes=(told,))


def _told(history: History, runs: int) -> PassResult:
    """What was done, for the screen and the report."""
    told = (f"trained {history.epochs:.3g} epochs of {runs} runs in {history.seconds:.0f} s: loss "
            f"{history.before:.4g} -> {history.after:.4g} on runs kept aside")  # fmt: skip
    return PassResult(True, (Remark("distill", Loc(), True, told),), notes=(f"distill {told}",))
