# pyright: basic
# TVM ships no types.
"""Transposed convolution, phase by phase: result o = stride * u + i - pad has its own few taps.

    y[n, m, o] = sum over c, t of x[n, c, u - t] * w[c, m, i + stride * t]

Each phase i of an axis is a convolution of stride 1 with ceil(K / stride) taps, so no product is
wasted on zeros between elements, but for taps past K where the stride doesn't divide it. The result
is held as [n, mb, u0, i0, u1, i1, .., mi], which is its order in memory already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from graphopt.ir.core import Op
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import loops
from graphopt.targets.tvm.kernels import conv
from graphopt.targets.tvm.region import Region, shape_of

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Phases:
    """Per axis: phases (the strides), taps of each, the first u, and how many u there are."""

    kernel: Ints
    strides: Ints
    taps: Ints
    first: Ints
    count: Ints
    pads: Ints


def phases(op: Op) -> Phases:
    """Read the sizes off the op."""
    kind: Any = op.kind
    kernel, out = shape_of(op.operand(1))[2:], shape_of(op.result)[2:]
    pads = kind.pads[: len(kernel)]
    taps = tuple(-(-k // s) for k, s in zip(kernel, kind.strides, strict=True))
    first = tuple(p // s for p, s in zip(pads, kind.strides, strict=True))
    last = ((o - 1 + p) // s for o, p, s in zip(out, pads, kind.strides, strict=True))
    count = tuple(b - a + 1 for a, b in zip(first, last, strict=True))
    return Phases(kernel, kind.strides, taps, first, count, pads)


def choose(p: Phases, s: conv.Shape, op: Op, machine: Machine) -> list[conv.Knobs]:
    """Tiles of columns u by phases of the last axis (the knobs' `blocks`)."""
    block = max(machine.lanes, 8)
    inner = conv.channel_block(op.operand(0))
    inner = block if inner == 1 and s.ins >= block else inner
    tiles = conv.tiles(p.count[-1], p.strides[-1], block, loops.by_blocks(machine))
    return [conv.Knobs(block, inner, columns, blocks, False, True) for columns, blocks in tiles]


def padded(region: Region, op: Op, s: conv.Shape, p: Phases, k: conv.Knobs) -> Any:
    """The stage `pad`: x from u = first - taps + 1 on, in blocks of `inner`, zero outside."""
    value, dims = op.operand(0), len(s.size)
    columns = -(-p.count[-1] // k.columns) * k.columns
    need = [c + t - 1 for c, t in zip((*p.count[:-1], columns), p.taps, strict=True)]
    begin = [f - t + 1 for f, t in zip(p.first, p.taps, strict=True)]

    def body(*at: Any) -> Any:
        n, cb, *rest = at
        c = cb * k.inner + rest[dims] if k.inner > 1 else cb
        where = [i + b if b else i for i, b in zip(rest, begin, strict=False)]
        checks = [c < s.ins] if s.ins % k.inner else []
        for i, b, size, whole in zip(where, begin, s.size, need, strict=True):
            checks += [i >= 0] if b < 0 else []
            checks += [i < size] if b + whole > size else []
        inside = region.at(value, [n, c, *where])
        return tirx.if_then_else(tirx.all(*checks), inside, tirx.const(0.0, "float32")) if (
            checks) else inside  # fmt: skip

    blocks = [k.inner] if k.inner > 1 else []
    return region.compute((s.n, -(-s.ins // k.inner), *need, *blocks), body, "pad")


def compute(region: Region, op: Op, s: conv.Shape, p: Phases, k: conv.Knobs, w: Any) -> None:
    """Bind the op's result; w(ob, ib, tap.., [ii,] oi) reads the weights."""
    x = padded(region, op, s, p, k)
    columns = -(-p.count[-1] // k.columns) * k.columns
    outs = -(-s.outs // k.block)
    taps = [region.reduce_axis(t, f"t{i}") for i, t in enumerate(p.taps)]
    c = conv.Channels(region, s.ins, k.inner, conv.together(s.ins, k.inner), taps)
    zero = tirx.const(0.0, "float32")

    def body(*at: Any) -> Any:
        n, ob, *space, oi = at
        us, phase = space[0::2], space[1::2]
        where = [u + (count - 1) - t.var for u, t, count in zip(us, taps, p.taps, strict=True)]
        tap = [i + t.var * st for i, t, st in zip(phase, taps, p.strides, strict=True)]
        term = x(n, c.block, *where, *c.at) * w(ob, c.block, *tap, *c.at, oi)
        ends = zip(tap, p.kernel, p.strides, strict=True)
        checks = [t < size for t, size, st in ends if size % st]
        value = tirx.if_then_else(tirx.all(*checks), term, zero) if checks else term
        return te.sum(value, axis=c.axes)

    sizes = zip((*p.count[:-1], columns), p.strides, strict=True)
    y = region.compute((s.n, outs, *(d for pair in sizes for d in pair), k.block), body, "anchor")
    bias = op.operands[2]

    def read(index: Any) -> Any:
        n, m, *space = index
        at: list[Any] = [n, tirx.floordiv(m, k.block)]
        for o, pad, st, first in zip(space, p.pads, p.strides, p.first, strict=True):
            at += [tirx.floordiv(o + pad, st) - first, tirx.floormod(o + pad, st)]
        value = y(*map(region.analyzer.simplify, [*at, tirx.floormod(m, k.block)]))
        return value if bias is None else value + region.at(bias, [m])

    region.bind(op.result, read)


def apply(region: Region, s: conv.Shape, p: Phases, k: conv.Knobs) -> Any:
    """Schedule the stages pad, pack, anchor and out0."""
    (output,) = region.graph.outputs
    sch = loops.schedule(region.primfunc([region.store(output, "out0")]))
    machine, work = region.machine, s.macs // math.prod(p.strides)
    for copy in ("pad", "pack"):
        if copy in region.stages:
            vector = copy == "pad" and conv.channel_block(region.anchor.operand(0)) == k.inner
            loops.padding_stage(sch, sch.get_sblock(copy), machine, vector=vector)
    y = sch.get_sblock("anchor")
    kept = sch.cache_write(y, 0, "local")
    *outer, column, phase, lane = sch.get_loops(kept)
    co, ci = sch.split(column, [None, k.columns])
    po, pi = sch.split(phase, [None, k.blocks])
    sch.reorder(*outer, co, po, ci, pi, lane)
    sch.compute_at(y, po, preserve_unit_loops=True)
    tasks = sch.fuse(*outer, co, po)
    if loops.parallel_worth(work) and loops.extent(sch, tasks) > 1:
        sch.parallel(tasks)
    _registers(sch, y)
    for loop in (ci, pi):
        sch.unroll(loop)
    sch.vectorize(lane)
    loops.simple_stage(sch, sch.get_sblock("out0"), machine, work=4 * math.prod(shape_of(output)),
                       vector=conv.channel_block(output) == k.block)  # fmt: skip
    return sch.mod["main"]


def _registers(sch: Any, y: Any) -> None:
    """The sums of a tile outside, its vectors unrolled inside."""
    every = sch.get_loops(y)[1:]
    count = sum(1 for it in sch.get(y).iter_vars if int(it.iter_type) == 2)
    space, sums = every[:-count], every[-count:]
    sch.reorder(*sums, *space)
    sch.vectorize(space[-1])
    for loop in space[:-1]:
        sch.unroll(loop)
    init = sch.get_loops(sch.decompose_reduction(y, sums[0]))[1:]
    sch.vectorize(init[-1])
    for loop in init[:-1]:
        sch.unroll(loop)
