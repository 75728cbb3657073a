# pyright: basic
# TVM ships no types.
"""Scattering: a copy of x, then the updates one after the other, so that the last one stays."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as ir

from graphopt.ir.core import Op
from graphopt.targets.tvm import expr, movement, serial
from graphopt.targets.tvm.indexed import i32, wrapped
from graphopt.targets.tvm.region import Region, shape_of


def _unless(kept: Any, old: Any, new: Any) -> Any:
    """The old value where `kept` says so; NaN once either is."""
    kept = tirx.all(kept, tirx.Not(expr.is_nan(new))) if expr.is_float(new) else kept
    kept = tirx.any(kept, expr.is_nan(old)) if expr.is_float(old) else kept
    return tirx.Select(kept, old, new)


COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "set": lambda old, new: new,
    "add": lambda old, new: old + new,
    "mul": lambda old, new: old * new,
    "min": lambda old, new: _unless(old <= new, old, new),
    "max": lambda old, new: _unless(old >= new, old, new),
}


def build(region: Region) -> Any:
    """The function of one scatter_elements or scatter_nd."""
    op = serial.the_op(region)
    kind: Any = op.kind
    shape = shape_of(op.operand(0))
    target = _element if kind.name == "scatter_elements" else _slice

    def body(results: list[Any]) -> None:
        (y,) = results
        with serial.outer_loop(math.prod(shape), math.prod(shape)) as i:
            ir.buffer_store(y, region.at(op.operand(0), movement.unflat(i, shape)), [i])
        updates, inner = shape_of(op.operand(2)), width(op)
        rows = math.prod(updates) // inner
        with ir.serial(0, rows) as row, ir.serial(0, inner) as i:
            where = movement.unflat(row * inner + i, updates)
            at = movement.flat_index(target(region, op, where), shape)
            new = region.at(op.operand(2), where)
            ir.buffer_store(y, COMBINE[kind.reduction](y[at], new), [at])

    return serial.primfunc(region, body)


def width(op: Op) -> int:
    """How many neighbouring updates go to neighbouring places; at least 1."""
    if op.kind.name == "scatter_elements":
        return 1
    rank = len(shape_of(op.operand(1))) - 1
    return math.prod(shape_of(op.operand(2))[rank:])


def _element(region: Region, op: Op, where: list[Any]) -> list[Any]:
    """Where update `where` of scatter_elements goes: one index is replaced."""
    kind: Any = op.kind
    axis = kind.axis % len(where)
    size = shape_of(op.operand(0))[axis]
    at = wrapped(region.at(op.operand(1), where), size)
    return [*where[:axis], at, *where[axis + 1 :]]


def _slice(region: Region, op: Op, where: list[Any]) -> list[Any]:
    """Where update `where` of scatter_nd goes: the indices name the first axes."""
    *outer, depth = shape_of(op.operand(1))
    shape = shape_of(op.operand(0))
    first = [wrapped(region.at(op.operand(1), [*where[: len(outer)], i32(d)]), shape[d])
             for d in range(depth)]  # fmt: skip
    return [*first, *where[len(outer) :]]
