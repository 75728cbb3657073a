# pyright: basic
# TVM ships no types.
"""Chains of elementwise and movement ops: each result is one loop nest over its own elements."""

from __future__ import annotations

import math
from typing import Any

from graphopt.ir.builtin import Const
from graphopt.targets.tvm.legal import is_movement
from graphopt.targets.tvm.loops import schedule, simple_stage
from graphopt.targets.tvm.region import Region, shape_of


def build(region: Region) -> Any:
    """The scheduled function of a region without an anchor."""
    outputs = region.outputs()
    sch = schedule(region.primfunc(outputs))
    ops = [op for op in region.graph if not isinstance(op.kind, Const)]
    moves = any(is_movement(op) for op in ops)
    for i, value in enumerate(region.graph.outputs):
        work = 2 * len(ops) * math.prod(shape_of(value))
        simple_stage(sch, sch.get_sblock(f"out{i}"), region.machine, work=work, vector=not moves)
    return sch.mod["main"]
