"""adaround: round weights so that the results of layers change least, not each weight.

    argmin over integers q of E[(q s x' - w x')^2], x' the quantized inputs on samples

The objective is AdaRound's layer by layer (Nagel et al. 2020, arXiv 2004.10568, equation 13), over
the two integers around each weight, by coordinate descent from the nearest instead of a relaxation
by gradients. Inputs count by their covariance: the mean of a result is the bias's to keep, which
takes up what the new integers would change of it. Those of transposed convolutions, of which a
pixel gets some of the taps, count by their second moments, and the bias stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.errors import InputError
from graphopt.ir.core import Module
from graphopt.ir.types import Array
from graphopt.ops.nn import ConvTranspose
from graphopt.passes.layers.gram import AT_ONCE, Gram, gram_bytes
from graphopt.passes.layers.unfold import rows, unrows
from graphopt.passes.quantize.bias import shift
from graphopt.passes.quantize.nearer import kept_if_nearer
from graphopt.passes.quantize.needs import declined
from graphopt.passes.quantize.pairs import Pair, nothing, pairs
from graphopt.passes.quantize.points import source
from graphopt.passes.quantize.rounding import cost, damped, descend
from graphopt.pipeline import Ahead, Context, Effect, Pass, PassResult
from graphopt.portions import portions
from graphopt.rewrite import Remark

LONGEST = 6144  # weights of a row that is rounded: 32 times its square is 1.2 GB


@dataclass(frozen=True)
class AdaRound(Pass, name="adaround"):
    """Choose the integers of quantized weights by the error of what layers give.

    All of it is undone if the model's outputs are further from the float model's then.

    `samples`: runs of the float model to look at, at most. `iterations`: sweeps over a weight's
    columns, at most. Memory: Gram matrices of AT_ONCE bytes together, a layer with rows of K
    weights having 4 K^2 a group, and 32 K^2 while it is solved, besides the values of one run.
    Layers with K over LONGEST stay as they are. Time: a sweep over a layer is M K^2 multiply-adds.
    """

    effect: ClassVar[Effect] = "lossy"
    samples: int = 64
    iterations: int = 8

    def check(self, ahead: Ahead) -> None:
        """Raise InputError for an option out of its range (see `Pass.check`)."""
        for name, value in (("samples", self.samples), ("iterations", self.iterations)):
            if value < 1:
                raise InputError(f"{name}={value} isn't 1 or more")

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Change integers and biases.

        Raises:
            InputError: no samples, or an option out of its range.
        """
        self.check(Ahead(module, ctx))
        if not pairs(module, ctx):
            return nothing("adaround")
        if (left := declined("adaround", ctx, "round for")) is not None:
            return left
        return kept_if_nearer("adaround", module, ctx, lambda m: self._repair(m, ctx))

    def _repair(self, module: Module, ctx: Context) -> PassResult:
        """Each layer that can be solved."""
        found = pairs(module, ctx)
        remarks = [
            Remark("adaround", pair.op.loc, False, f"rows of more than {LONGEST} weights")
            for pair in found
            if _length(pair) > LONGEST
        ]
        able = [pair for pair in found if _length(pair) <= LONGEST]
        for part in portions(able, lambda pair: gram_bytes(pair.twin), AT_ONCE):
            for pair, inputs in zip(part, self._inputs(part, ctx), strict=True):
                if ctx.permit("adaround", pair.op.loc):
                    remarks.append(self._round(pair, inputs))
        return PassResult(any(r.applied for r in remarks), tuple(remarks))

    def _inputs(self, part: Sequence[Pair], ctx: Context) -> list[Gram]:
        """What the layers read on the samples, rounded (zeros around images stay zeros)."""
        assert ctx.samples and ctx.unquantized
        runs = min(self.samples, ctx.samples.runs)
        found = [Gram(pair.twin, runs, pair.rounded) for pair in part]
        values = [source(pair.twin.operand(0)) for pair in part]
        for i, x in ctx.samples.watch(ctx.unquantized, values, runs):
            found[i].add(x)
        return found

    def _round(self, pair: Pair, inputs: Gram) -> Remark:
        """Other integers for one layer, if they are better."""
        old = rows(pair.op, pair.integers).astype(np.float64)
        scale = _scales(pair, old)
        wanted = rows(pair.op, pair.weight).astype(np.float64) / scale
        most = max(int(np.abs(old).max(initial=0)), 1)
        apart = isinstance(pair.op.kind, ConvTranspose)  # taps: a bias can't take up each one's
        plain = inputs.moments() if apart else inputs.covariances()
        h = np.stack([damped(one, inputs.count) for one in plain])
        new = descend(wanted, old, h, most, self.iterations)
        before, after = (float(np.sum(scale[..., 0] ** 2 * cost(wanted, q, h))) for q in (old, new))
        if not after < before:
            return Remark("adaround", pair.op.loc, False, "the integers are as good as they get")
        kept = np.einsum("gmk,gk->gm", (old - new) * scale, inputs.mean())
        if not apart and not shift(pair.op, kept.reshape(-1)):
            return Remark("adaround", pair.op.loc, False, "the bias can't take up the difference")
        pair.replace(unrows(pair.op, new.astype(np.int8), pair.weight.shape))
        told = f"{10 * math.log10(before / max(after, 1e-30)):.1f} dB less noise of its own"
        return Remark("adaround", pair.op.loc, True, told)


def _length(pair: Pair) -> int:
    """The weights of a row."""
    return rows(pair.op, pair.weight).shape[-1]


def _scales(pair: Pair, grouped: Array) -> Array:
    """The weight's scales, [groups, M / groups, 1] in float64."""
    scale, count = pair.scale.astype(np.float64), grouped.shape[0] * grouped.shape[1]
    if isinstance(pair.op.kind, ConvTranspose) and scale.size > 1:  # a row for each channel and tap
        scale = np.tile(np.repeat(scale, grouped.shape[1] // scale.size), grouped.shape[0])
    return np.broadcast_to(scale, (count,)).reshape(*grouped.shape[:2], 1)
