"""How far a model is from the original on a batch: what training makes small.

    loss = mean over outputs of (T^2 KL(softmax(o / T) || softmax(y / T)) + |y - o|^2 / |o|^2)
         + features * mean over values on the way of |f - g|^2 / |g|^2

o and g the original's, y and f the model's (knowledge distillation, Hinton et al. 2015, arXiv
1503.02531, section 2; values on the way after FitNets, Romero et al. 2015, arXiv 1412.6550). The
first term is there for outputs that are classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.passes.distill.library import Tensor, Torch
from graphopt.passes.distill.targets import Goal

TINY = 1e-12


@dataclass(frozen=True)
class Objective:
    """The goals: outputs, values on the way; the temperature T, and the weight of the latter."""

    torch: Torch
    outputs: Sequence[Goal]
    features: Sequence[Goal]
    temperature: float
    weight: float

    @property
    def goals(self) -> list[Goal]:
        """All, in the order in which their values are given."""
        return [*self.outputs, *self.features]

    def __call__(self, mine: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        """The loss of a batch, a scalar; all values are [runs, shape of one run...]."""
        terms = [
            self._term(goal, a, b) for goal, a, b in zip(self.goals, mine, wanted, strict=True)
        ]
        ends, way = terms[: len(self.outputs)], terms[len(self.outputs) :]
        loss = sum(ends) / max(len(ends), 1)
        return loss + self.weight * sum(way) / len(way) if way else loss

    def _term(self, goal: Goal, mine: Tensor, wanted: Tensor) -> Tensor:
        """One goal's part."""
        t = self.torch
        if goal.kept is not None:
            axis, index = goal.kept
            wanted = t.index_select(wanted, axis + 1, t.tensor(index))
        near = (mine - wanted).square().sum() / (wanted.square().sum() + TINY)
        if goal.classes is None:
            return near
        axis, heat = goal.classes % (mine.ndim - 1) + 1, self.temperature
        log_p, log_q = t.log_softmax(wanted / heat, axis), t.log_softmax(mine / heat, axis)
        return near + heat**2 * (log_p.exp() * (log_p - log_q)).sum(axis).mean()
