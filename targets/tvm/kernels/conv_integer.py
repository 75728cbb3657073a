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

from typing import Any

from tvm import te, tirx

from graphopt.ir.core import Op
from graphopt.ir.types import DType
from graphopt.targets.tvm import eights, loops, shorts
from graphopt.targets.tvm.kernels import conv, depthwise_integer, tiled, words
from graphopt.targets.tvm.kernels import eights as by_eights
from graphopt.targets.tvm.kernels import shorts as by_shorts
from graphopt.targets.tvm.kernels.integer import border, border_word
from graphopt.targets.tvm.legal import depthwise as is_depthwise
from graphopt.targets.tvm.region import Region, shape_of, static


def build(region: Region) -> Any:
    """The scheduled function of an integer convolution and its epilogue."""
    op = region.anchor
    assert op is not None
    s = conv.shape(op)
    dots = static(op.operand(0)).dtype is (DType.i8 if region.machine.signed else DType.u8)
    by_tiles = tiled.conv_plan(op, region.machine)
    if by_tiles:
        return tiled.build(region, op, by_tiles, tiled.Convolution, s.macs)
    blocked = bool(static(op.result).layout)
    if blocked and is_depthwise(op) and depthwise_integer.fits(op, region.machine):
        return depthwise_integer.build(region)
    stored = static(op.operand(1)).layout
    if stored and stored == eights.layout(op, region.machine):
        return by_eights.build(region, op)
    if stored and stored == shorts.weights(op, region.machine):
        return by_shorts.convolution(region, op)
    if blocked and dots and not is_depthwise(op):
        return dense(region, op, s)
    return plain(region, op, s)


def dense(region: Region, op: Op, s: conv.Shape) -> Any:
    """By words of four channels."""
    y, k, of = words.convolution(region, op, s, words.BYTES, border_word(region, op))
    region.bind(op.result, y)
    return words.contract(conv.apply(region, of, k), words.BYTES)


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
