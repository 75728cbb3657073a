# pyright: basic
# TVM ships no types.
"""Products of u8 by s8 matrices, summed in int32: those of `matmul`, by words of four bytes.

    y[batch, m, n] = sum over k of dot(a[batch, m, k], b[n/lanes, k, n%lanes])

A constant b of rank 2 comes packed in words (tag BA16b4a); any other operands go through a plain
reduction.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from tvm import te, tirx

from graphopt.ir.core import Op
from graphopt.ir.types import DType
from graphopt.targets.tvm import loops
from graphopt.targets.tvm.intrinsics import call
from graphopt.targets.tvm.kernels import matmul, tiled
from graphopt.targets.tvm.kernels.integer import contract
from graphopt.targets.tvm.region import Region, broadcast, shape_of, static


def build(region: Region) -> Any:
    """The scheduled function of an integer product and its epilogue."""
    op = region.anchor
    assert op is not None
    s = matmul.shape(op)
    by_tiles = tiled.product_plan(op, region.machine)
    if by_tiles:
        return tiled.build(region, op, by_tiles, tiled.Product, s.macs)
    if static(op.operand(1)).layout and static(op.operand(0)).dtype is DType.u8:
        return packed(region, op, s)
    return plain(region, op, s)


def packed(region: Region, op: Op, s: matmul.Shape) -> Any:
    """By words of four."""
    words = dataclasses.replace(s, k=-(-s.k // 4))
    k = region.pick(matmul.choose(words, region.machine))
    a, b = left(region, op, words, s.k), region.words(op.operand(1))
    panels, last = matmul.padded_panels(words, k), -(-s.n // k.lanes) - 1
    rows = -(-s.m // k.rows) * k.rows
    kk = region.reduce_axis(words.k, "anchor_k")

    def body(*at: Any) -> Any:
        *batch, m, panel, lane = at
        row = m if rows == s.m else tirx.min(m, s.m - 1)
        weight = b(panel if panels == last + 1 else tirx.min(panel, last), kk.var, lane, 0)
        return te.sum(call("dot", tirx.const(0, "int32"), a(batch, row, kk.var), weight), axis=[kk])

    y = region.compute((*s.batch, rows, panels, k.lanes), body, "anchor")
    region.bind(op.result, lambda index: matmul.finish(region, op, words, k, y, index))
    return contract(matmul.apply(region, words, k))


def left(region: Region, op: Op, s: matmul.Shape, depth: int) -> Any:
    """A reader a(batch, m, k) of words."""
    value = op.operand(0)
    rows = dataclasses.replace(s, trans_a=False)
    if depth % 4 == 0 and not static(value).layout:
        tensor, own = region.words(value), shape_of(value)
        return lambda batch, m, k: tensor(*matmul.position(region, own, rows, batch, m), k)
    bytes_of = matmul.left(region, op, rows)

    def word(*at: Any) -> Any:
        *batch, m, k = at
        total: Any = tirx.const(0, "int32")
        for i in range(4):
            byte = tirx.Cast("int32", bytes_of(batch, m, tirx.min(4 * k + i, depth - 1)))
            total = tirx.bitwise_or(total, tirx.shift_left(byte, tirx.const(8 * i, "int32")))
        return total

    tensor = region.compute((*s.batch, s.m, s.k), word, "pack")
    return lambda batch, m, k: tensor(*batch, m, k)


def plain(region: Region, op: Op, s: matmul.Shape) -> Any:
    """One result element at a time, for any operands."""
    a, b = op.operand(0), op.operand(1)
    left_shape, right_shape, result = shape_of(a), shape_of(b), shape_of(op.result)
    kk = region.reduce_axis(s.k, "k")

    def body(*at: Any) -> Any:
        index = list(at)
        column = index.pop() if len(right_shape) > 1 else None
        row = index.pop() if len(left_shape) > 1 else None
        batch = result[: len(index)]
        at_a = [*broadcast(index, left_shape[:-2], batch), *([] if row is None else [row]), kk.var]
        at_b = [*broadcast(index, right_shape[:-2], batch), kk.var,
                *([] if column is None else [column])]  # fmt: skip
        x, y = (tirx.Cast("int32", region.at(v, i)) for v, i in ((a, at_a), (b, at_b)))
        return te.sum(x * y, axis=[kk])

    y = region.compute(result or (1,), body, "anchor")
    region.bind(op.result, lambda index: y(*index) if result else y(0))
    (output,) = region.graph.outputs
    sch = loops.schedule(region.primfunc([region.store(output, "out0")]))
    loops.reduction_stage(sch, sch.get_sblock("anchor"), region.machine, work=s.macs)
    loops.simple_stage(sch, sch.get_sblock("out0"), region.machine, work=s.macs // s.k)
    return sch.mod["main"]
