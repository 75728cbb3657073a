# pyright: basic
# TVM ships no types.
"""Direct convolution in blocked layouts.

    y[n, ob, s.., oi] = sum over ib, k.., ii of x[n, ib, s*stride + k*dilation.., ii]
                                              * w[ob, ib, k.., ii, oi]

A tile of `columns` x `blocks` vectors of y stays in registers over the whole sum. Where the
operand needs padding, another layout, or columns past its end (so that the tile divides the row),
it is copied once into a padded buffer; else it is read in place. The epilogue is computed from the
registers as the tile is stored.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from graphopt.ir.core import Op, Value
from graphopt.ir.layout import parse_layout, physical_shape
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import expr, loops
from graphopt.targets.tvm.region import Region, shape_of, static

Ints = tuple[int, ...]
LETTERS = "abcdef"
TILES = 12  # that tuning may choose from
COPY = 16  # products in the time of copying a vector of x, most of it memory's
FEW_WEIGHTS = 4  # times fewer than elements of x: then a tile of x stays while they all pass


@dataclass(frozen=True)
class Shape:
    """Sizes of a convolution: `outs` output channels, `ins` input channels of one group."""

    n: int
    ins: int
    outs: int
    group: int
    size: Ints
    out: Ints
    kernel: Ints
    strides: Ints
    pads: Ints
    dilations: Ints

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.n * self.outs * self.ins * math.prod(self.out) * math.prod(self.kernel)


@dataclass(frozen=True)
class Knobs:
    """The free choices of a schedule.

    block: channels of a vector block of y; inner: of x (1: dense); columns, blocks: the register
    tile; input_first: whether a tile of x stays while all of w passes; copy: whether x is padded
    into a buffer.
    """

    block: int
    inner: int
    columns: int
    blocks: int
    input_first: bool
    copy: bool


def shape(op: Op) -> Shape:
    """Read the sizes off the op."""
    kind: Any = op.kind
    x, w = shape_of(op.operand(0)), shape_of(op.operand(1))
    return Shape(x[0], w[1], w[0], kind.group, x[2:], shape_of(op.result)[2:], w[2:],
                 kind.strides, kind.pads, kind.dilations)  # fmt: skip


def channel_block(value: Value) -> int:
    """How many channels a value's layout keeps together (1: it is dense)."""
    tag = static(value).layout
    return dict(parse_layout(tag).blocks).get(1, 1) if tag else 1


def blocked(rank: int, block: int) -> str:
    """The tag of activations with blocked channels: aBcd16b for rank 4."""
    return f"aB{LETTERS[2:rank]}{block}b" if block > 1 else ""


def weight_tag(rank: int, inner: int, block: int) -> str:
    """The tag of packed weights: ABcd16b16a, or Abcd16a for dense input channels."""
    rest = LETTERS[2:rank]
    return f"AB{rest}{inner}b{block}a" if inner > 1 else f"Ab{rest}{block}a"


