# pyright: basic
# TVM ships no types.
"""Running sums and products along an axis, in the order of the elements, as numpy adds them."""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as ir

from graphopt.targets.tvm import expr, movement, serial
from graphopt.targets.tvm.region import Region, shape_of


def build(region: Region) -> Any:
    """The function of one cum_sum or cum_prod."""
    op = serial.the_op(region)
    kind: Any = op.kind
    shape = shape_of(op.operand(0))
    before, size, after = serial.around(shape, kind.axis % len(shape))

    def body(results: list[Any]) -> None:
        (y,) = results

        def place(o: Any, k: Any, j: Any) -> Any:
            step = size - 1 - k if kind.reverse else k
            return (o * size + step) * after + j

        def x(at: Any) -> Any:
            return region.at(op.operand(0), movement.unflat(at, shape))

        with serial.outer_loop(before, before * size * after) as o:
            with ir.serial(0, after) as j:
                at = place(o, 0, j)
                ir.buffer_store(y, expr.like(x(at), kind.start) if kind.exclusive else x(at), [at])
            with ir.serial(0, size - 1) as k, ir.serial(0, after) as j:
                last, at = place(o, k, j), place(o, k + 1, j)
                new = x(last if kind.exclusive else at)
                total = y[last] + new if kind.name == "cum_sum" else y[last] * new
                ir.buffer_store(y, total, [at])

    return serial.primfunc(region, body)
