# pyright: basic
# TVM ships no types.
"""Operands concatenated along channels, by words of 32 bits.

Where all fill blocks, the words of a block's pixels lie beside each other and are copied as such.
Else the words of all blocks of a pixel are moved one after another: where each comes from is then
known when the kernel is made, and a move is a load and a store.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import tirx

from graphopt.ir.builtin import Const
from graphopt.ir.core import Value
from graphopt.ir.layout import parse_layout, physical_shape
from graphopt.targets.tvm import loops
from graphopt.targets.tvm.region import Region, shape_of, static

BITS = 32
UNROLLED = 128  # words of a pixel


def fits(region: Region) -> bool:
    """Whether the region is one such concatenation."""
    ops = [op for op in region.graph if op.results and not isinstance(op.kind, Const)]
    if [op.kind.name for op in ops] != ["concat"]:
        return False
    kind: Any = ops[0].kind
    *parts, result = values = [*(v for v in ops[0].operands if v), ops[0].result]
    rank, tags = len(shape_of(result)), {static(v).layout for v in values}
    if rank < 3 or kind.axis % rank != 1 or len(tags) > 1 or not min(tags).startswith("aB"):
        return False
    per = BITS // static(result).dtype.bits
    channels, block = [shape_of(v)[1] for v in values], parse_layout(min(tags)).block(1)
    words = per and all(c % per == 0 for c in [*channels, block])
    few = channels[-1] <= per * UNROLLED or not _ragged(values, block)
    return bool(words) and few and len(set(parts)) == len(parts)


def _ragged(values: Sequence[Value], block: int) -> bool:
    """Whether a part but the last ends within a block; the result is the last of the values."""
    return any(shape_of(v)[1] % block for v in values[:-2])


def build(region: Region) -> Any:
    """The scheduled function of the concatenation."""
    (output,) = region.graph.outputs
    (op,) = (op for op in region.graph if op.kind.name == "concat")
    per = BITS // static(output).dtype.bits
    block = parse_layout(static(output).layout).block(1) // per
    parts = [(region.words(v), shape_of(v)[1] // per) for v in op.operands if v]
    *outer, inner = physical_shape(shape_of(output), static(output).layout)

    def body(*at: Any) -> Any:
        n, cb, *space, lane = at
        word, found, begin = cb * block + lane, tirx.const(0, "int32"), 0
        for tensor, size in parts:
            mine = word - begin
            value = tensor(n, tirx.floordiv(mine, block), *space, tirx.floormod(mine, block))
            inside = tirx.all(word >= begin, word < begin + size)
            found, begin = tirx.if_then_else(inside, value, found), begin + size
        return found

    stage = region.compute((*outer, inner // per), body, "out0")
    sch = loops.schedule(region.primfunc([stage]))
    n, c, *space, lane = sch.get_loops(sch.get_sblock("out0"))
    if _ragged([*(v for v in op.operands if v), output], per * block):
        sch.reorder(n, *space, c, lane)
        for loop in (c, lane):
            sch.unroll(loop)
        tasks = sch.fuse(n, *space[:-1])
    else:
        tasks = sch.fuse(n, c)
        sch.fuse(*space, lane)
    if loops.parallel_worth(2 * math.prod(outer) * inner // per) and loops.extent(sch, tasks) > 1:
        sch.parallel(tasks)
    return sch.mod["main"]
