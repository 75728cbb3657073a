# pyright: basic
# TVM ships no types.
"""Convolution of 1x1 windows over 8-bit integers by dot products (NEON): a product by a matrix.

    y[o, p] = b[o] + sum over k of dot(x[k, p], w[o, k])        k: words of four channels

Pixels p are those of all rows: a tile is as many of them as registers hold, whatever the width of
the image is.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as ir

from graphopt.ir.core import Op
from graphopt.ir.types import DType
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import loops, neon, vectors
from graphopt.targets.tvm.intrinsics import call
from graphopt.targets.tvm.kernels import conv
from graphopt.targets.tvm.kernels.integer import begun, biased
from graphopt.targets.tvm.parameters import declare
from graphopt.targets.tvm.region import Region, static

Expr = Any
BLOCK = 8  # channels
WORDS = 2  # of a block
PIXELS = 12  # of a tile: 24 vectors of sums, 6 of x, 2 of weights


def fits(op: Op, machine: Machine) -> bool:
    """Whether a convolution is computed so: of single pixels, in blocks, in one group."""
    s = conv.shape(op)
    single = all(d == 1 for d in (*s.kernel, *s.strides)) and not any(s.pads) and s.group == 1
    bytes_ = all(static(op.operand(i)).dtype is DType.i8 for i in (0, 1))
    blocks = conv.channel_block(op.operand(0)) == conv.channel_block(op.result) == BLOCK
    return neon.has_dot(machine) and single and bytes_ and blocks and len(s.kernel) == 2


class Kernel:
    """The sizes and loops of one product."""

    def __init__(self, region: Region, op: Op) -> None:
        """Declare the arguments, x and the weights by words."""
        self.region, self.op, self.s = region, op, conv.shape(op)
        s = self.s
        self.pixels = s.size[0] * s.size[1]
        count = -(-self.pixels // PIXELS)
        even = -(-self.pixels // count)
        self.most = min(self.pixels, even + even % 2)  # all tiles alike, of whole vectors of x
        self.ins, self.outs = -(-s.ins // BLOCK), -(-s.outs // BLOCK)
        x, w = op.operand(0), op.operand(1)
        declare(region, {x: (s.n, self.ins, self.pixels, WORDS),
                         w: (self.outs, self.ins, WORDS, BLOCK)})  # fmt: skip
        self.x, self.w = region.tensors[x], region.tensors[w]
        (self.output,) = region.graph.outputs
        self.last, self.bias = biased(region, op, BLOCK)

    def run(self) -> None:
        """Blocks of results or tiles of pixels in parallel: what there is less of passes inside."""
        s = self.s
        spread = loops.parallel_worth(s.macs)

        def over(parts: int) -> Any:
            return ir.parallel(0, parts) if spread and parts > 1 else ir.serial(0, parts)

        if s.ins * s.outs >= self.pixels * s.ins:
            with over(s.n * self.outs) as i:
                n, ob = tirx.floordiv(i, self.outs), tirx.floormod(i, self.outs)
                vectors.tiles(self.pixels, self.most,
                              lambda begin, count: self.tile(n, ob, begin, count))  # fmt: skip
            return
        whole, rest = divmod(self.pixels, self.most)

        def blocks(n: Expr, begin: Expr, count: int) -> None:
            with ir.serial(0, self.outs) as ob:
                self.tile(n, ob, begin, count)

        if whole:
            with over(s.n * whole) as i:
                n, t = tirx.floordiv(i, whole), tirx.floormod(i, whole)
                blocks(n, t * self.most, self.most)
        if rest:
            with ir.serial(0, s.n) as n:
                blocks(n, tirx.const(whole * self.most, "int32"), rest)

    def tile(self, n: Expr, ob: Expr, begin: Expr, count: int) -> None:
        """Some pixels of a block of results, through the epilogue."""
        acc = begun(self.region, self.bias, ob, count, BLOCK)
        with ir.serial(0, self.ins) as k, ir.serial(0, WORDS) as i:
            for c in range(count):
                with ir.vectorized(0, BLOCK) as lane:
                    given = acc[c, lane], self.x[n, k, begin + c, i], self.w[ob, k, i, lane]
                    ir.buffer_store(acc, call("dot", *given), [c, lane])
        width = self.s.size[1]
        for c in range(count):
            pixel = begin + c
            at = [n, ob, tirx.floordiv(pixel, width), tirx.floormod(pixel, width)]
            vectors.store(self.region, self.last, self.output, at,
                          lambda lane, c=c: acc[c, lane], BLOCK)  # fmt: skip


def build(region: Region, op: Op) -> Any:
    """The function of a convolution and its epilogue."""
    with IRBuilder() as builder, ir.prim_func(s_tir=True):
        ir.func_name("kernel")
        Kernel(region, op).run()
    return builder.get()
