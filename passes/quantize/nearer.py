"""A repair is kept if the outputs come nearer to the float model's, and undone if not.

What is best for each layer by itself needn't be for the whole: half of a sentence encoder's rows
are padding, which weighs in the layers' means and products as much as words do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from graphopt.ir.clone import clone_module
from graphopt.ir.core import Loc, Module
from graphopt.passes.layers.answers import pairs
from graphopt.passes.quantize.account import decibels
from graphopt.pipeline import Activations, Context, PassResult
from graphopt.rewrite import Remark

RUNS = 32  # samples that are compared
Repair = Callable[[Module], PassResult]


def kept_if_nearer(name: str, module: Module, ctx: Context, *repairs: Repair) -> PassResult:
    """Repair a module by what brings its outputs nearest to those of `ctx.before`.

    It stays as it is where each of the repairs would take them further away.
    """
    tried = [clone_module(module) for _ in repairs]
    results = [repair(m) for repair, m in zip(repairs, tried, strict=True)]
    able = [i for i, result in enumerate(results) if result.changed]
    if not able or ctx.samples is None or ctx.before is None:
        chosen = able[0] if able else 0
        module.main = tried[chosen].main
        return results[chosen]
    was, *found = noises([module, *(tried[i] for i in able)], ctx.before, ctx.samples)
    at, now = min(zip(able, found, strict=True), key=lambda pair: pair[1])
    if now <= was or math.isnan(now + was):
        module.main = tried[at].main
        return results[at]
    told = (f"undone: the outputs would be further from the float model's, "
            f"{decibels(was):.1f} -> {decibels(now):.1f} dB")  # fmt: skip
    return PassResult(False, (Remark(name, Loc(), False, told),), notes=(f"{name} {told}",))


def noises(modules: Sequence[Module], before: Module, samples: Activations) -> list[float]:
    """For each module the mean of noise over signal of what the outputs tell.

    Of logits where there are some (see `layers.answers`): what follows them hides small errors.
    All run sample by sample beside the float one. nan where there is nothing to compare.
    """
    told = [pairs(before, m) for m in modules]
    if not told[0] or any([a for a, _ in one] != [a for a, _ in told[0]] for one in told):
        return [math.nan] * len(modules)
    sides = [[a for a, _ in told[0]], *([b for _, b in one] for one in told)]
    watched = [samples.watch(m, values, RUNS, own=True)
               for m, values in zip((before, *modules), sides, strict=True)]  # fmt: skip
    signal, noise = np.zeros(len(sides[0])), np.zeros((len(modules), len(sides[0])))
    for (i, want), *given in zip(*watched, strict=True):
        signal[i] += float(np.sum(np.square(want, dtype=np.float64)))
        noise[:, i] += [_squares(got, want) for _, got in given]
    return [float(np.mean(np.where(signal > 0, n / np.where(signal > 0, signal, 1), 0)))
            for n in noise]  # fmt: skip


def _squares(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.sum(np.square(got.astype(np.float64) - want)))
