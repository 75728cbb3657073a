# pyright: basic
# TVM ships no types.
"""Attention: softmax(q k^T * scale + mask) v, as two tiled products with the softmax between.

The scores of the whole call are held in memory, [batch, T, S]; a streaming form (arXiv 2205.14135)
would keep them in the cache for long sequences.
"""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx

from graphopt.ir.core import Op
from graphopt.targets.tvm import expr, loops, rows
from graphopt.targets.tvm.kernels import matmul
from graphopt.targets.tvm.region import Region, broadcast, shape_of

Expr = Any


def shapes(op: Op) -> tuple[matmul.Shape, matmul.Shape]:
    """The two products: [T, D] x [D, S] and [T, S] x [S, E], by batch."""
    q, k, v = (shape_of(op.operand(i)) for i in range(3))
    batch = shape_of(op.result)[:-2]
    first = matmul.Shape(batch, q[-2], k[-2], q[-1], False, True, False)
    return first, matmul.Shape(batch, q[-2], v[-1], k[-2], False, False, False)


def compute(region: Region, op: Op) -> tuple[matmul.Knobs, matmul.Knobs]:
    """Bind the op's result to the stages kt, scores, top, e, total, vp, anchor."""
    first, second = shapes(op)
    knobs = matmul.choose(first, region.machine)[0], matmul.choose(second, region.machine)[0]
    q, k, v = (op.operand(i) for i in range(3))
    kind: Any = op.kind

    def query(batch: list[Expr], m: Expr, d: Expr) -> Expr:
        return region.at(q, [*_lead(q, batch, first), m, d])

    def key(batch: list[Expr], d: Expr, n: Expr) -> Expr:
        return region.at(k, [*batch, n, d])

    kt = matmul.panels(region, "kt", first, knobs[0], shape_of(k)[:-2], key)
    scores = matmul.product(region, "scores", first, knobs[0], query, kt)

    def score(at: Any) -> Expr:
        *batch, t, s = at
        lanes = knobs[0].lanes
        found = scores(*batch, t, tirx.floordiv(s, lanes), tirx.floormod(s, lanes))
        found = found * tirx.const(kind.scale, "float32")
        mask = op.operands[3]
        if mask is None:
            return found
        whole = (*first.batch, first.m, first.n)
        return found + region.at(mask, broadcast(list(at), shape_of(mask), whole))

    weights = softmax(region, (*first.batch, first.m, first.n), score)
    vp = matmul.panels(region, "vp", second, knobs[1], shape_of(v)[:-2],
                       lambda batch, s, e: region.at(v, [*batch, s, e]))  # fmt: skip
    y = matmul.product(region, "anchor", second, knobs[1],
                       lambda batch, m, s: weights([*batch, m, s]), vp)  # fmt: skip
    lanes = knobs[1].lanes
    region.bind(op.result, lambda at: y(*at[:-1], tirx.floordiv(at[-1], lanes),
                                        tirx.floormod(at[-1], lanes)))  # fmt: skip
    return knobs


def softmax(region: Region, shape: tuple[int, ...], score: Any) -> Any:
    """A reader of the stage `p`: the softmax of the scores over their last axis."""
    axis = len(shape) - 1
    top = rows.reduce(region, "top", shape, [axis], score, rows.LARGEST, axis)
    e = region.compute(shape, lambda *at: expr.exp(None, score(at) - top(at[:-1])), "e")
    total = rows.reduce(region, "total", shape, [axis], lambda at: e(*at), rows.SUM, axis)
    p = region.compute(shape, lambda *at: e(*at) / total(at[:-1]), "p")
    return lambda at: p(*at)


def _lead(value: Any, batch: list[Expr], s: matmul.Shape) -> list[Expr]:
    own = shape_of(value)[:-2]
    return broadcast(batch, own, s.batch) if own else []


def build(region: Region) -> Any:
    """The scheduled function of an attention and its epilogue."""
    op = region.anchor
    assert op is not None
    knobs = compute(region, op)
    (output,) = region.graph.outputs
    stages = [n for n in region.stages if n not in ("scores", "anchor")]
    stage = region.store(output, "out0")
    sch = loops.schedule(region.primfunc([stage]))
    for name in stages:
        block = sch.get_sblock(name)
        size = 8 * math.prod(loops.extent(sch, loop) for loop in sch.get_loops(block))
        if name in ("kt", "vp", "e", "p"):
            loops.simple_stage(sch, block, region.machine, work=size, vector=name in ("e", "p"))
        else:
            loops.reduction_stage(sch, block, region.machine, work=size)
    for name, s, k in zip(("scores", "anchor"), shapes(op), knobs, strict=True):
        parallel = loops.parallel_worth(s.macs)
        matmul.product_tiles(sch, s, k, region.machine, parallel=parallel, name=name)
    size = 4 * math.prod(shape_of(output))
    loops.simple_stage(sch, sch.get_sblock("out0"), region.machine, work=size)
    return sch.mod["main"]
