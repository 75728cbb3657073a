# pyright: basic
# TVM ships no types.
"""depth_to_space by words of 32 bits, operand and result in blocks of channels.

    y[n, m, b h + i, b w + j] = x[n, (b i + j) M + m, h, w]

Channels of a phase (i, j) lie together, so that words of four bytes stay whole where M is a
multiple of 4. Where M fills blocks, whole blocks are copied. Else the words of the b^2 pixels that
a pixel becomes are moved one after another: where each comes from is known when the kernel is made.
"""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx

from graphopt.ir.builtin import Const
from graphopt.ir.core import Op
from graphopt.ir.layout import parse_layout, physical_shape
from graphopt.targets.tvm import loops
from graphopt.targets.tvm.kernels.gathered import BITS, UNROLLED
from graphopt.targets.tvm.region import Region, shape_of, static


def fits(region: Region) -> bool:
    """Whether the region is one such op."""
    ops = [op for op in region.graph if op.results and not isinstance(op.kind, Const)]
    return [op.kind.name for op in ops] == ["depth_to_space"] and _by_words(ops[0])


def _by_words(op: Op) -> bool:
    kind: Any = op.kind
    tags = {static(v).layout for v in (op.operand(0), op.result)}
    if kind.mode != "DCR" or len(tags) > 1 or not min(tags).startswith("aB"):
        return False
    per, block = BITS // static(op.result).dtype.bits, parse_layout(min(tags)).block(1)
    outs = shape_of(op.result)[1]
    if not per or outs % per or block % per:
        return False
    return outs % block == 0 or kind.block**2 * outs <= UNROLLED * per


def build(region: Region) -> Any:
    """The scheduled function."""
    (output,) = region.graph.outputs
    (op,) = (op for op in region.graph if op.kind.name == "depth_to_space")
    kind: Any = op.kind
    b, dtype = kind.block, static(output).dtype
    per = BITS // dtype.bits
    block, outs = parse_layout(static(output).layout).block(1), shape_of(output)[1]
    whole, words, block = outs % block == 0, outs // per, block // per
    x = region.words(op.operand(0))
    *outer, inner = physical_shape(shape_of(output), static(output).layout)

    def body(n: Any, cb: Any, h: Any, w: Any, lane: Any) -> Any:
        phase = tirx.floormod(h, b) * b + tirx.floormod(w, b)
        at = (tirx.floordiv(h, b), tirx.floordiv(w, b))
        if whole:
            return x(n, phase * (words // block) + cb, *at, lane)
        mine = phase * words + cb * block + lane
        value = x(n, tirx.floordiv(mine, block), *at, tirx.floormod(mine, block))
        return tirx.if_then_else(cb * block + lane < words, value, tirx.const(0, "int32"))

    sch = loops.schedule(region.primfunc([region.compute((*outer, inner // per), body, "out0")]))
    n, c, h, w, lane = sch.get_loops(sch.get_sblock("out0"))
    (h, i), (w, j) = sch.split(h, [None, b]), sch.split(w, [None, b])
    if whole:
        sch.reorder(n, c, h, i, w, j, lane)
        sch.vectorize(lane)
        tasks = sch.fuse(n, c, h)
    else:
        sch.reorder(n, h, w, i, j, c, lane)
        tasks = sch.fuse(n, h)
        for loop in (i, c, lane):
            sch.unroll(loop)
    sch.unroll(j)
    if loops.parallel_worth(2 * math.prod(outer) * inner // per) and loops.extent(sch, tasks) > 1:
        sch.parallel(tasks)
    return sch.mod["main"]
