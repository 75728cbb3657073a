"""smooth: move the scales of channels from activations into the weights that they meet.

    linear(norm(x; g, b)) -> linear'(norm(x; g / s, b / s)), linear' = linear with inputs times s

An activation has one scale for all its channels, a weight one for each of its outputs; so a channel
that is far larger than the others costs these their bits. SmoothQuant (Xiao et al. 2022, arXiv
2211.10438, equation 4) shares the burden: s_j = max|x_j|^alpha / max|w_j|^(1 - alpha). What makes
the channels may be a normalisation, or another layer with weights (`chains`). Where others read
what a normalisation makes (the residual stream of BERT), a product is put before the layers that
read it, in the kernel that makes their integers:

    linear(x) -> linear'(x * (1 / s))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from graphopt.errors import InputError
from graphopt.ir.core import Module
from graphopt.ir.types import Array
from graphopt.passes.layers.unfold import columns, places, positions, rows
from graphopt.passes.quantize.chains import Chain, chains, scale, spread_over
from graphopt.passes.quantize.channels import Reader
from graphopt.passes.quantize.factors import multiply_before, products
from graphopt.passes.quantize.needs import declined, required
from graphopt.pipeline import Ahead, Context, Effect, Pass, PassResult
from graphopt.rewrite import Remark

GRID = tuple(i / 10 for i in range(1, 11))  # of alpha
CAPS = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)  # of the largest channel
COLUMNS = 1024  # of a layer's unfolded inputs, to try scales on
BETTER = 0.95  # of the error as it is, above which a layer stays
WORTH = 0.8  # the same where a product is put into the model
MADE = 0.65  # and where layers with weights make it
LEAST = 0.01  # relative change of a channel that is worth it
FAR = 2.0**16  # the most that a channel is scaled by
LEVELS, MOST = 255, 127  # steps of activations; the largest integer of weights


@dataclass(frozen=True)
class Smooth(Pass, name="smooth"):
    """Share the range of activations' channels with the weights that read them.

    `alpha`: how much of the range goes over (0: none of the activation's), for all layers; or
    auto, for each layer that of a grid with the least squared error of its product in 8 bits on
    samples, if that is less than without. `makers`: whether only channels that normalisations make
    are scaled, or those of layers with weights, too. `samples`: runs to look at, at most. Memory:
    COLUMNS columns of each layer's unfolded inputs, besides the values of one run.
    """

    effect: ClassVar[Effect] = "reassociating"
    alpha: float | Literal["auto"] = "auto"
    makers: Literal["norms", "all"] = "all"
    samples: int = 32

    def check(self, ahead: Ahead) -> None:
        """Raise InputError for an option out of its range, missing samples (see `Pass.check`)."""
        self._alpha()
        if self.samples < 1:
            raise InputError(f"samples={self.samples} is no number of samples")
        required(ahead.ctx, "smooth for")

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Scale the constants.

        Raises:
            InputError: no samples, or an option out of its range.
        """
        self.check(Ahead(module, ctx))
        alpha = self._alpha()
        if (left := declined("smooth", ctx, "smooth for")) is not None:
            return left
        found = [c for c in chains(module.main) if self.makers == "all" or _of_norms(c)]
        found += products(module.main, found)
        taken = self._watch(module, found, ctx)
        chosen: list[tuple[Chain, Array]] = []
        remarks: list[Remark] = []
        for chain, reads in zip(found, taken, strict=True):
            best = _best(chain, reads, alpha, _bar(chain))
            if best is None or (np.abs(np.log(best[0])) < LEAST).all():
                continue
            if ctx.permit("smooth", chain.loc):
                chosen.append((chain, 1 / best[0]))
                remarks.append(Remark("smooth", chain.loc, True, best[1]))
        for chain, by in chosen:
            if not chain.makers:
                multiply_before(module.main, chain, by)
        scale(module.main, chosen)
        return PassResult(bool(chosen), tuple(remarks))

    def _alpha(self) -> float | None:
        """None for auto."""
        if self.alpha == "auto":
            return None
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha={self.alpha:g} is neither auto nor a number from 0 to 1")
        return self.alpha

    def _watch(self, module: Module, found: list[Chain], ctx: Context) -> list[list[Reads]]:
        """What the readers of each chain read on the samples."""
        assert ctx.samples
        runs = min(self.samples, ctx.samples.runs)
        taken = [[Reads(r, runs) for r in chain.readers] for chain in found]
        flat = [one for reads in taken for one in reads]
        values = [one.reader.linear.x for one in flat]
        for i, x in ctx.samples.watch(module, values, runs):
            flat[i].add(x)
        return taken


def _bar(chain: Chain) -> float:
    """The part of the error as it is that scales of a chain have to stay under."""
    if not chain.makers:
        return WORTH
    return BETTER if _of_norms(chain) else MADE


def _of_norms(chain: Chain) -> bool:
    """Whether normalisations make all of its channels."""
    return not any(maker.linear for maker in chain.makers)


@dataclass
class Reads:
    """What a layer reads: the range of each channel, and some columns [groups, K, P]."""

    reader: Reader
    runs: int
    low: Array = field(default_factory=lambda: np.zeros(()))
    high: Array = field(default_factory=lambda: np.zeros(()))
    parts: list[Array] = field(default_factory=list[Array])
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, x: Array) -> None:
        """Take in one run."""
        at = self.reader.linear
        others = tuple(a for a in range(x.ndim) if a != at.axis % x.ndim)
        self.low = np.minimum(self.low, x.min(axis=others, initial=0))
        self.high = np.maximum(self.high, x.max(axis=others, initial=0))
        chosen = places(positions(at.op, x), math.ceil(COLUMNS / self.runs), self.random)
        self.parts.append(columns(at.op, x, chosen))

    @property
    def reach(self) -> Array:
        """The largest magnitude of each channel."""
        return np.maximum(-self.low, self.high)

    @cached_property
    def columns(self) -> Array:
        """All that were chosen, side by side."""
        return np.concatenate(self.parts, axis=2)

    @cached_property
    def wanted(self) -> Array:
        """What the layer makes of them."""
        at = self.reader.linear
        return rows(at.op, at.w.numpy().astype(np.float32)) @ self.columns

    @cached_property
    def signal(self) -> float:
        """The sum of squares of that."""
        return float(np.sum(np.square(self.wanted)))

    def error(self, by: Array) -> float:
        """The noise-to-signal ratio of the layer in 8 bits, its inputs times `by` [inputs]."""
        at = self.reader.linear
        w = at.w.numpy().astype(np.float32)
        scaled = rows(at.op, at.input_scaled(w, (1 / by).astype(np.float32)))
        low, high = (float((end * by).min(initial=0)) for end in (self.low, -self.high))
        step = np.float32((-high - low) / LEVELS or 1.0)
        steps = self.columns * (_spread(at.inputs, by, self.columns.shape) / step)
        noise = (_weights(scaled) * step) @ np.rint(steps, out=steps) - self.wanted
        return float(np.sum(np.square(noise, out=noise))) / max(self.signal, 1e-30)


