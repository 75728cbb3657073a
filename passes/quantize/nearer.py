"""A repair is kept if the outputs come nearer to the float model's, and undone if not.

What is best for each layer by itself needn't be for the whole: half of a sentence encoder's rows
are padding, which weighs in the layers' means and products as much as words do.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from graphopt.ir.clone import clone_module
from graphopt.ir.core import Loc, Module
from graphopt.passes.layers.answers import pairs
from graphopt.passes.quantize.account import decibels
from graphopt.pipeline import Activations, Context, PassResult
from graphopt.rewrite import Remark

RUNS = 32  # samples that are compared
Repair = Callable[[Module], PassResult]


def kept_if_nearer(name: str, module: Module, ctx: Context, repair: Repair) -> PassResult:
    """Repair a module, unless its outputs would be further from those of `ctx.before`."""
    changed = clone_module(module)
    result = repair(changed)
    if not result.changed or ctx.samples is None or ctx.before is None:
        module.main = changed.main
        return result
    was, now = (noise(m, ctx.before, ctx.samples) for m in (module, changed))
    if now <= was or math.isnan(now + was):
        module.main = changed.main
        return result
    told = (f"undone: the outputs would be further from the float model's, "
            f"{decibels(was):.1f} -> {decibels(now):.1f} dB")  # fmt: skip
    return PassResult(False, (Remark(name, Loc(), False, told),), notes=(f"{name} {told}",))


def noise(module: Module, before: Module, samples: Activations) -> float:
    """The mean of noise over signal of what the outputs tell; nan where there is nothing.

    Of logits where there are some (see `layers.answers`): what follows them hides small errors.
    """
    told = pairs(before, module)
    if not told:
        return math.nan
    sums = np.zeros((len(told), 2))
    theirs, ours = (samples.watch(m, [pair[i] for pair in told], RUNS, own=True)
                    for i, m in enumerate((before, module)))  # fmt: skip
    for (i, want), (_, got) in zip(theirs, ours, strict=True):
        sums[i] += float(np.sum(np.square(want, dtype=np.float64))), _squares(got, want)
    return float(np.mean([n / s if s else 0.0 for s, n in sums]))


def _squares(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.sum(np.square(got.astype(np.float64) - want)))
