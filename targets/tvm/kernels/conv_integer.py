# pyright: basic
# TVM ships no types.
"""Convolution of u8 by s8 integers, summed in int32.

Dense convolutions are those of `conv`, a word of four channels where that has one channel:

    y[n, ob, s.., oi] = sum over ib, k.., ii of dot(x[n, ib, s*stride + k*dilation.., ii],
                                                    w[ob, ib, k.., ii, oi])

with `dot` the sum of the four products of a word's bytes, in one instruction where the machine has
it. Depthwise ones are those of `depthwise_integer`. What fits neither is a plain loop nest.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from tvm import te, tirx

from graphopt.ir.core import Op
from graphopt.ir.types import DType
from graphopt.targets.tvm import loops
from graphopt.targets.tvm.intrinsics import call
from graphopt.targets.tvm.kernels import conv, depthwise_integer, tiled
from graphopt.targets.tvm.kernels.integer import border, border_word, contract
from graphopt.targets.tvm.legal import depthwise as is_depthwise
from graphopt.targets.tvm.region import Region, shape_of, static


def build(region: Region) -> Any:
    """The scheduled function of an integer convolution and its epilogue."""
    op = region.anchor
    assert op is not None
    s = conv.shape(op)
    unsigned = static(op.operand(0)).dtype is DType.u8
    by_tiles = tiled.conv_plan(op, region.machine)
    if by_tiles:
        return tiled.build(region, op, by_tiles, tiled.Convolution, s.macs)
    blocked = bool(static(op.result).layout)
    if blocked and is_depthwise(op) and depthwise_integer.fits(op, region.machine):
        return depthwise_integer.build(region)
    if blocked and unsigned and not is_depthwise(op):
        return dense(region, op, s)
    return plain(region, op, s)


def dense(region: Region, op: Op, s: conv.Shape) -> Any:
    """By words of four channels."""
    stored = conv.channel_block(op.operand(0))
    words = dataclasses.replace(s, ins=-(-s.ins // 4))
    block = conv.channel_block(op.result)
    small = s.ins * s.outs * math.prod(s.kernel) <= region.machine.l2_bytes // 2
    k = region.pick([
        conv.Knobs(block, stored // 4, columns, blocks, order,
                   any(s.pads) or s.out[-1] % columns != 0)
        for order in (small, not small)
        for columns, blocks in conv.tiles(
            s.out[-1], -(-s.outs // s.group // block), block, region.machine)
    ])  # fmt: skip
    x, w = region.words(op.operand(0)), region.words(op.operand(1))
    if k.copy:
        x = padded(region, op, words, k, x)
    accumulate(region, op, words, k, x, w)
    return contract(conv.apply(region, words, k))


def padded(region: Region, op: Op, s: conv.Shape, k: conv.Knobs, x: Any) -> Any:
    """A copy of the words of x with the padding, and as many columns as the tiles read."""
    dims = len(s.size)
    cols = -(-s.out[-1] // k.columns) * k.columns
    out = (*s.out[:-1], cols)
    need = tuple((o - 1) * st + (t - 1) * d + 1 for o, st, t, d in
                 zip(out, s.strides, s.kernel, s.dilations, strict=True))  # fmt: skip
    full = (s.n, -(-s.ins * s.group // k.inner), *need, k.inner)
    word = border_word(region, op)

    def body(*at: Any) -> Any:
        n, cb, *space, lane = at
        at_x = [p - b for p, b in zip(space, s.pads[:dims], strict=True)]
        checks: list[Any] = []
        for p, begin, size, whole in zip(at_x, s.pads, s.size, need, strict=False):
            checks += [p >= 0] if begin else []
            checks += [p < size] if whole - begin > size else []
        inside = x(n, cb, *at_x, lane)
        if not checks:
            return inside
        return tirx.if_then_else(tirx.all(*checks), inside, word)

    return region.compute(full, body, "pad")


def accumulate(region: Region, op: Op, s: conv.Shape, k: conv.Knobs, x: Any, w: Any) -> None:
    """The stage `anchor`: sums of `dot`, to be contracted once the schedule is made."""
    rank = len(s.size) + 2
    cols = -(-s.out[-1] // k.columns) * k.columns
    per_group = s.outs // s.group
    ib = region.reduce_axis(-(-s.ins // k.inner), "ib")
    ii = region.reduce_axis(k.inner, "ii")
    taps = [region.reduce_axis(d, f"k{i}") for i, d in enumerate(s.kernel)]

    def body(*at: Any) -> Any:
        n, ob, *space, oi = at
        where = [p * st + t.var * d for p, st, t, d in
                 zip(space, s.strides, taps, s.dilations, strict=True)]  # fmt: skip
        group = tirx.floordiv(ob * k.block, per_group) if s.group > 1 else 0
        channel = group * (s.ins // k.inner) + ib.var
        last = [ii.var] if k.inner > 1 else []
        weight = w(ob, ib.var, *[t.var for t in taps], *last, oi, 0)
        product = call("dot", tirx.const(0, "int32"), x(n, channel, *where, ii.var), weight)
        return te.sum(product, axis=[ib, *taps, ii])

    full = (s.n, -(-s.outs // k.block), *s.out[:-1], cols, k.block)
    y, tag = region.compute(full, body, "anchor"), conv.blocked(rank, k.block)
    region.bind(op.result, lambda index: y(*region.physical(tag, index)))


def plain(region: Region, op: Op, s: conv.Shape) -> Any:
    """One result element at a time, for any sizes and 8-bit types."""
    x, w = op.operand(0), op.operand(1)
    c = region.reduce_axis(s.ins, "c")
    taps = [region.reduce_axis(d, f"k{i}") for i, d in enumerate(s.kernel)]
    dims = len(s.size)

    def body(*at: Any) -> Any:
        n, m, *space = at
        where = [p * st + t.var * d - b for p, st, t, d, b in
                 zip(space, s.strides, taps, s.dilations, s.pads, strict=False)]  # fmt: skip
        group: Any = region.analyzer.simplify(tirx.floordiv(m, s.outs // s.group))
        checks: list[Any] = []
        for i, p in enumerate(where):
            checks += [p >= 0] if s.pads[i] else []
            checks += [p < s.size[i]] if s.pads[dims + i] else []
        value = tirx.Cast("int32", region.at(x, [n, group * s.ins + c.var, *where]))
        if checks:
            fill = border(region, op)
            fill = tirx.const(fill, "int32") if isinstance(fill, int) else tirx.Cast("int32", fill)
            value = tirx.if_then_else(tirx.all(*checks), value, fill)
        weight = region.at(w, [m, c.var, *[t.var for t in taps]])
        return te.sum(value * tirx.Cast("int32", weight), axis=[c, *taps])

    y = region.compute(shape_of(op.result), body, "anchor")
    region.bind(op.result, lambda index: y(*index))
    (output,) = region.graph.outputs
    sch = loops.schedule(region.primfunc([region.store(output, "out0")]))
    loops.reduction_stage(sch, sch.get_sblock("anchor"), region.machine, work=s.macs)
    loops.simple_stage(sch, sch.get_sblock("out0"), region.machine, work=s.macs // s.ins)
    return sch.mod["main"]
