# pyright: basic
# TVM ships no types.
"""Convolution of u8 by s8 integers, summed in int32.

Dense convolutions are those of `conv`, a word of four channels where that has one channel:

    y[n, ob, s.., oi] = sum over ib, k.., ii of dot(x[n, ib, s*stride + k*dilation.., ii],
                                                    w[ob, ib, k.., ii, oi])

with `dot` the sum of the four products of a word's bytes, in one instruction where the machine has
it. Depthwise ones are those of `depthwise_integer`. What fits neither is `plain_integer`.
"""

from __future__ import annotations

from typing import Any

from graphopt.ir.core import Op
from graphopt.ir.types import DType
from graphopt.targets.tvm import eights, neon, shorts
from graphopt.targets.tvm.kernels import (
    conv,
    conv_schedule,
    plain_integer,
    pointwise_dots,
    tiled,
    tiled_conv,
    words,
)
from graphopt.targets.tvm.kernels import eights as by_eights
from graphopt.targets.tvm.kernels import shorts as by_shorts
from graphopt.targets.tvm.kernels.integer import biased, border_word
from graphopt.targets.tvm.region import Region, static


def build(region: Region) -> Any:
    """The scheduled function of an integer convolution and its epilogue."""
    op = region.anchor
    assert op is not None
    s = conv.shape(op)
    dots = static(op.operand(0)).dtype is (DType.i8 if region.machine.signed else DType.u8)
    if by_tiles := tiled_conv.plan(op, region.machine):
        return tiled.build(region, op, by_tiles, tiled_conv.Convolution, s.macs)
    stored = static(op.operand(1)).layout
    if stored and stored == eights.layout(op, region.machine):
        return by_eights.build(region, op)
    if stored and stored == shorts.weights(op, region.machine):
        return by_shorts.convolution(region, op)
    if pointwise_dots.fits(op, region.machine):
        return pointwise_dots.build(region, op)
    if dots and static(op.result).layout:
        return dense(region, op, s)
    return plain_integer.build(region)


def dense(region: Region, op: Op, s: conv.Shape) -> Any:
    """By words of four channels."""
    y, k, of = words.convolution(region, op, s, words.BYTES, border_word(region, op))
    last, bias = biased(region, op, k.block) if neon.is_neon(region.machine) else (op, None)
    region.bind(last.result, y)
    func = words.contract(conv_schedule.apply(region, of, k), words.BYTES)
    return func if bias is None else words.started(func, region.graph.args.index(bias), k.block)
