# pyright: basic
# TVM ships no types.
"""Transposed convolution: phase by phase (`conv_phases`), or over an operand spread out by zeros.

    y[n, m, o] = sum over c, k of up[n, c, o + pad' + k] * w[c, m, K-1-k],  up[i * stride] = x[i]

The latter is for dilations and groups; its zeros cost stride^d times the products that are needed.
Weights [C, M, k..] come packed as BAcd16a16b.
"""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx

from graphopt.ir.core import Op
from graphopt.ir.layout import physical_shape
from graphopt.targets.machine import Machine
from graphopt.targets.tvm.kernels import conv, conv_phases, conv_schedule
from graphopt.targets.tvm.region import Region, shape_of, static


def shape(op: Op) -> conv.Shape:
    """The sizes of the convolution that it amounts to: stride 1, over the spread operand."""
    kind: Any = op.kind
    x, w = shape_of(op.operand(0)), shape_of(op.operand(1))
    dims = len(x) - 2
    ones = (1,) * dims
    return conv.Shape(x[0], x[1] // kind.group, w[1] * kind.group, kind.group, x[2:],
                      shape_of(op.result)[2:], w[2:], ones, (1,) * (2 * dims),
                      kind.dilations)  # fmt: skip


def spread(region: Region, op: Op, s: conv.Shape, k: conv.Knobs) -> Any:
    """The stage `pad`: x with zeros between its elements and around them, in blocks of `inner`."""
    kind: Any = op.kind
    value, dims = op.operand(0), len(s.size)
    out = (*s.out[:-1], -(-s.out[-1] // k.columns) * k.columns)
    need = tuple(o + (t - 1) * d for o, t, d in zip(out, s.kernel, s.dilations, strict=True))
    channels = s.ins * s.group
    full = (s.n, -(-channels // k.inner), *need, *([k.inner] if k.inner > 1 else []))

    def body(*at: Any) -> Any:
        n, cb, *rest = at
        c = cb * k.inner + rest[dims] if k.inner > 1 else cb
        checks = [c < channels] if channels % k.inner else []
        where = []
        for i, p in enumerate(rest[:dims]):
            begin = (s.kernel[i] - 1) * s.dilations[i] - kind.pads[i]
            at_up, stride = p - begin, kind.strides[i]
            checks += [at_up >= 0, at_up < (s.size[i] - 1) * stride + 1]
            checks += [tirx.floormod(at_up, stride) == 0] if stride > 1 else []
            where.append(tirx.floordiv(at_up, stride) if stride > 1 else at_up)
        inside = region.at(value, [n, c, *where])
        return tirx.if_then_else(tirx.all(*checks), inside, tirx.const(0.0, "float32"))

    return region.compute(full, body, "pad")


def weights(region: Region, op: Op, s: conv.Shape, k: conv.Knobs) -> Any:
    """A reader w(ob, ib, k.., [ii,] oi) of the transposed weights."""
    value, dims = op.operand(1), len(s.size)
    rest = conv.LETTERS[2 : 2 + dims]
    tag = f"BA{rest}{k.inner}a{k.block}b" if k.inner > 1 else f"Ba{rest}{k.block}b"
    if static(value).layout == tag and s.group == 1:
        tensor = region.tensors[value]
    else:
        tensor = pack(region, op, s, k, tag)

    return tensor


def flipped(w: Any, s: conv.Shape) -> Any:
    """The reader of weights with their taps in the opposite order."""
    dims = len(s.kernel)

    def read(ob: Any, ib: Any, *at: Any) -> Any:
        taps = [d - 1 - t for t, d in zip(at[:dims], s.kernel, strict=True)]
        return w(ob, ib, *taps, *at[dims:])

    return read


def pack(region: Region, op: Op, s: conv.Shape, k: conv.Knobs, tag: str) -> Any:
    """The stage `pack`: weights by output block, of the group that the block belongs to."""
    value, per = op.operand(1), s.outs // s.group
    full = physical_shape((s.ins, s.outs, *s.kernel), tag)

    def body(*at: Any) -> Any:
        c, m, *taps = region.logical(tag, at)
        checks = [c < s.ins] if s.ins % k.inner else []
        checks += [m < s.outs] if s.outs % k.block else []
        group = tirx.floordiv(m, per)
        inside = region.at(value, [group * s.ins + c, tirx.floormod(m, per), *taps])
        return tirx.if_then_else(tirx.all(*checks), inside, tirx.const(0.0, "float32")) if (
            checks) else inside  # fmt: skip

    return region.compute(full, body, "pack")


def choose(s: conv.Shape, op: Op, machine: Machine) -> list[conv.Knobs]:
    """A convolution's knobs; the groups of a block must be one."""
    return conv.choose(s, op, machine)


def build(region: Region) -> Any:
    """The scheduled function of a transposed convolution and its epilogue."""
    op = region.anchor
    assert op is not None
    s = shape(op)
    if s.group > 1 and not conv.whole_groups(s, op, region.machine):
        return scattered(region, op, s)
    if s.group == 1 and set(s.dilations) == {1}:
        p = conv_phases.phases(op)
        knobs = region.pick(conv_phases.choose(p, s, op, region.machine))
        conv_phases.compute(region, op, s, p, knobs, weights(region, op, s, knobs))
        return conv_phases.apply(region, s, p, knobs)
    knobs = region.pick(choose(s, op, region.machine))
    w = flipped(weights(region, op, s, knobs), s)
    conv.accumulate(region, op, s, knobs, spread(region, op, s, knobs), w)
    return conv_schedule.apply(region, s, knobs)


def scattered(region: Region, op: Op, s: conv.Shape) -> Any:
    """Groups that don't fill blocks: a plain loop nest over the result."""
    from tvm import te

    from graphopt.targets.tvm import loops

    kind: Any = op.kind
    x, w, bias = op.operand(0), op.operand(1), op.operands[2]
    c = region.reduce_axis(s.ins, "c")
    taps = [region.reduce_axis(d, f"k{i}") for i, d in enumerate(s.kernel)]
    per = s.outs // s.group

    def body(*at: Any) -> Any:
        n, m, *space = at
        checks, where = [], []
        for i, p in enumerate(space):
            up = p + kind.pads[i] - taps[i].var * s.dilations[i]
            stride = kind.strides[i]
            checks += [up >= 0, up < (s.size[i] - 1) * stride + 1, tirx.floormod(up, stride) == 0]
            where.append(tirx.floordiv(up, stride))
        group = tirx.floordiv(m, per)
        inside = region.at(x, [n, group * s.ins + c.var, *where])
        value = tirx.if_then_else(tirx.all(*checks), inside, tirx.const(0.0, "float32"))
        tap = [t.var for t in taps]
        return te.sum(value * region.at(w, [group * s.ins + c.var, tirx.floormod(m, per), *tap]),
                      axis=[c, *taps])  # fmt: skip

    y = region.compute(shape_of(op.result), body, "anchor")
    region.bind(op.result, lambda index: y(*index) if bias is None else
                y(*index) + region.at(bias, [index[1]]))  # fmt: skip
    (output,) = region.graph.outputs
    sch = loops.schedule(region.primfunc([region.store(output, "out0")]))
    loops.reduction_stage(sch, sch.get_sblock("anchor"), region.machine, work=s.macs, vector=False)
    loops.simple_stage(sch, sch.get_sblock("out0"), region.machine,
                       work=4 * math.prod(shape_of(output)))  # fmt: skip
    return sch.mod["main"]
