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
from typing import ClassVar, Literal

import numpy as np

from graphopt.errors import InputError
from graphopt.ir.builtin import Const
from graphopt.ir.core import Graph, Module, Op, Value
from graphopt.ir.data import Inline
from graphopt.ir.types import Array, DType
from graphopt.ops.elementwise import Mul
from graphopt.ops.linalg import Gemm, MatMul
from graphopt.ops.nn import LayerNorm, RMSNorm
from graphopt.passes.fuse.weights import Linear, linear
from graphopt.passes.layers.unfold import columns, places, positions, rows
from graphopt.passes.quantize.chains import Chain, chains, scale, spread_over
from graphopt.passes.quantize.channels import Reader
from graphopt.pipeline import Context, Effect, Pass, PassResult
from graphopt.rewrite import Remark

GRID = tuple(i / 10 for i in range(1, 10))  # of alpha
COLUMNS = 1024  # of a layer's unfolded inputs, to try scales on
BETTER = 0.95  # of the error as it is, above which a layer stays
NORMS = (LayerNorm, RMSNorm)
WORTH = 0.8  # the same where a product is put into the model
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
    makers: Literal["norms", "all"] = "norms"
    samples: int = 32

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Scale the constants.

        Raises:
            InputError: no samples, or an option out of its range.
        """
        tried = self._alphas()
        if self.samples < 1:
            raise InputError(f"samples={self.samples} is no number of samples")
        if ctx.samples is None or not ctx.samples.runs:
            raise InputError("there are no samples to smooth for; give some with --data")
        found = [c for c in chains(module.main) if self.makers == "all" or _of_norms(c)]
        found += products(module.main, found)
        taken = self._watch(module, found, ctx)
        chosen: list[tuple[Chain, Array]] = []
        remarks: list[Remark] = []
        for chain, reads in zip(found, taken, strict=True):
            least = BETTER if chain.makers else WORTH
            alpha, gain = _best(chain, reads, tried, least if self.alpha == "auto" else None)
            by = 1 / _scales(chain, reads, alpha) if alpha is not None else np.ones(chain.count)
            if (np.abs(np.log(by)) < LEAST).all() or not ctx.permit("smooth", chain.loc):
                continue
            chosen.append((chain, by))
            told = f"alpha {alpha:g}, {gain:.1f} dB less noise of the layers that read it"
            remarks.append(Remark("smooth", chain.loc, True, told))
        for chain, by in chosen:
            if not chain.makers:
                _multiply_before(module.main, chain, by)
        scale(module.main, chosen)
        return PassResult(bool(chosen), tuple(remarks))

    def _alphas(self) -> tuple[float, ...]:
        if self.alpha == "auto":
            return GRID
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha={self.alpha:g} is neither auto nor a number from 0 to 1")
        return (self.alpha,)

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


def products(graph: Graph, found: Sequence[Chain]) -> list[Chain]:
    """What normalisations make for matrix products by constants, and no chain can scale.

    Not what activation functions make: outliers of GELU are so rare that the columns looked at say
    little of them, and MiniLM lost 9 dB by it.
    """
    known = {r.linear.op for chain in found for r in chain.readers}
    readers: dict[Value, list[Linear]] = {}
    for op in graph:
        if isinstance(op.kind, MatMul | Gemm) and op not in known and op.results:
            at = linear(op.result)
            maker = at.x.op.kind if at and at.x.op else None
            if at and isinstance(maker, NORMS) and at.x.tensor.dtype is DType.f32:
                readers.setdefault(at.x, []).append(at)
    return [
        Chain(layers[0].inputs, (), tuple(Reader(at, np.arange(at.inputs)) for at in layers))
        for layers in readers.values() if len({at.inputs for at in layers}) == 1
    ]  # fmt: skip


def _multiply_before(graph: Graph, chain: Chain, by: Array) -> None:
    """Let the readers of a chain read its value times `by`."""
    first = chain.readers[0].linear
    maker = first.x.op
    before = maker.next if maker else graph.first
    factor = graph.insert(Op(Const(Inline(by.astype(np.float32))), loc=first.op.loc), before)
    scaled = graph.insert(Op(Mul(), [first.x, factor.result], loc=first.op.loc), before)
    for reader in chain.readers:
        reader.linear.op.set_operand(0, scaled.result)


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

    def error(self, by: Array) -> float:
        """The noise-to-signal ratio of the layer in 8 bits, its inputs times `by` [inputs]."""
        at = self.reader.linear
        w = at.w.numpy().astype(np.float32)
        x, plain = np.concatenate(self.parts, axis=2), rows(at.op, w)
        scaled = rows(at.op, at.input_scaled(w, (1 / by).astype(np.float32)))
        wide = _spread(at.inputs, by, x.shape)
        low, high = (float((end * by).min(initial=0)) for end in (self.low, -self.high))
        wanted = plain @ x
        got = _weights(scaled) @ _activations(x * wide, low, -high)
        return float(np.sum((got - wanted) ** 2) / max(float(np.sum(wanted**2)), 1e-30))


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


def _activations(x: Array, low: float, high: float) -> Array:
    """Rounded to LEVELS steps of a range."""
    step = (high - low) / LEVELS or 1.0
    return np.rint(x * np.float32(1 / step)) * np.float32(step)


def _scales(chain: Chain, reads: Sequence[Reads], alpha: float) -> Array:
    """SmoothQuant's s for each channel, its geometric mean 1; 1 where a channel is all 0."""
    x, w = np.zeros(chain.count), np.zeros(chain.count)
    for one in reads:
        x = np.maximum(x, chain.most(one.reach, one.reader.classes))
        w = np.maximum(w, chain.most(_columns_of(one.reader), one.reader.classes))
    alive = (x > 0) & (w > 0)
    if not alive.any():
        return np.ones(chain.count)
    s = np.ones(chain.count)
    s[alive] = x[alive] ** alpha / w[alive] ** (1 - alpha)
    s[alive] /= math.exp(float(np.log(s[alive]).mean()))
    return np.clip(s, 1 / FAR, FAR)


def _columns_of(reader: Reader) -> Array:
    """The largest magnitude of a layer's weights by input channel."""
    at = reader.linear
    w = np.abs(rows(at.op, at.w.numpy())).max(axis=1, initial=0)  # [groups, K]
    groups = len(w)
    return w.reshape(groups, at.inputs // groups, -1).max(axis=-1, initial=0).reshape(-1)


def _best(
    chain: Chain, reads: Sequence[Reads], tried: Sequence[float], worth: float | None
) -> tuple[float | None, float]:
    """The alpha to use (None: leave the chain), and the noise that it saves in dB.

    `worth`: the share of the noise that must not be left; None: it is done in any case.
    """

    def error(s: Array) -> float:
        return sum(one.error(1 / spread_over(s, one.reader.classes)) for one in reads)

    errors = [(error(_scales(chain, reads, a)), a) for a in tried]
    plain = error(np.ones(chain.count))
    least, alpha = min(errors)
    if worth is not None and not least < worth * plain:
        return None, 0.0
    return alpha, 10 * math.log10(max(plain, 1e-30) / max(least, 1e-30))