def choose(s: Shape, op: Op, machine: Machine) -> list[Knobs]:
    """The schedules for a shape, the best by rule first."""
    block = output_block(op, machine)
    inner = channel_block(op.operand(0))
    if inner == 1 and s.ins >= block:
        inner = block
    if s.ins % inner and s.group > 1:
        inner = 1
    weights = s.ins * s.outs * math.prod(s.kernel)
    few = FEW_WEIGHTS * weights < s.n * s.ins * s.group * math.prod(s.size)
    moved = channel_block(op.operand(0)) != inner or any(s.pads)
    reuse = s.outs // s.group * math.prod(s.kernel) / math.prod(s.strides)
    copy = 0.0 if moved or not machine.broadcasts else COPY / reuse
    return [
        Knobs(block, inner, columns, blocks, order, moved or s.out[-1] % columns != 0)
        for order in (few, not few)
        for columns, blocks in tiles(s.out[-1], -(-s.outs // s.group // block), block,
                                     with_room(machine, inner),
                                     lambda columns: copy if s.out[-1] % columns else 0.0,
                                     loops.bits_of(op.result))
    ]


def with_room(machine: Machine, inner: int) -> Machine:
    """The machine as seen by a register tile: of dense images it leaves registers free.

    LLVM unrolls their windows, and has broadcasts of several taps at once.
    """
    if inner > 1 or not machine.broadcasts:
        return machine
    return dataclasses.replace(machine, broadcasts=0, registers=machine.registers * 3 // 4)


def output_block(op: Op, machine: Machine) -> int:
    """Channels that a register tile computes together: as results or weights are stored."""
    tag = static(op.operand(1)).layout
    packed = dict(parse_layout(tag).blocks).get(0, 1) if tag else 1
    stored = channel_block(op.result)
    return next((b for b in (stored, packed) if b > 1), max(machine.lanes, 8))


def _nothing(columns: int) -> float:
    return 0.0


def tiles(
    width: int, blocks: int, block: int, machine: Machine,
    extra: Callable[[int], float] = _nothing, bits: int = 32,
) -> list[tuple[int, int]]:  # fmt: skip
    """Register tiles (columns, blocks), the one of least estimated cost a useful product first.

    `extra` is what a tile of some columns costs besides, in products; `bits` those of a number.
    """
    per = loops.vectors(block, machine, bits)

    def cost(columns: int, count: int) -> float:
        vectors = columns * count * per
        useful = width / (-(-width // columns) * columns)
        loads = loops.tile_loads(columns, count * per, machine, bits) / vectors
        latency = max(1.0, 8 / vectors)  # two products a cycle, four cycles each
        copy = 0.02 if width % columns else 0.0
        turn = 0.6 / vectors  # counting and addresses of a turn of the loop
        return (latency + 0.4 * loads + turn) / useful + copy + extra(columns)

    fitting = [
        (cost(c, b), b, c)
        for b in loops.divisors(blocks, 4)
        for c in range(1, min(width, 28) + 1)
        if loops.tile_registers(c, b, per, machine) <= machine.registers or c * b == 1
    ]
    return [(c, b) for _, b, c in sorted(fitting)[:TILES]]


def compute(region: Region, op: Op, s: Shape, k: Knobs) -> None:
    """Bind the op's result to the stage `anchor`, its operands to `pad` and `pack` if copied."""
    rank = len(s.size) + 2
    cols = -(-s.out[-1] // k.columns) * k.columns
    x = padded(region, op, s, k, (*s.out[:-1], cols)) if k.copy else region.tensors[op.operand(0)]
    w = packed(region, op.operand(1), weight_tag(rank, k.inner, k.block))
    accumulate(region, op, s, k, x, w)


def accumulate(region: Region, op: Op, s: Shape, k: Knobs, x: Any, w: Any) -> None:
    """Bind the op's result to `sums` and the bias."""
    y, bias = sums(region, op, s, k, x, w), op.operands[2]

    def read(index: Any) -> Any:
        value = y(index)
        return value if bias is None else value + region.at(bias, [index[1]])

    region.bind(op.result, read)


class Channels:
    """The axes of a sum over a group's channels, which lie in blocks of `inner`.

    Attributes:
        block: the block that is read.
        lane: the place in it; `at` has it as an index where there are blocks.
        every: the axes of the sum; `taps` go between the blocks and the lanes.
        axes: the same without that of the lanes where there are no blocks.
    """

    def __init__(self, region: Region, ins: int, inner: int, step: int, taps: list[Any]) -> None:
        """Of `ins` channels, `step` of a block in a turn of the inner loop."""
        parts = inner // step
        ib, ii = region.reduce_axis(-(-ins // step), "ib"), region.reduce_axis(step, "ii")
        self.block: Any = tirx.floordiv(ib.var, parts) if parts > 1 else ib.var
        self.lane: Any = tirx.floormod(ib.var, parts) * step + ii.var if parts > 1 else ii.var
        self.at = [self.lane] if inner > 1 else []
        self.every = [ib, *taps, ii]
        self.axes = self.every if inner > 1 else self.every[:-1]


def reads(s: Shape, space: list[Any], taps: list[Any]) -> list[Any]:
    """Where the window at `space` of the result reads x for the taps."""
    steps = zip(space, s.strides, taps, s.dilations, strict=True)
    return [p * stride + t.var * dilation for p, stride, t, dilation in steps]


def sums(region: Region, op: Op, s: Shape, k: Knobs, x: Any, w: Any) -> Any:
    """A reader of the stage `anchor`: the sum of x(n, ib, space.., ii) * w(ob, ib, k.., ii, oi)."""
    taps = [region.reduce_axis(d, f"k{i}") for i, d in enumerate(s.kernel)]
    c = Channels(region, s.ins, k.inner, together(s.ins, k.inner), taps)

    def body(*at: Any) -> Any:
        n, ob, *space, oi = at
        channel, where, tap = c.block, reads(s, space, taps), [t.var for t in taps]
        if s.group > 1:
            channel = tirx.floordiv(ob * k.block, s.outs // s.group) * (s.ins // k.inner) + channel
        return te.sum(x(n, channel, *where, *c.at) * w(ob, c.block, *tap, *c.at, oi), axis=c.axes)

    return anchored(region, s, k, body)


def anchored(region: Region, s: Shape, k: Knobs, body: Callable[..., Any]) -> Any:
    """A reader of the stage `anchor`, `body` at (n, ob, space.., oi): whole tiles of columns."""
    cols = -(-s.out[-1] // k.columns) * k.columns
    full = (s.n, -(-s.outs // k.block), *s.out[:-1], cols, k.block)
    y, tag = region.compute(full, body, "anchor"), blocked(len(s.size) + 2, k.block)
    return lambda index: y(*region.physical(tag, index))


def together(ins: int, inner: int) -> int:
    """Channels summed in a turn of the inner loop: a block, or the part of one that divides `ins`.

    24 channels in blocks of 16 would be 32, a quarter of the products by the zeros of the padding.
    """
    if ins < inner:
        return ins
    return next((part for part in (inner, 8, 4) if part <= inner and ins % part == 0), inner)


def padded(region: Region, op: Op, s: Shape, k: Knobs, out: Ints) -> Any:
    """A copy of x with its padding and as many columns as `out` reads, in blocks of `inner`."""
    value = op.operand(0)
    dims = len(s.size)
    need = tuple((o - 1) * st + (t - 1) * d + 1 for o, st, t, d in
                 zip(out, s.strides, s.kernel, s.dilations, strict=True))  # fmt: skip
    channels = s.ins * s.group
    outer = -(-channels // k.inner)
    full = (s.n, outer, *need, k.inner) if k.inner > 1 else (s.n, outer, *need)
    exact = channel_block(value) == k.inner  # padded lanes are stored, and zero

    def body(*at: Any) -> Any:
        n, cb, *rest = at
        space, c = rest[:dims], cb
        if k.inner > 1:
            c = cb * k.inner + rest[dims]
        at_x = [p - b for p, b in zip(space, s.pads[:dims], strict=True)]
        checks = [] if exact or channels % k.inner == 0 else [c < channels]
        for p, begin, size, whole in zip(at_x, s.pads, s.size, need, strict=False):
            checks += [p >= 0] if begin else []
            checks += [p < size] if whole - begin > size else []
        inside = region.at(value, [n, c, *at_x])
        return tirx.if_then_else(tirx.all(*checks), inside, expr.like(inside, 0)) if (
            checks) else inside  # fmt: skip

    return region.compute(full, body, "pad")


def packed(region: Region, w: Value, tag: str, name: str = "pack") -> Any:
    """The weights in the layout wanted: the argument itself, or a stage `name` that makes it."""
    if static(w).layout == tag and w in region.tensors:
        return region.tensors[w]
    shape, layout = shape_of(w), parse_layout(tag)
    full = physical_shape(shape, tag)

    def body(*at: Any) -> Any:
        index = region.logical(tag, at)
        checks = [index[a] < shape[a] for a, size in layout.blocks if shape[a] % size]
        value = region.at(w, index)
        return tirx.if_then_else(tirx.all(*checks), value, expr.like(value, 0)) if (
            checks) else value  # fmt: skip

    return region.compute(full, body, name)


def build(region: Region) -> Any:
    """The scheduled function of a convolution and its epilogue."""
    from graphopt.targets.tvm.kernels import conv_schedule, pairs, tiled, tiled_conv

    op = region.anchor
    assert op is not None
    s = shape(op)
    if pairs.fits(op, region.machine):
        return pairs.convolution(region, op)
    if by_tiles := tiled_conv.plan(op, region.machine):
        return tiled.build(region, op, by_tiles, tiled_conv.Convolution, s.macs)
    if s.group > 1 and not whole_groups(s, op, region.machine):
        from graphopt.targets.tvm.kernels import grouped

        return grouped.build(region)
    knobs = region.pick(choose(s, op, region.machine))
    compute(region, op, s, knobs)
    return conv_schedule.apply(region, s, knobs)


def whole_groups(s: Shape, op: Op, machine: Machine) -> bool:
    """Whether the groups' output channels fill blocks, and no input block crosses groups."""
    block, inner = output_block(op, machine), channel_block(op.operand(0))
    return (s.outs // s.group) % block == 0 and (inner == 1 or s.ins % inner == 0)
