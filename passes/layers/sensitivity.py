"""How much of an error in a layer's result is left in what the model tells (see `answers.told`).

Errors of layers, each as a share of its own signal, can't be held against each other: a late layer
matters more than an early one, and a residual branch less than the stream that it is added to. So
white noise is put on each result in turn, and what arrives at the outputs is measured; for small
errors, those of several layers add (their covariance aside).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.errors import InputError
from graphopt.ir.builtin import Const
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Module, Op, Value
from graphopt.ir.data import Inline
from graphopt.ir.types import Array
from graphopt.ops.elementwise import Add
from graphopt.passes.layers.answers import told
from graphopt.pipeline import Activations

RUNS = 8
LEVEL = 1e-2  # noise power over signal power: a tenth of the amplitude


def sensitivities(
    module: Module, values: Sequence[Value], samples: Activations, runs: int = RUNS
) -> list[float]:
    """Noise over signal at the outputs, for noise over signal at each value.

    Args:
        module: stays as it is.
        values: float results of its main graph, of static shapes.
        samples: what it runs on.
        runs: how many of them; each value costs so many runs of the model.

    Returns:
        One number a value; the mean over the outputs that are made of floats (see `answers.told`).
        1 where an output is the value itself.

    Raises:
        InputError: no output is finite.
    """
    clean, signal = _answers(module, samples, runs), np.zeros(len(values))
    if clean and not any(np.isfinite(y).any() for output in clean for y in output):
        raise InputError("no output of the model is finite on the samples, so that errors can't be "
                         "told: look at the data and the weights")  # fmt: skip
    counts = np.zeros(len(values))
    for i, x in samples.watch(module, values, runs, own=True):
        there = x[np.isfinite(x)]
        signal[i] += float(np.sum(np.square(there, dtype=np.float64)))
        counts[i] += there.size
    found = list[float]()
    for value, total, count in zip(values, signal, counts, strict=True):
        rms = float(np.sqrt(total / max(count, 1)))
        moved = _answers(_noisy(module, value, rms * LEVEL**0.5), samples, runs)
        found.append(_noise_ratio(clean, moved) / LEVEL if rms else 0.0)
    return found


def _answers(module: Module, samples: Activations, runs: int) -> list[list[Array]]:
    """The arrays of what each output tells, run after run."""
    values = told(module)
    found: list[list[Array]] = [[] for _ in values]
    for i, y in samples.watch(module, values, runs, own=True):
        found[i].append(np.asarray(y, np.float64))
    return found


def _noise_ratio(clean: list[list[Array]], moved: list[list[Array]]) -> float:
    """The mean over the outputs of noise over signal, of what is finite (masks may be infinite)."""
    ratios = list[float]()
    for want, got in zip(clean, moved, strict=True):
        there = [np.isfinite(w) & np.isfinite(g) for w, g in zip(want, got, strict=True)]
        signal = sum(float(np.sum(w[t] ** 2)) for w, t in zip(want, there, strict=True))
        noise = sum(float(np.sum((g[t] - w[t]) ** 2))
                    for w, g, t in zip(want, got, there, strict=True))  # fmt: skip
        ratios.append(noise / signal if signal else 0.0)
    return float(np.mean(ratios)) if ratios else 0.0


def _noisy(module: Module, value: Value, amplitude: float) -> Module:
    """A copy with white noise, the same for every run, added to a value (a result of an op)."""
    assert value.op
    at = list(module.main).index(value.op)
    copy = clone_module(module)
    op = list(copy.main)[at]
    result = op.results[value.index]
    shape = tuple(d if isinstance(d, int) else 1 for d in result.tensor.shape or ())
    noise = np.random.default_rng(0).standard_normal(shape, np.float32) * np.float32(amplitude)
    graph, after = copy.main, op.next
    added = graph.insert(Op(Const(Inline(noise.astype(result.tensor.dtype.numpy)))), after)
    add = Op(Add(), [result, added.result])
    result.replace_all_uses_with(add.result)
    add.set_operand(0, result)
    graph.insert(add, after)
    return copy
