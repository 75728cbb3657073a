# pyright: basic
# TVM ships no types.
"""Integer sums by products of 16-bit numbers (see `graphopt.targets.tvm.shorts`).

    y[n, ob, s.., oi] = sum over ib, k.., ii of s16(x[n, ib, .., ii]) * s16(w[ob, ib, k.., ii, oi])

Those of `conv` and `matmul`, with an operand that is copied as s16 once; weights widen as they are
loaded, for all columns of a tile.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from tvm import tirx

from graphopt.ir.core import Op
from graphopt.targets.tvm import loops
from graphopt.targets.tvm.kernels import conv, conv_schedule, matmul
from graphopt.targets.tvm.kernels.integer import border
from graphopt.targets.tvm.region import Region

Expr = Any


def wide(x: Expr) -> Expr:
    """As it is summed."""
    return tirx.Cast("int32", x)


def convolution(region: Region, op: Op) -> Any:
    """The scheduled function of a convolution and its epilogue."""
    s = conv.shape(op)
    block, inner = conv.channel_block(op.result), conv.channel_block(op.operand(0))
    small = s.ins * s.outs * math.prod(s.kernel) <= region.machine.l2_bytes // 2
    k = region.pick([
        conv.Knobs(block, inner, columns, blocks, order, True)
        for order in (small, not small)
        for columns, blocks in conv.tiles(
            s.out[-1], -(-s.outs // s.group // block), block,
            loops.by_blocks(region.machine))
    ])  # fmt: skip
    x, w = padded(region, op, s, k), region.tensors[op.operand(1)]
    sums = conv.sums(region, op, s, k, lambda *at: wide(x(*at)), lambda *at: wide(w(*at)))
    region.bind(op.result, sums)
    return conv_schedule.apply(region, s, k)


def padded(region: Region, op: Op, s: conv.Shape, k: conv.Knobs) -> Any:
    """A copy of x as s16 with its padding, and as many columns as the tiles read."""
    value, dims = op.operand(0), len(s.size)
    out = (*s.out[:-1], -(-s.out[-1] // k.columns) * k.columns)
    need = tuple((o - 1) * st + (t - 1) * d + 1 for o, st, t, d in
                 zip(out, s.strides, s.kernel, s.dilations, strict=True))  # fmt: skip
    full = (s.n, -(-s.ins * s.group // k.inner), *need, k.inner)
    source, fill = region.tensors[value], border(region, op)

    def body(*at: Any) -> Any:
        n, cb, *space, lane = at
        at_x = [p - b for p, b in zip(space, s.pads[:dims], strict=True)]
        checks: list[Any] = []
        for p, begin, size, whole in zip(at_x, s.pads, s.size, need, strict=False):
            checks += [p >= 0] if begin else []
            checks += [p < size] if whole - begin > size else []
        inside = tirx.Cast("int16", source(n, cb, *at_x, lane))
        outside = tirx.const(fill, "int16") if isinstance(fill, int) else tirx.Cast("int16", fill)
        return tirx.if_then_else(tirx.all(*checks), inside, outside) if checks else inside

    return region.compute(full, body, "pad")


def product(region: Region, op: Op) -> Any:
    """The scheduled function of a product and its epilogue; b is [n/lanes, k, lanes]."""
    s = dataclasses.replace(matmul.shape(op), trans_b=False)
    k = region.pick(matmul.choose(s, loops.by_blocks(region.machine)))
    given = matmul.left(region, op, s)
    b = matmul.columns(region, op, s, k, matmul.padded_panels(s, k))
    a = lambda batch, m, kk: wide(given(batch, m, kk))  # noqa: E731
    w = lambda batch, panel, kk, lane: wide(b(batch, panel, kk, lane))  # noqa: E731
    y = matmul.product(region, "anchor", s, k, a, w)
    region.bind(op.result, lambda index: matmul.finish(region, op, s, k, y, index))
    return matmul.apply(region, s, k)
