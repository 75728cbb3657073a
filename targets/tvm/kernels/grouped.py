# pyright: basic
# TVM ships no types.
"""Convolution in groups that don't fill vector blocks: a plain loop nest, vectorized over columns.

Rare (depthwise with a multiplier, small groups), so simple: one result element at a time in the
order of the result, the sum innermost, LLVM choosing the vectors.
"""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from graphopt.targets.tvm import loops
from graphopt.targets.tvm.kernels import conv
from graphopt.targets.tvm.region import Region, shape_of


def bounds(where: list[Any], s: conv.Shape) -> list[Any]:
    """The conditions that a position in the operand isn't padding."""
    checks: list[Any] = []
    for i, p in enumerate(where):
        checks += [p >= 0] if s.pads[i] else []
        checks += [p < s.size[i]] if s.pads[len(where) + i] else []
    return checks


def build(region: Region) -> Any:
    """The scheduled function of a grouped convolution and its epilogue."""
    op = region.anchor
    assert op is not None
    s = conv.shape(op)
    x, w, bias = op.operand(0), op.operand(1), op.operands[2]
    c = region.reduce_axis(s.ins, "c")
    taps = [region.reduce_axis(d, f"k{i}") for i, d in enumerate(s.kernel)]
    per = s.outs // s.group

    def body(*at: Any) -> Any:
        n, m, *space = at
        where = [p * st + t.var * d - b for p, st, t, d, b in
                 zip(space, s.strides, taps, s.dilations, s.pads, strict=False)]  # fmt: skip
        group: Any = region.analyzer.simplify(tirx.floordiv(m, per))
        checks = bounds(where, s)
        inside = region.at(x, [n, group * s.ins + c.var, *where])
        zero = tirx.const(0.0, "float32")
        value = tirx.if_then_else(tirx.all(*checks), inside, zero) if checks else inside
        return te.sum(value * region.at(w, [m, c.var, *[t.var for t in taps]]), axis=[c, *taps])

    y = region.compute(shape_of(op.result), body, "anchor")

    def read(index: Any) -> Any:
        value = y(*index)
        return value if bias is None else value + region.at(bias, [index[1]])

    region.bind(op.result, read)
    (output,) = region.graph.outputs
    sch = loops.schedule(region.primfunc([region.store(output, "out0")]))
    loops.reduction_stage(sch, sch.get_sblock("anchor"), region.machine, work=s.macs)
    loops.simple_stage(sch, sch.get_sblock("out0"), region.machine, work=s.macs // s.ins)
    return sch.mod["main"]
