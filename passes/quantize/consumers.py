"""Which range of a value loses least where it counts: in the results of the layers that read it.

A range's own squared error says little of that. What rounding does to the numbers that a sum is
made of averages out; what clipping does has one sign, is in few places, and adds up. So each range
that is tried is put before the layers that read the value, beside the float model (`beside`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir.core import Module, Op, Use, Value
from graphopt.ir.types import DType
from graphopt.ops.quant import Dequantize, Quantize
from graphopt.passes.quantize.beside import Beside, energies
from graphopt.passes.quantize.points import Points, weighted
from graphopt.passes.quantize.weights import TINY
from graphopt.pipeline import Activations

Range = tuple[float, float]
Ranges = Mapping[Value, Range]
STEPS = 255
RUNS = 16  # samples that tell which range is better
CLEAR = 0.97  # of the error of the first range tried, below which another is taken


@dataclass(frozen=True)
class Trial:
    """A range of a group of values that share it, before one layer that reads one of them."""

    group: Value
    which: int
    reader: Op


def choose(
    module: Module, found: Points, tried: Sequence[Ranges], samples: Activations
) -> dict[Value, Range]:
    """For each group of values one of its ranges.

    Args:
        module: float, without notes of calibration.
        found: its values to quantize.
        tried: ranges by group; the first is taken unless another one is clearly better.
        samples: what the module runs on.
    """
    beside = Beside(module, samples.mask)
    trials: list[Trial] = []
    results: list[Value] = []
    for value in found.groups:
        group = found.find(value)
        readers = [u for u in value.uses if _sums(found, u)]
        for which, end in enumerate(_distinct([ranges[group] for ranges in tried])):
            if not readers or end is None:
                continue
            x = _rounded(beside, beside.mapped[value], end)
            for use in readers:
                others = [beside.mapped[v] for v in use.op.operands[1:] if v]
                got = beside.add(use.op.kind, x, *others)
                trials.append(Trial(group, which, use.op))
                results += energies(beside, beside.mapped[use.op.result], got)
    if not trials:
        return dict(tried[0])
    sums = np.zeros(len(results))
    alone = beside.module(results)
    for i, array in samples.watch(alone, results, RUNS):
        sums[i] += float(array)
    return _least(trials, sums.reshape(-1, 2), tried)


def _least(
    trials: Sequence[Trial], sums: np.ndarray, tried: Sequence[Ranges]
) -> dict[Value, Range]:
    """By group, the range of the least sum of its readers' noise-to-signal ratios."""
    errors: dict[Value, dict[int, float]] = {}
    for trial, (signal, noise) in zip(trials, sums, strict=True):
        of = errors.setdefault(trial.group, {})
        of[trial.which] = of.get(trial.which, 0.0) + (noise / signal if signal else 0.0)
    chosen = dict(tried[0])
    for group, of in errors.items():
        best = min(of, key=lambda which: of[which])
        if of[best] < CLEAR * of.get(0, math.inf):
            chosen[group] = tried[best][group]
    return chosen


def _sums(found: Points, use: Use) -> bool:
    return use.index == 0 and found.sums(use.op) and weighted(use.op)


def _distinct(ends: Sequence[Range]) -> list[Range | None]:
    """None for what was there before."""
    return [None if end in ends[:i] else end for i, end in enumerate(ends)]


def _rounded(beside: Beside, x: Value, ends: Range) -> Value:
    """dequantize(quantize(x)) in u8."""
    low, high = ends
    scale = np.array(max((high - low) / STEPS, TINY), np.float32)
    zero = np.array(np.clip(np.rint(-low / scale), 0, STEPS), np.uint8)
    operands = [beside.const(scale), beside.const(zero)]
    return beside.add(Dequantize(), beside.add(Quantize(DType.u8), x, *operands), *operands)
