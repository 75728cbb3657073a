# pyright: basic
# TVM ships no types.
"""Fetching weights ahead of their use.

A product whose weights don't stay in the cache makes several passes over a group of them, one for
each part of its result, then turns to the next group. That lies cold in memory, where the processor
looks only once the first pass asks for it. So the passes over a group fetch the next group into the
second cache, some cache lines at each step.

On AArch64 the fetches run on past a group, and past the last: an address without limits is one
addition a step, one with them is nine instructions, and a fetch never faults.

A schedule says where with `mark`; `insert` then adds the instructions, which schedules can't.
"""

from __future__ import annotations

import math
from typing import Any

import tvm
from tvm import tirx

from graphopt.targets.machine import Machine
from graphopt.targets.tvm import marks
from graphopt.targets.tvm.marks import Loops

PASSES, STEP = "graphopt_passes", "graphopt_step"
PASSES_WORTH = 4  # over a group: with fewer, fetching would be as much work as computing
LINE = 64  # bytes
READ, SECOND_CACHE, DATA = 0, 2, 1  # operands of llvm.prefetch


def mark(sch: Any, outer: Any, passes: int, step: Any) -> None:
    """Say that `passes` turns of the loop `outer` use one group, and that `step` is a step."""
    sch.annotate(outer, PASSES, passes)
    sch.annotate(step, STEP, 1)


def insert(func: Any, weights: int, blocks: int, machine: Machine) -> Any:
    """The function with its marks turned into instructions.

    Args:
        func: scheduled, with marks.
        weights: which parameter holds the weights, [block, ...].
        blocks: of a group.
        machine: compiled for.
    """
    tensor = func.params[weights]
    lines = blocks * _lines(tensor.shape[1:], tensor)
    limited = machine.arch != "aarch64"

    def change(loop: Any, around: Loops) -> Any:
        body = loop.body
        if STEP in loop.annotations:
            body = tirx.SeqStmt([*_fetches((*around, loop), tensor, lines, limited), body])
        return marks.loop(loop, body, without=(PASSES, STEP))

    return marks.rewritten(func, change)


def _lines(shape: Any, tensor: Any) -> int:
    """Cache lines of a shape of a tensor's elements."""
    return math.prod(int(d) for d in shape) // _elements(tensor)


def _elements(tensor: Any) -> int:
    """Elements of a tensor in a cache line."""
    return LINE * 8 // tvm.DataType(tensor.dtype).bits


def _fetches(around: Loops, weights: Any, lines: int, limited: bool) -> list[Any]:
    """The instructions of one step: its share of the lines of the next group."""
    marked = next(i for i, loop in enumerate(around) if PASSES in loop.annotations)
    first, within = around[marked], around[marked + 1 :]
    passes = int(first.annotations[PASSES])
    group = tirx.floordiv(first.loop_var, passes)
    step, steps = tirx.floormod(first.loop_var, passes), passes
    for loop in within:
        step, steps = step * loop.extent + loop.loop_var, steps * int(loop.extent)
    share = -(-lines // steps)
    begin: Any = (group + 1) * lines
    if limited:
        begin = begin + tirx.min(step * share, lines - share)
        begin = tirx.min(begin, _lines(weights.shape, weights) - share)
    else:
        begin = begin + step * share
    return [tirx.Evaluate(fetch(weights, begin + i)) for i in range(share)]


def lines_of(tensor: Any) -> int:
    """The cache lines of a tensor."""
    return _lines(tensor.shape, tensor)


def fetch(weights: Any, line: Any) -> Any:
    """The instruction that brings a cache line of the weights into the second cache."""
    zeros = [tirx.const(0, "int32")] * (len(weights.shape) - 1)
    address = tirx.address_of(tirx.BufferLoad(weights, [*zeros, line * _elements(weights)]))
    number = tvm.target.codegen.llvm_lookup_intrinsic_id("llvm.prefetch")
    given = [tirx.const(number, "uint32"), address]
    given += [tirx.const(option, "int32") for option in (READ, SECOND_CACHE, DATA)]
    return tirx.call_intrin("void", "tirx.call_llvm_intrin", *given)
