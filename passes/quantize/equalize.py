"""equalize: scale channels between two layers so that the weights of both use their range alike.

    second(f(first(x))) -> second'(f(first'(x))), first' = s first, second' = second / s

Cross-layer equalization (Nagel et al. 2019, arXiv 1906.04721, section 4.1): with r1 the range of
an output channel's weights in `first` and r2 that of the same input channel's in `second`, both
become sqrt(r1 r2) (equations 9 to 11). No data is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.errors import InputError
from graphopt.ir.core import Module, Op
from graphopt.ir.types import Array
from graphopt.ops.linalg import Gemm
from graphopt.ops.nn import Conv, ConvTranspose
from graphopt.passes.fuse.weights import Linear
from graphopt.passes.quantize.chains import Chain, chains, scale, spread_over
from graphopt.pipeline import Ahead, Context, Effect, Pass, PassResult
from graphopt.rewrite import Remark

FAR = 2.0**16  # the most that a channel is scaled by, in all
LEAST = 0.01  # relative change of a channel that is worth it
NEAR = 1e-3  # relative changes below which nothing moves any more


@dataclass(frozen=True)
class Equalize(Pass, name="equalize"):
    """Equalize weights across layers.

    `iterations`: rounds over all pairs of layers, at most; a layer between two others takes part in
    both pairs, and the rounds converge to the scales of longer chains (a depthwise layer between
    two others, equation 12). `exact`: scales are rounded to powers of two, which change no bit of
    the float model.
    """

    effect: ClassVar[Effect] = "reassociating"
    iterations: int = 20
    exact: bool = False

    def check(self, ahead: Ahead) -> None:
        """Raise InputError for an option out of its range (see `Pass.check`)."""
        if self.iterations < 1:
            raise InputError(f"iterations={self.iterations} isn't 1 or more")

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Scale the constants.

        Raises:
            InputError: an option out of its range.
        """
        self.check(Ahead(module, ctx))
        found = chains(module.main)
        scales = self._scales(found)
        chosen: list[tuple[Chain, Array]] = []
        remarks: list[Remark] = []
        for chain, by in zip(found, scales, strict=True):
            if (np.abs(np.log(by)) < LEAST).all() or not ctx.permit("equalize", chain.loc):
                continue
            chosen.append((chain, by))
            told = f"channels times {by.min():.3g} to {by.max():.3g}"
            remarks.append(Remark("equalize", chain.loc, True, told))
        scale(module.main, chosen)
        return PassResult(bool(chosen), tuple(remarks))

    def _scales(self, found: list[Chain]) -> list[Array]:
        """The factor of each channel of each chain (float64)."""
        ranges: dict[Op, Ranges] = {}
        for chain in found:
            for at in (*(m.linear for m in chain.makers), *(r.linear for r in chain.readers)):
                if at and at.op not in ranges:
                    ranges[at.op] = Ranges(at)
        scales = [np.ones(chain.count) for chain in found]
        for _ in range(self.iterations):
            moved = 1.0
            for i, chain in enumerate(found):
                by = _balance(chain, ranges)
                by = np.clip(scales[i] * by, 1 / FAR, FAR) / scales[i]
                scales[i] *= by
                for maker in chain.makers:
                    if maker.linear:
                        ranges[maker.op].scale_outputs(spread_over(by, maker.classes))
                for reader in chain.readers:
                    ranges[reader.linear.op].scale_inputs(1 / spread_over(by, reader.classes))
                moved = max(moved, float(np.max(by, initial=1)), float(np.max(1 / by, initial=1)))
            if moved < 1 + NEAR:
                break
        rounded: Callable[[Array], Array] = lambda s: np.exp2(np.rint(np.log2(s)))  # noqa: E731
        return [rounded(s) if self.exact else s for s in scales]


def _balance(chain: Chain, ranges: dict[Op, Ranges]) -> Array:
    """sqrt(r2 / r1) by channel; 1 where a channel is all 0, or made by a normalisation."""
    first = second = np.zeros(chain.count)
    for maker in chain.makers:
        if maker.linear:
            made = chain.most(ranges[maker.op].outputs(), maker.classes)
            first = np.maximum(first, made)
    for reader in chain.readers:
        read = chain.most(ranges[reader.linear.op].inputs(), reader.classes)
        second = np.maximum(second, read)
    with np.errstate(all="ignore"):
        by = np.sqrt(second / first)
    return np.where(np.isfinite(by) & (by > 0), by, 1.0)


class Ranges:
    """The largest magnitude of a layer's weights for each pair of an output and an input channel.

    float64 [outputs, inputs of a group].
    """

    def __init__(self, at: Linear) -> None:
        """Those of the weights as they are."""
        w = np.abs(at.w.numpy()).astype(np.float64)
        kind = at.op.kind
        self.groups = kind.group if isinstance(kind, Conv | ConvTranspose) else 1
        if isinstance(kind, Conv | ConvTranspose):
            w = w.max(axis=tuple(range(2, w.ndim)), initial=0)
        if isinstance(kind, Conv):
            self.most = w
        elif isinstance(kind, ConvTranspose):  # [C, M/group]
            grouped = w.reshape(self.groups, -1, w.shape[1]).transpose(0, 2, 1)
            self.most = grouped.reshape(-1, grouped.shape[-1])
        else:
            self.most = w if isinstance(kind, Gemm) and kind.trans_b else w.T

    def _grouped(self) -> Array:
        """[groups, outputs of a group, inputs of a group]."""
        return self.most.reshape(self.groups, len(self.most) // self.groups, -1)

    def outputs(self) -> Array:
        """The range of each output channel's weights."""
        return self.most.max(axis=1, initial=0)

    def inputs(self) -> Array:
        """The range of each input channel's weights."""
        return self._grouped().max(axis=1, initial=0).reshape(-1)

    def scale_outputs(self, by: Array) -> None:
        """As the weights are scaled."""
        self.most = self.most * by[:, None]

    def scale_inputs(self, by: Array) -> None:
        """As the weights are scaled."""
        scaled = self._grouped() * by.reshape(self.groups, 1, -1)
        self.most = scaled.reshape(self.most.shape)
