# pyright: basic
# TVM ships no types.
"""Convolution in groups, the result dense: rows of the result, vectorized over columns.

    for channels of a group, for a row: y[channels, row] += w[channels, c, tap] * x[c, row + tap]

A row is a line of the image, or, for a 1 x 1 kernel, up to ROW elements of it in memory order; the
rows of a few channels stay in the first cache while the sum runs over input channels and taps.
"""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from graphopt.targets.machine import Machine
from graphopt.targets.tvm import loops
from graphopt.targets.tvm.kernels import conv
from graphopt.targets.tvm.region import Region, shape_of

ROW = 512  # elements of a row in memory order
CHANNELS = 4  # rows that are summed together, reading the operand once


def bounds(where: list[Any], s: conv.Shape) -> list[Any]:
    """The conditions that a position in the operand isn't padding."""
    checks: list[Any] = []
    for i, p in enumerate(where):
        checks += [p >= 0] if s.pads[i] else []
        checks += [p < s.size[i]] if s.pads[len(where) + i] else []
    return checks


def divisor(size: int, most: int) -> int:
    """The largest divisor of a size that is at most `most`."""
    return next(d for d in range(min(size, most), 0, -1) if size % d == 0)


def nest(sch: Any, s: conv.Shape, machine: Machine) -> None:
    """Schedule the sums: channels and rows outside, then the sum, then the row."""
    block = sch.get_sblock("anchor")
    n, m, *rest = sch.get_loops(block)
    space, sums = rest[: len(s.size)], rest[len(s.size) :]
    pointwise = {*s.kernel, *s.strides} == {1} and not any(s.pads)
    if pointwise:
        space = [sch.fuse(*space)] if len(space) > 1 else space
        space = sch.split(space[0], [None, divisor(loops.extent(sch, space[0]), ROW)])
    *lines, row = space
    groups, channels = sch.split(m, [None, divisor(s.outs // s.group, CHANNELS)])
    sch.reorder(n, groups, *lines, *sums, channels, row)
    if loops.extent(sch, row) % machine.lanes == 0:  # else LLVM makes vectors and a remainder
        sch.vectorize(sch.split(row, [None, machine.lanes])[1])
    sch.unroll(channels)
    tasks = sch.fuse(n, groups)
    if loops.parallel_worth(s.macs) and loops.extent(sch, tasks) > 1:
        sch.parallel(tasks)
    sch.decompose_reduction(block, sums[0])


def build(region: Region, s: conv.Shape) -> Any:
    """The scheduled function of a convolution and its epilogue."""
    op = region.anchor
    assert op is not None
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
    nest(sch, s, region.machine)
    loops.simple_stage(sch, sch.get_sblock("out0"), region.machine, work=s.macs // s.ins)
    return sch.mod["main"]
