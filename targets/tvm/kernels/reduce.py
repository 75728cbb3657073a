# pyright: basic
# TVM ships no types.
"""Reductions over any axes, and arg max / arg min.

Over stored-innermost axes partial results fill the lanes (`rows.reduce`); otherwise the innermost
kept axis does. The reduction is a stage of its own, out0 finishes it with its epilogue: results are
few next to what is reduced.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import te, tirx

from graphopt.ir.core import Op
from graphopt.ir.layout import parse_layout
from graphopt.targets.tvm import expr, loops, rows
from graphopt.targets.tvm.region import Region, shape_of, static

Expr = Any


def plain(x: Expr) -> Expr:
    """The element itself."""
    return x


def square(x: Expr) -> Expr:
    """Its square."""
    return x * x if isinstance(x, tirx.Var) else expr.let(x, lambda v: v * v)


RULES: dict[str, tuple[rows.Combiner, Callable[[Expr], Expr]]] = {
    "reduce_sum": (rows.SUM, plain),
    "reduce_mean": (rows.SUM, plain),
    "reduce_max": (rows.LARGEST, plain),
    "reduce_min": (rows.SMALLEST, plain),
    "reduce_prod": (rows.PRODUCT, plain),
    "reduce_l1": (rows.SUM, lambda x: tirx.abs(x)),
    "reduce_l2": (rows.SUM, square),
    "reduce_sum_square": (rows.SUM, square),
}


def compute(region: Region, op: Op) -> int:
    """Bind the op's result; give the scalar operations it takes."""
    if op.kind.name.startswith("arg_"):
        return index_of_extreme(region, op)
    kind: Any = op.kind
    x = op.operand(0)
    shape = shape_of(x)
    axes = sorted(a % len(shape) for a in kind.axes)
    kept = rows.keep_all(shape, axes, kind.keepdims)

    def element(at: list[Expr]) -> Expr:
        return region.at(x, at)

    if op.kind.name == "reduce_log_sum_exp":
        read = log_sum_exp(region, shape, axes, element, inner(op, axes))
    else:
        combiner, of = RULES[op.kind.name]
        read = rows.reduce(region, "anchor", shape, axes, lambda at: of(element(at)), combiner,
                           inner(op, axes))  # fmt: skip
    count = math.prod(shape[a] for a in axes)
    region.bind(op.result, lambda index: finish(op.kind.name, read(kept(index)), count))
    return 2 * math.prod(shape)


def inner(op: Op, axes: list[int]) -> int | None:
    """The reduced axis that is stored innermost, if there is one."""
    shape, tag = shape_of(op.operand(0)), static(op.operand(0)).layout
    if tag:
        return None if parse_layout(tag).blocks else parse_layout(tag).order[-1]
    last = max((a for a, d in enumerate(shape) if d > 1), default=-1)
    return last if last in axes else None


def finish(name: str, total: Expr, count: int) -> Expr:
    """What is done to the sum at the end."""
    if name == "reduce_mean":
        return total / expr.like(total, count)
    return tirx.sqrt(total) if name == "reduce_l2" else total


def log_sum_exp(
    region: Region, shape: tuple[int, ...], axes: list[int], element: rows.Element, last: int | None
) -> Callable[[Any], Expr]:
    """ln(sum(e^(x - top))) + top, where top is the maximum, or 0 if that isn't finite."""
    top = rows.reduce(region, "top", shape, axes, element, rows.LARGEST, last)

    def finite(out: Any) -> Expr:
        value = top(out)
        bad = tirx.any(expr.is_nan(value), tirx.abs(value) > tirx.const(3.4028234e38, "float32"))
        return tirx.Select(bad, tirx.const(0.0, "float32"), value)

    def shifted(at: list[Expr]) -> Expr:
        out = [i for a, i in enumerate(at) if a not in axes]
        return expr.exp(None, element(at) - finite(out))

    total = rows.reduce(region, "anchor", shape, axes, shifted, rows.SUM, last)
    return lambda out: expr.log(None, total(out)) + finite(out)


def index_of_extreme(region: Region, op: Op) -> int:
    """Bind arg_max or arg_min: a reduction of (index, element) pairs; NaN wins, as in numpy."""
    kind: Any = op.kind
    x = op.operand(0)
    shape = shape_of(x)
    axis = kind.axis % len(shape)
    kept = [d for a, d in enumerate(shape) if a != axis]
    largest, last = op.kind.name == "arg_max", kind.select_last

    def pair(a: Any, b: Any) -> Any:
        better = b[1] > a[1] if largest else b[1] < a[1]
        equal = b[1] == a[1]
        nearer = b[0] > a[0] if last else b[0] < a[0]
        if expr.is_float(a[1]):
            better = tirx.any(better, tirx.all(expr.is_nan(b[1]), tirx.Not(expr.is_nan(a[1]))))
            better = tirx.all(better, tirx.Not(expr.is_nan(a[1])))
            equal = tirx.any(equal, tirx.all(expr.is_nan(b[1]), expr.is_nan(a[1])))
        taken = tirx.any(better, tirx.all(equal, tirx.any(nearer, a[0] < 0)), a[0] < 0)
        return tirx.Select(taken, b[0], a[0]), tirx.Select(taken, b[1], a[1])

    def start(t0: str, t1: str) -> Any:
        return tirx.const(-1, t0), tirx.const(0, t1)

    reducer = te.comm_reducer(pair, start, name="extreme")
    r = region.reduce_axis(shape[axis], "r")

    def body(*at: Any) -> Any:
        index = list(at)[: len(kept)]
        index.insert(axis, r.var)
        value = region.at(x, index)
        return reducer((tirx.Cast("int64", r.var), value), axis=[r])

    found = region.compute(kept or [1], body, "anchor")[0]
    drop = rows.keep_all(shape, [axis], kind.keepdims)
    zero = [tirx.const(0, "int32")]
    region.bind(op.result, lambda index: found(*(drop(index) or zero)))
    return 4 * math.prod(shape)


def apply(region: Region, work: int, *, vector: bool) -> Any:
    """Schedule every reduction stage by itself, then out0."""
    (output,) = region.graph.outputs
    stage = region.store(output, "out0")
    sch = loops.schedule(region.primfunc([stage]))
    for name in region.stages[:-1]:
        loops.reduction_stage(sch, sch.get_sblock(name), region.machine, work=work, vector=vector)
    size = 4 * math.prod(shape_of(output))
    loops.simple_stage(sch, sch.get_sblock("out0"), region.machine, work=size)
    return sch.mod["main"]


def build(region: Region) -> Any:
    """The scheduled function of a reduction and its epilogue."""
    op = region.anchor
    assert op is not None
    work = compute(region, op)
    return apply(region, work, vector=not op.kind.name.startswith("arg_"))
