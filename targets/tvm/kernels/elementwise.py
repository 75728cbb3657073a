# pyright: basic
# TVM ships no types.
"""Chains of elementwise and movement ops: each result is one loop nest over its own elements."""

from __future__ import annotations

import math
from typing import Any

from graphopt.ir.builtin import Const
from graphopt.ir.core import Op
from graphopt.ir.layout import parse_layout
from graphopt.ir.types import DType
from graphopt.targets.tvm.kernels import gathered, spread
from graphopt.targets.tvm.legal import is_movement
from graphopt.targets.tvm.loops import extent, parallel_worth, schedule, simple_stage
from graphopt.targets.tvm.region import Region, shape_of, static

MIXING = {"reshape", "gather", "depth_to_space", "space_to_depth"}  # of channels with other axes
PART = 256  # pixels of a block of channels: 16 KiB


def build(region: Region) -> Any:
    """The scheduled function of a region without an anchor."""
    for kernel in (gathered, spread):
        if kernel.fits(region):
            return kernel.build(region)
    outputs = region.outputs()
    sch = schedule(region.primfunc(outputs))
    ops = [op for op in region.graph if not isinstance(op.kind, Const)]
    moves = any(is_movement(op) and not in_lanes(op) for op in ops)
    mixes = any(op.kind.name in MIXING for op in ops) or (moves and widens(region))
    for i, value in enumerate(region.graph.outputs):
        work = 2 * len(ops) * math.prod(shape_of(value))
        block = sch.get_sblock(f"out{i}")
        if mixes and static(value).layout.startswith("aB") and len(shape_of(value)) > 2:
            channel_by_channel(sch, block, work)
        else:
            simple_stage(sch, block, region.machine, work=work, vector=not moves)
    return sch.mod["main"]


def widens(region: Region) -> bool:
    """Whether elements are moved and made float32 of bfloat16 at once.

    LLVM 22 miscompiles such loops over the lanes of a block where a concatenation's parts don't
    fill blocks and images have 2^k pixels: it reads lanes of the pixel before.
    """
    return any(static(arg).dtype is DType.bf16 for arg in region.graph.args)


def in_lanes(op: Op) -> bool:
    """Whether an op moves whole vectors: its operands and results are in blocks of channels alike.

    So resizes do, and what moves pixels or whole blocks.
    """
    values = [v for v in (*op.operands, *op.results) if v]
    tags = {static(v).layout for v in values}
    if len(tags) > 1 or not min(tags).startswith("aB"):
        return False
    kind: Any = op.kind
    rank, block = len(shape_of(values[0])), parse_layout(min(tags)).block(1)
    match op.kind.name:
        case "resize":
            return True
        case "concat" | "split":
            parts = op.operands if op.kind.name == "concat" else op.results
            whole = all(shape_of(v)[1] % block == 0 for v in parts[:-1] if v)
            return whole or kind.axis % rank != 1
        case "slice":
            return all(a % rank != 1 for a in kind.axes)
        case "pad":
            return kind.pads[1] == kind.pads[rank + 1] == 0
        case _:
            return False


def channel_by_channel(sch: Any, block: Any, work: int) -> None:
    """Run a blocked result that is moved together with the channels outside of a part of the image.

    Where a channel comes from is then worked out once for the part, which stays in the first cache
    while the channels of its block are filled in.
    """
    n, c, *space, lane = sch.get_loops(block)
    inside: list[Any] = []
    while space and math.prod(extent(sch, loop) for loop in [space[-1], *inside]) <= PART:
        inside.insert(0, space.pop())
    if not inside:
        inside.insert(0, space.pop())
    sch.reorder(n, c, *space, lane, *inside)
    tasks = sch.fuse(n, c, *space)
    if parallel_worth(work) and extent(sch, tasks) > 1:
        sch.parallel(tasks)
