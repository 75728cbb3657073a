# pyright: basic
# TVM ships no types.
"""Convolution in groups whose channels don't fill vector blocks.

A block of output channels may then hold channels of several groups. It is computed as by the direct
convolution, but its sum runs over the groups that it meets, one after another, and the weights of
lanes that belong to another group count as zero:

    y[n, ob, s.., oi] = sum over g in groups(ob), c, k.. of x[n, g * ins + c, s + k]
                                                            * (w[ob, c, k.., oi] where oi is in g)
"""

from __future__ import annotations

import math
from typing import Any

from tvm import te, tirx

from graphopt.targets.tvm.kernels import conv, conv_schedule, grouped_rows
from graphopt.targets.tvm.region import Region, static


def build(region: Region) -> Any:
    """The scheduled function of a grouped convolution and its epilogue."""
    op = region.anchor
    assert op is not None
    s = conv.shape(op)
    return blocks(region, s) if static(op.result).layout else grouped_rows.build(region, s)


def blocks(region: Region, s: conv.Shape) -> Any:
    """The function for a blocked result."""
    op = region.anchor
    assert op is not None
    k = choose(region, s)
    cols = -(-s.out[-1] // k.columns) * k.columns
    x = conv.padded(region, op, s, k, (*s.out[:-1], cols)) if k.copy else None
    w = conv.packed(region, op.operand(1), conv.weight_tag(len(s.size) + 2, 1, k.block))
    y = sums(region, s, k, x, w)
    tag = conv.blocked(len(s.size) + 2, k.block)
    bias = op.operands[2]

    def read(index: Any) -> Any:
        value = y(*region.physical(tag, index))
        return value if bias is None else value + region.at(bias, [index[1]])

    region.bind(op.result, read)
    return conv_schedule.apply(region, s, k)


def choose(region: Region, s: conv.Shape) -> conv.Knobs:
    """A tile of one block, as the next one reads other channels; the smaller operand is reread."""
    op, machine = region.anchor, region.machine
    assert op is not None
    block = conv.channel_block(op.result)
    columns, _ = conv.tiles(s.out[-1], 1, block, machine)[0]
    copy = any(s.pads) or s.out[-1] % columns != 0
    inner = conv.channel_block(op.operand(0))
    weights = s.outs * s.ins * math.prod(s.kernel)
    input_first = weights < s.n * s.ins * s.group * math.prod(s.size)
    return conv.Knobs(block, inner, columns, 1, input_first, copy)


def sums(region: Region, s: conv.Shape, k: conv.Knobs, x: Any, w: Any) -> Any:
    """The stage `anchor`: the sums over the groups that meet in a block of channels.

    `x` is the padded copy of the operand, None where it is read in place.
    """
    op = region.anchor
    assert op is not None
    per = s.outs // s.group
    q = region.reduce_axis(groups_met(s.outs, per, k.block), "q")
    c = region.reduce_axis(s.ins, "c")
    taps = [region.reduce_axis(d, f"k{i}") for i, d in enumerate(s.kernel)]
    simple, zero = region.analyzer.simplify, tirx.const(0.0, "float32")

    def element(n: Any, channel: Any, where: list[Any]) -> Any:
        if x is None:
            return region.at(op.operand(0), [n, channel, *where])
        if k.inner == 1:
            return x(n, channel, *where)
        return x(n, simple(tirx.floordiv(channel, k.inner)), *where,
                 simple(tirx.floormod(channel, k.inner)))  # fmt: skip

    def body(*at: Any) -> Any:
        n, ob, *space, oi = at
        where = [p * st + t.var * d for p, st, t, d in
                 zip(space, s.strides, taps, s.dilations, strict=True)]  # fmt: skip
        group = tirx.floordiv(ob * k.block, per) + q.var
        last = tirx.floordiv(tirx.min(ob * k.block + k.block, s.outs) - 1, per)
        own = tirx.floordiv(ob * k.block + oi, per) == group
        weight = tirx.Select(own, w(ob, c.var, *[t.var for t in taps], oi), zero)
        term = element(n, group * s.ins + c.var, where) * weight
        return te.sum(tirx.if_then_else(group <= last, term, zero), axis=[q, c, *taps])

    cols = -(-s.out[-1] // k.columns) * k.columns
    full = (s.n, -(-s.outs // k.block), *s.out[:-1], cols, k.block)
    return region.compute(full, body, "anchor")


def groups_met(outs: int, per: int, block: int) -> int:
    """The most groups of `per` output channels that have channels in one block."""
    ends = range(block, outs + block, block)
    return max((min(e, outs) - 1) // per - (e - block) // per + 1 for e in ends)
