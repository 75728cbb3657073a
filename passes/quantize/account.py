"""How well each quantized layer does: its own error, and that of all before it together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Module, OpKind, Value
from graphopt.ir.types import Array
from graphopt.passes.quantize.beside import Layer, layers, noise_ratios, scans
from graphopt.pipeline import Activations


@dataclass(frozen=True)
class LayerError:
    """A layer by its ONNX nodes: signal-to-noise ratios in dB and a cosine, against float.

    `own_db`: its inputs are the float model's, quantized as it quantizes them. `total_db` and
    `cosine`: of the running model, with all that came before. nan: nothing to compare with.
    """

    nodes: tuple[str, ...]
    kind: str
    own_db: float
    total_db: float
    cosine: float


def layer_errors(
    quantized: Module, before: Module, samples: Activations, runs: int | None = None
) -> list[LayerError]:
    """The errors of a quantized module's layers, the worst own error first.

    Args:
        quantized: as `quantize` or another tool's QDQ file has it.
        before: the float model; layers are paired by the names of their results.
        samples: what both run on.
        runs: of them, at most.
    """
    found = [*layers(quantized), *scans(quantized)]
    ratios = noise_ratios(before, found, samples, runs)
    made = {r.hint: r for op in before.main for r in op.results if r.hint}
    pairs = [(_named(layer), made[layer.name]) for layer in found if layer.name in made]
    totals = dict(zip((v for v, _ in pairs), _totals(quantized, before, pairs, samples, runs),
                      strict=True))  # fmt: skip
    rows = [
        LayerError(layer.op.loc.nodes, _kind(layer.op.kind), decibels(ratio),
                   *totals.get(_named(layer), (math.nan, math.nan)))
        for layer, ratio in zip(found, ratios, strict=True)
    ]  # fmt: skip
    return sorted(rows, key=lambda r: (math.isnan(r.own_db), r.own_db))


def _named(layer: Layer) -> Value:
    """The result that a layer goes by."""
    return next(r for r in layer.op.results if r.hint == layer.name)


def _kind(kind: OpKind) -> str:
    return kind.op_type.lower() if isinstance(kind, Opaque) else kind.name


def decibels(ratio: float) -> float:
    """A noise-to-signal ratio as a signal-to-noise ratio in dB."""
    return -10 * math.log10(ratio) if ratio > 0 else (math.inf if ratio == 0 else math.nan)


def _totals(
    quantized: Module,
    before: Module,
    pairs: Sequence[tuple[Value, Value]],
    samples: Activations,
    runs: int | None,
) -> Iterator[tuple[float, float]]:
    """The signal-to-noise ratio in dB and the cosine of each pair of values."""
    sums = np.zeros((len(pairs), 3))
    ours = samples.watch(quantized, [a for a, _ in pairs], runs, own=True)
    theirs = samples.watch(before, [b for _, b in pairs], runs, own=True)
    for (i, got), (j, want) in zip(ours, theirs, strict=True):
        assert i == j
        sums[i] += _products(got, want)
    for ww, gg, wg in sums:
        noise = max(ww - 2 * wg + gg, 0.0)
        cosine = wg / math.sqrt(ww * gg) if ww and gg else math.nan
        yield (decibels(noise / ww) if ww else math.nan), cosine


def _products(got: Array, want: Array) -> tuple[float, float, float]:
    g, w = (a.astype(np.float64).reshape(-1) for a in (got, want))
    return float(w @ w), float(g @ g), float(w @ g)
