# pyright: basic
# TVM ships no types.
"""Convolution of 8-bit integers as a plain loop nest, for what no other kernel fits."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from graphopt.targets.tvm import loops
from graphopt.targets.tvm.kernels import conv
from graphopt.targets.tvm.kernels.integer import border
from graphopt.targets.tvm.region import Region, shape_of


def build(region: Region) -> Any:
    """One result element at a time, for any sizes and 8-bit types."""
    op = region.anchor
    assert op is not None
    s = conv.shape(op)
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