def _spread(inputs: int, by: Array, shape: tuple[int, ...]) -> Array:
    """The factor of each row of unfolded inputs, [groups, K, 1]."""
    groups, size, _ = shape
    taps = size // (inputs // groups)
    return np.repeat(by.reshape(groups, -1), taps, axis=1)[:, :, None].astype(np.float32)


def _weights(w: Array) -> Array:
    """Rounded to MOST steps of the largest of each row."""
    step = np.abs(w).max(axis=-1, keepdims=True, initial=0) / MOST
    step = np.where(step > 0, step, 1)
    return np.rint(w / step) * step


def _moved(x: Array, w: Array, alpha: float) -> Array:
    """SmoothQuant's s for each channel, its geometric mean 1; 1 where a channel is all 0."""
    alive = (x > 0) & (w > 0)
    if not alive.any():
        return np.ones(len(x))
    s = np.ones(len(x))
    s[alive] = x[alive] ** alpha / w[alive] ** (1 - alpha)
    s[alive] /= math.exp(float(np.log(s[alive]).mean()))
    return np.clip(s, 1 / FAR, FAR)


def _capped(x: Array, part: float) -> Array:
    """What brings each channel down to a part of the largest, and leaves those below it."""
    most = part * float(x.max(initial=0))
    return np.clip(x / most, 1, FAR) if most > 0 else np.ones(len(x))


def _reaches(chain: Chain, reads: Sequence[Reads]) -> tuple[Array, Array]:
    """The largest magnitude of each channel, and of the weights that meet it."""
    x, w = np.zeros(chain.count), np.zeros(chain.count)
    for one in reads:
        x = np.maximum(x, chain.most(one.reach, one.reader.classes))
        w = np.maximum(w, chain.most(_columns_of(one.reader), one.reader.classes))
    return x, w


def _columns_of(reader: Reader) -> Array:
    """The largest magnitude of a layer's weights by input channel."""
    at = reader.linear
    w = np.abs(rows(at.op, at.w.numpy())).max(axis=1, initial=0)  # [groups, K]
    groups = len(w)
    return w.reshape(groups, at.inputs // groups, -1).max(axis=-1, initial=0).reshape(-1)


def _best(
    chain: Chain, reads: Sequence[Reads], alpha: float | None, least: float
) -> tuple[Array, str] | None:
    """The scales of a chain's channels and what they do in words; None: it stays.

    `alpha`: the one to use; None: what makes the least noise, if that is below `least` of what is
    there without.
    """

    def error(s: Array) -> float:
        return sum(one.error(1 / spread_over(s, one.reader.classes)) for one in reads)

    x, w = _reaches(chain, reads)
    tried = [(f"alpha {a:g}", _moved(x, w, a)) for a in (GRID if alpha is None else (alpha,))]
    if alpha is None:
        tried += [(f"at most {part:g} of the largest", _capped(x, part)) for part in CAPS]
    errors = [error(s) for _, s in tried]
    plain, best = error(np.ones(chain.count)), int(np.argmin(errors))
    if alpha is None and not errors[best] < least * plain:
        return None
    saved = 10 * math.log10(max(plain, 1e-30) / max(errors[best], 1e-30))
    return tried[best][1], f"{tried[best][0]}, {saved:.1f} dB less noise of the layers that read it"
