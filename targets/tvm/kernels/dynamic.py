# pyright: basic
# TVM ships no types.
"""Quantization by the range of the operand: its least and largest element, then each as an integer.

Elements are visited as they are stored, in one row: what pads a layout is zero, and the range holds
zero anyway.
"""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx

from graphopt.ops.quant import Quantize
from graphopt.targets.tvm import expr, formulas, loops, movement, rows
from graphopt.targets.tvm.region import ZERO, Region

Expr = Any


def build(region: Region) -> Any:
    """The scheduled function of one dynamic_quantize, with its three results."""
    op = region.anchor
    assert op is not None
    x = op.operand(0)
    compute(region, region.tensors[x])
    sch = loops.schedule(region.primfunc(region.outputs()))
    work = 4 * math.prod(int(d) for d in region.tensors[x].shape)
    for name in region.stages:
        block = sch.get_sblock(name)
        if name.startswith(("low", "high")):
            loops.reduction_stage(sch, block, region.machine, work=work)
        elif name == "out0":
            loops.simple_stage(sch, block, region.machine, work=work)
    return sch.mod["main"]


def compute(region: Region, stored: Any) -> None:
    """Bind the results: the integers, the scale, the zero point."""
    op = region.anchor
    assert op is not None
    low, high = (
        extreme(region, name, stored, how)
        for name, how in (("low", rows.SMALLEST), ("high", rows.LARGEST))
    )
    width = (high - low) / tirx.const(255.0, "float32")
    one = tirx.const(1.0, "float32")
    scales = region.compute((1,), lambda i: tirx.Select(width == 0, one, width), "scale")
    scale = scales(ZERO)
    limit = tirx.const(0.0, "float32"), tirx.const(255.0, "float32")
    zeros = region.compute(
        (1,), lambda i: tirx.Cast("uint8", expr.call("saturate", (0 - low) / scale, *limit)), "zero"
    )
    zero, (y, s, z) = zeros(ZERO), op.results
    kind = Quantize(y.tensor.dtype)
    region.bind(y, lambda at: formulas.scalar(kind, [region.at(op.operand(0), at), scale, zero]))
    region.bind(s, lambda at: scale)
    region.bind(z, lambda at: zero)


def extreme(region: Region, name: str, stored: Any, how: rows.Combiner) -> Expr:
    """The least or largest of 0 and all elements."""
    shape = [int(d) for d in stored.shape]

    def element(at: Any) -> Expr:
        return stored(*map(region.analyzer.simplify, movement.unflat(at[0], shape)))

    found = rows.reduce(region, name, [math.prod(shape)], [0], element, how, 0)
    return how.pair(found([]), tirx.const(0.0, "float32"))
