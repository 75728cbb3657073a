"""winograd: 3x3 convolutions by minimal filtering, where that is faster.

    conv(x, w, b) of stride 1 -> conv_winograd(x, G w G^T, b)

A quarter of the products, for transforms of the image and of the result, and filters four times as
large. So it pays for many channels on images that aren't small. Its rounding errors are larger, by
some ten times; they are verified with all others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.core import Op, Value
from graphopt.ir.types import DType
from graphopt.ops.nn import Conv
from graphopt.ops.winograd import REACH, TILE, ConvWinograd, transformed
from graphopt.passes.table import RulePass
from graphopt.pipeline import Context, Effect
from graphopt.rewrite import Miss, Rewriter, Rule, const

# Of one core of a server with AVX-512; what counts is how they compare.
FLOPS = 160e9  # a second, of direct convolutions and of the products of tiles
MOVED = 60e9  # bytes a second, of transforms, which work in the second cache
STREAMED = 20e9  # bytes a second, of filters that don't fit there
CACHE = 1 << 20  # bytes of filters that stay
GAIN = 0.85  # of the direct sum's time: what isn't faster than that isn't worth its errors
BLOCK = 16  # channels that a block has on the machine of widest vectors


@dataclass(frozen=True)
class Winograd(RulePass, name="winograd"):
    """Convolve 3x3 filters with a quarter of the products, where it is faster."""

    effect: ClassVar[Effect] = "reassociating"

    def rules(self, ctx: Context) -> Iterable[Rule[Any]]:
        """One."""
        return (Rule("minimal-filtering", Conv, Filtering(ctx).minimal_filtering),)


def seconds(n: int, c: int, m: int, out: tuple[int, int]) -> tuple[float, float]:
    """Estimates for the direct sum and for minimal filtering."""
    tiles = n * math.prod(-(-s // TILE) for s in out)
    direct = 2 * n * c * m * 9 * math.prod(out) / FLOPS
    products = 2 * tiles * REACH**2 * c * m / FLOPS
    moved = 2 * 4 * tiles * REACH**2 * (c + m) / MOVED
    filters = 4 * REACH**2 * c * m
    streamed = filters / STREAMED if filters > CACHE else 0.0
    fresh = 4 * 9 * c * m / STREAMED if 4 * 9 * c * m > CACHE else 0.0
    return max(direct, fresh), max(products, streamed) + moved


@dataclass(frozen=True)
class Filtering:
    """The rule, and what it knows of the target."""

    ctx: Context

    def minimal_filtering(self, rw: Rewriter, op: Op, kind: Conv) -> Value | None:
        """conv(x, w, b) with w 3x3, stride 1 -> conv_winograd(x, G w G^T, b)."""
        w, x = const(op.operand(1)), op.operand(0).tensor
        if w is None or w.dtype is not DType.f32 or w.shape[2:] != (3, 3) or kind.group != 1:
            return None
        if {*kind.strides, *kind.dilations} != {1} or min(kind.pads) < 0 or max(kind.pads) > 2:
            return None
        out = op.result.tensor.static
        if x.static is None or out is None or any(d % BLOCK for d in w.shape[:2]):
            return None
        direct, minimal = seconds(out[0], w.shape[1], w.shape[0], (out[2], out[3]))
        if minimal > GAIN * direct:
            raise Miss(f"by minimal filtering it would take {minimal / direct:.2f} of the time")
        shape = (REACH * REACH, *w.shape[:2])
        filters = rw.computed(np.zeros(0, np.float32), shape, lambda: transformed(w.numpy()))
        made = rw.make(ConvWinograd(kind.pads), op.operand(0), filters, op.operands[2])
        if self.ctx.catalog and made.op and self.ctx.catalog.family(made.op) is None:
            raise Miss("the target has no kernel for it")
        return made
