# pyright: basic
# TVM ships no types.
"""Kernels that are loops in a given order, written out: scans, sorts and scatters.

TE has no word for them. Arguments are flat buffers of the region's dense operands and results; a
value is still read at its logical index, by `Region.at`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as ir

from graphopt.ir.core import Op, Value
from graphopt.targets.tvm import bfloat, loops, movement
from graphopt.targets.tvm.region import Region, shape_of, static, widenings

Expr = Any
Body = Callable[[list[Any]], None]


def primfunc(region: Region, body: Body) -> Any:
    """The function of a region's arguments and results; `body` gets the results' flat buffers.

    Those of the arguments are `region.tensors`.
    """
    values = [*region.graph.args, *region.graph.outputs]
    with IRBuilder() as builder, ir.prim_func(s_tir=True):
        ir.func_name("kernel")
        buffers = [ir.arg(f"p{i}", _buffer(v)) for i, v in enumerate(values)]
        for value, buffer in zip(region.graph.args, buffers, strict=False):
            region.hold(value, bfloat.readable(buffer, static(value).dtype))
            region.bind(value, _reader(value, region.tensors[value]))
        body(buffers[len(region.graph.args) :])
    return builder.get()


def _buffer(value: Value) -> Any:
    return ir.Buffer((math.prod(shape_of(value)),), bfloat.stored_dtype(static(value).dtype))


def _reader(value: Value, buffer: Any) -> Callable[[Sequence[Expr]], Expr]:
    return lambda index: buffer[movement.flat_index(index, shape_of(value))]


def the_op(region: Region) -> Op:
    """The one op of the region that isn't a constant, and doesn't make float32 of bfloat16."""
    wide = widenings(region.graph)
    ops = (op for op in region.graph if op.kind.name not in ("const", "return"))
    return next(op for op in ops if op.results[0] not in wide)


def outer_loop(size: int, work: int) -> Any:
    """A loop over independent parts, on several threads where `work` scalar operations earn it."""
    return ir.parallel(0, size) if size > 1 and loops.parallel_worth(work) else ir.serial(0, size)


def around(shape: Sequence[int], axis: int) -> tuple[int, int, int]:
    """The elements before, along and after an axis."""
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
