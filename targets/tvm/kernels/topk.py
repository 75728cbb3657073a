# pyright: basic
# TVM ships no types.
"""The k largest or smallest along an axis: the best so far stay sorted in the result.

A new element passes over the worse ones from the end (insertion sort). Most elements only meet the
k-th, so n random elements take n + O(k^2 log(n/k)) steps; sorted the wrong way, n k.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as ir

from graphopt.targets.tvm import expr, movement, serial
from graphopt.targets.tvm.region import Region, shape_of


def better(a: Any, b: Any, largest: bool) -> Any:
    """Whether a comes strictly before b; NaN is larger than all, as numpy sorts."""
    first = a > b if largest else a < b
    if not expr.is_float(a):
        return first
    high, low = (a, b) if largest else (b, a)
    return tirx.any(first, tirx.all(expr.is_nan(high), tirx.Not(expr.is_nan(low))))


def build(region: Region) -> Any:
    """The function of one top_k, with its two results."""
    op = serial.the_op(region)
    kind: Any = op.kind
    shape, keep = shape_of(op.operand(0)), kind.k
    before, size, after = serial.around(shape, kind.axis % len(shape))

    def body(results: list[Any]) -> None:
        values, indices = results

        def insert(o: Any, i: Any, j: Any, free: Any) -> None:
            """Put element i where it belongs; `free` is the place after the last better one."""
            x = region.at(op.operand(0), movement.unflat((o * size + i) * after + j, shape))

            def at(k: Any) -> Any:
                return (o * keep + k) * after + j

            with (
                ir.If(tirx.any(i < keep, better(x, values[at(keep - 1)], kind.largest))),
                ir.Then(),
            ):
                ir.buffer_store(free, tirx.min(i, keep - 1), [0])
                above = at(tirx.max(free[0] - 1, 0))
                worse = tirx.if_then_else(
                    free[0] > 0, better(x, values[above], kind.largest), tirx.const(False, "bool")
                )
                with ir.While(worse):
                    ir.buffer_store(values, values[above], [at(free[0])])
                    ir.buffer_store(indices, indices[above], [at(free[0])])
                    ir.buffer_store(free, free[0] - 1, [0])
                ir.buffer_store(values, x, [at(free[0])])
                ir.buffer_store(indices, tirx.Cast("int64", i), [at(free[0])])

        with serial.outer_loop(before * after, 2 * before * size * after) as row:
            free = ir.alloc_buffer((1,), "int32", scope="local")
            with ir.serial(0, size) as i:
                insert(tirx.floordiv(row, after), i, tirx.floormod(row, after), free)

    return serial.primfunc(region, body)
