# pyright: basic
# TVM ships no types.
"""Layer, RMS, instance and local response normalisation: statistics first, then the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import te, tirx

from graphopt.ir.core import Op
from graphopt.ir.layout import parse_layout
from graphopt.targets.tvm import expr, loops, rows
from graphopt.targets.tvm.region import Region, shape_of, static

Expr = Any
PIXELS = 8  # neighbours whose channels are read together: whole pages pass through each block


def number(value: float) -> Expr:
    """A float32 constant."""
    return tirx.const(value, "float32")


def moments(region: Region, op: Op, axes: Sequence[int], *, centred: bool) -> tuple[Any, Any, int]:
    """Readers, by element, of the mean (0 unless `centred`) and of 1/sqrt(variance + epsilon)."""
    kind: Any = op.kind
    x, shape = op.operand(0), shape_of(op.operand(0))
    inner = len(shape) - 1 if not x.tensor.layout and len(shape) - 1 in axes else None
    count = math.prod(shape[a] for a in axes)

    def kept(at: Any) -> list[Expr]:
        return [i for a, i in enumerate(at) if a not in axes]

    def element(at: Any) -> Expr:
        return region.at(x, at)

    total = rows.reduce(region, "sum", shape, axes, element, rows.SUM, inner) if centred else None

    def mean(at: Any) -> Expr:
        return total(kept(at)) / number(count) if total else number(0.0)

    def squared(at: Any) -> Expr:
        return expr.let(element(at) - mean(at), lambda d: d * d)

    squares = rows.reduce(region, "squares", shape, axes, squared, rows.SUM, inner)

    def scale(at: Any) -> Expr:
        return number(1.0) / tirx.sqrt(squares(kept(at)) / number(count) + number(kind.epsilon))

    return mean, scale, count


def normalise(region: Region, op: Op) -> None:
    """Bind layer_norm, rms_norm or instance_norm."""
    kind: Any = op.kind
    x, shape = op.operand(0), shape_of(op.operand(0))
    instance = op.kind.name == "instance_norm"
    rank = len(shape)
    axes = list(range(2, rank)) if instance else list(range(rank + kind.axis, rank))
    mean, scale, _ = moments(region, op, axes, centred=op.kind.name != "rms_norm")
    gain, shift = op.operand(1), op.operands[2] if len(op.operands) > 2 else None

    def at_parameter(value: Any, at: Any) -> Expr:
        size = shape_of(value)
        if instance:
            return region.at(value, [at[1]])
        tail = list(at)[len(at) - len(size) :]
        return region.at(value, [tirx.const(0, "int32") if d == 1 else i
                                 for i, d in zip(tail, size, strict=True)])  # fmt: skip

    def read(at: Any) -> Expr:
        y = (region.at(x, at) - mean(at)) * scale(at) * at_parameter(gain, at)
        return y if shift is None else y + at_parameter(shift, at)

    region.bind(op.result, read)


def respond(region: Region, op: Op) -> None:
    """Bind lrn: x / (bias + alpha/size * sum of squares of near channels)^beta."""
    kind: Any = op.kind
    x, shape = op.operand(0), shape_of(op.operand(0))
    before = (kind.size - 1) // 2
    r = region.reduce_axis(kind.size, "near")

    def body(*at: Any) -> Any:
        c = at[1] + r.var - before
        inside = expr.let(region.at(x, [at[0], c, *at[2:]]), lambda v: v * v)
        there = tirx.all(c >= 0, c < shape[1])
        return te.sum(tirx.if_then_else(there, inside, number(0.0)), axis=[r])

    squares = region.compute(shape, body, "squares")
    region.bind(op.result, lambda at: damped(kind, region.at(x, at), squares(*at)))


def damped(kind: Any, x: Expr, squares: Expr) -> Expr:
    """x / (bias + alpha/size * squares)^beta; roots for the usual beta of 3/4."""
    base = number(kind.bias) + number(kind.alpha / kind.size) * squares
    if kind.beta == 0.75:
        return x / expr.let(tirx.sqrt(base), lambda root: root * tirx.sqrt(root))
    return x * expr.exp(None, number(-kind.beta) * expr.log(None, base))


def respond_in_blocks(region: Region, op: Op) -> None:
    """Bind lrn of a blocked operand.

    The squares of a pixel's channels are laid side by side, with a block of zeros on either side,
    so that the near channels of a block are vectors at neighbouring places.
    """
    kind: Any = op.kind
    x, shape = op.operand(0), shape_of(op.operand(0))
    ((_, block),) = parse_layout(static(x).layout).blocks
    before, stored = (kind.size - 1) // 2, -(-shape[1] // block)
    margin = -(-(kind.size - 1 - before) // block)

    def body(*at: Any) -> Any:
        n, *space, blocks, lane = at
        inside = region.tensors[x](n, blocks - margin, *space, lane)
        there = tirx.all(blocks >= margin, blocks < margin + stored)
        return tirx.if_then_else(there, inside * inside, number(0.0))

    full = (shape[0], *shape[2:], stored + 2 * margin, block)
    side = region.compute(full, body, "side")

    def read(at: Any) -> Expr:
        n, c, *space = at
        places = [c + (margin * block + r - before) for r in range(kind.size)]
        near = [side(n, *space, p // block, p % block) for p in places]
        return damped(kind, region.at(x, at), sum(near[1:], near[0]))

    region.bind(op.result, read)


def apply_in_blocks(region: Region, work: int) -> Any:
    """Schedule a blocked lrn: some neighbouring pixels at a time, all channels of them."""
    (output,) = region.graph.outputs
    sch = loops.schedule(region.primfunc([region.store(output, "out0")]))
    n, blocks, *space, lanes = sch.get_loops(sch.get_sblock("out0"))
    column = space.pop()
    wide = min(PIXELS, loops.extent(sch, column))
    outer, inner = sch.split(column, [None, wide])
    sch.reorder(n, *space, outer, blocks, inner, lanes)
    side = sch.get_sblock("side")
    sch.compute_at(side, outer, preserve_unit_loops=True)
    *_, pixel, whole, part = sch.get_loops(side)
    sch.reorder(whole, pixel, part)
    sch.vectorize(part)
    sch.vectorize(lanes)
    rows = sch.fuse(n, *space) if space else n
    if loops.parallel_worth(work) and loops.extent(sch, rows) > 1:
        sch.parallel(rows)
    return sch.mod["main"]


def apply(region: Region, work: int, plain: Sequence[str] = ()) -> Any:
    """Schedule every stage by itself in order; `plain` names those that aren't reductions."""
    (output,) = region.graph.outputs
    stage = region.store(output, "out0")
    sch = loops.schedule(region.primfunc([stage]))
    for name in region.stages[:-1]:
        block = sch.get_sblock(name)
        if name in plain:
            loops.simple_stage(sch, block, region.machine, work=work)
        else:
            loops.reduction_stage(sch, block, region.machine, work=work)
    loops.simple_stage(sch, sch.get_sblock("out0"), region.machine, work=work)
    return sch.mod["main"]


def build(region: Region) -> Any:
    """The scheduled function of a normalisation and its epilogue."""
    op = region.anchor
    assert op is not None
    work = 8 * math.prod(shape_of(op.result))
    if op.kind.name == "lrn" and static(op.operand(0)).layout:
        respond_in_blocks(region, op)
        return apply_in_blocks(region, 2 * work)
    (respond if op.kind.name == "lrn" else normalise)(region, op)
    return apply(region, work)
