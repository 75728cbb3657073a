# pyright: basic
# TVM ships no types.
"""Products of u8 by s8 matrices, summed in int32: those of `matmul`, by words of four bytes.

    y[batch, m, n] = sum over k of dot(a[batch, m, k], b[n/lanes, k, n%lanes])

A constant b of rank 2 comes packed in words (tag BA16b4a); any other operands go through a plain
reduction.
"""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from graphopt.ir.core import Op
from graphopt.ir.types import DType
from graphopt.targets.tvm import eights, loops, shorts
from graphopt.targets.tvm.kernels import eights as by_eights
from graphopt.targets.tvm.kernels import matmul, tiled, tiled_product, words
from graphopt.targets.tvm.kernels import shorts as by_shorts
from graphopt.targets.tvm.region import Region, broadcast, shape_of, static


def build(region: Region) -> Any:
    """The scheduled function of an integer product and its epilogue."""
    op = region.anchor
    assert op is not None
    s = matmul.shape(op)
    by_tiles = tiled_product.integers(op, region.machine)
    if by_tiles:
        return tiled.build(region, op, by_tiles, tiled_product.Product, s.macs)
    stored = static(op.operand(1)).layout
    if stored and stored == eights.layout(op, region.machine):
        return by_eights.build(region, op)
    if stored and stored == shorts.weights(op, region.machine):
        return by_shorts.product(region, op)
    dots = DType.i8 if region.machine.signed else DType.u8
    if static(op.operand(1)).layout and static(op.operand(0)).dtype is dots:
        return words.product(region, op, s, words.BYTES)
    return plain(region, op, s)


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
