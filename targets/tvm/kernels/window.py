# pyright: basic
# TVM ships no types.
"""What depthwise convolution and pooling share: a sum or maximum over windows, channel by channel.

A band of rows of one channel block is computed at a time: its padded operand is copied into a
buffer that stays in the first cache, then tiles of `columns` vectors are computed in registers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from graphopt.ir.core import Op, Value
from graphopt.ir.layout import parse_layout
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import expr, loops, neon, packs
from graphopt.targets.tvm.region import Region, static

Ints = tuple[int, ...]
UNROLLED_TAPS = 9
MOST_COLUMNS = 10
SPARE = 6  # registers of NEON that neither sums nor weights take


@dataclass(frozen=True)
class Window:
    """Sizes: n, channels, spatial sizes of operand and result, and the window's parameters."""

    n: int
    channels: int
    size: Ints
    out: Ints
    kernel: Ints
    strides: Ints
    pads: Ints
    dilations: Ints

    @property
    def work(self) -> int:
        """Scalar operations."""
        return self.n * self.channels * math.prod(self.out) * math.prod(self.kernel)


@dataclass(frozen=True)
class Knobs:
    """block: channels of a vector block; columns: vectors in registers; rows: of a band."""

    block: int
    columns: int
    rows: int
    copy: bool


def channel_block(value: Value) -> int:
    """How many channels a value's layout keeps together (1: it is dense)."""
    tag = static(value).layout
    return dict(parse_layout(tag).blocks).get(1, 1) if tag else 1


def choose(s: Window, op: Op, machine: Machine, held: int = 0) -> Knobs:
    """The schedule for a shape, by rule; bands of `held` bytes, if given."""
    stored = channel_block(op.operand(0))
    block = stored if stored > 1 else max(machine.lanes, 8)
    width = columns(s.out[-1], block, machine, loops.bits_of(op.result), s.kernel[-1])
    ragged = s.out[-1] % width != 0
    held = held or machine.band_bytes or machine.l1_bytes
    rows = 1 if len(s.out) == 1 else band(s, block, held)
    return Knobs(block, width, rows, stored == 1 or any(s.pads) or ragged)


def columns(width: int, block: int, machine: Machine, bits: int = 32, taps: int = 0) -> int:
    """The columns of a tile of a row: half of the registers, little waste.

    NEON sums by rows: what a row's weights (of `taps`) and a few numbers leave of the registers.
    """
    per = loops.vectors(block, machine, bits)
    if taps and neon.is_neon(machine):
        most = min(width, most_columns(per, machine, taps))
        return min(range(1, most + 1),
                   key=lambda c: (-(-width // c) * (c + 2), width % c != 0, -c))  # fmt: skip
    most = max(1, (machine.registers - 4) // (2 * per))
    return min((c for c in range(1, min(width, most) + 1)),
               key=lambda c: (-(-width // c) * (c + 2), -c))  # fmt: skip


def most_columns(per: int, machine: Machine, taps: int) -> int:
    """The columns, of so many vectors, that NEON has registers for beside a row's weights."""
    return max(1, min((machine.registers - SPARE) // per - taps, MOST_COLUMNS))


def band(s: Window, block: int, held: int) -> int:
    """The most rows whose operand (4 bytes each) fits `held` bytes; a divisor where one is near."""
    height, reach = s.out[-2], (s.kernel[-2] - 1) * s.dilations[-2] + 1
    row = 4 * block * (s.size[-1] + s.pads[-1] + s.pads[len(s.size) - 1])
    fitting = [r for r in range(1, height + 1)
               if ((r - 1) * s.strides[-2] + reach) * row <= held]  # fmt: skip
    most = max(fitting, default=1)
    even = [r for r in range(max(1, most // 2), most + 1) if height % r == 0]
    return max(even, default=most)


def compute(
    region: Region,
    op: Op,
    s: Window,
    k: Knobs,
    fill: Any,
    combine: Callable[..., Any],
    term: Callable[[Any, list[Any], list[Any]], Any],
    convert: Callable[[Any], Any] = lambda x: x,
) -> tuple[Any, str]:
    """The stage `anchor`: y[n, cb, s.., ci] = combine over taps of term(x, at, taps).

    `term` gets the element of x, the result's index [n, cb, ci], and the taps. `fill` is a number
    or an expression. The padded copy of x, if one is made, holds `convert(x)`. Returns the stage
    and the layout tag it is in.
    """
    value, dims = op.operand(0), len(s.size)
    rank = dims + 2
    cols = -(-s.out[-1] // k.columns) * k.columns
    out = (*s.out[:-1], cols)
    x = padded(region, value, s, k, out, fill, convert) if k.copy else region.tensors[value]
    taps = [region.reduce_axis(d, f"k{i}") for i, d in enumerate(s.kernel)]

    def body(*at: Any) -> Any:
        n, cb, *space, ci = at
        where = [p * st + t.var * d for p, st, t, d in
                 zip(space, s.strides, taps, s.dilations, strict=True)]  # fmt: skip
        element = term(x(n, cb, *where, ci), [n, cb, ci], [t.var for t in taps])
        return combine(element, axis=taps)

    blocks = -(-s.channels // k.block)
    letters = "abcdef"[2:rank]
    return region.compute((s.n, blocks, *out, k.block), body, "anchor"), f"aB{letters}{k.block}b"


def padded(
    region: Region,
    value: Value,
    s: Window,
    k: Knobs,
    out: Ints,
    fill: Any,
    convert: Callable[[Any], Any],
) -> Any:
    """A copy of x in blocks, with its padding and as many columns as `out` reads."""
    dims = len(s.size)
    need = tuple((o - 1) * st + (t - 1) * d + 1 for o, st, t, d in
                 zip(out, s.strides, s.kernel, s.dilations, strict=True))  # fmt: skip
    blocks = -(-s.channels // k.block)
    exact = channel_block(value) == k.block

    def body(*at: Any) -> Any:
        n, cb, *space, ci = at
        c = cb * k.block + ci
        at_x = [p - b for p, b in zip(space, s.pads[:dims], strict=True)]
        checks = [] if exact or s.channels % k.block == 0 else [c < s.channels]
        for p, begin, size, whole in zip(at_x, s.pads, s.size, need, strict=False):
            checks += [p >= 0] if begin else []
            checks += [p < size] if whole - begin > size else []
        inside = convert(region.at(value, [n, c, *at_x]))
        if not checks:
            return inside
        outside = expr.like(inside, fill) if isinstance(fill, int | float) else convert(fill)
        return tirx.if_then_else(tirx.all(*checks), inside, outside)

    return region.compute((s.n, blocks, *need, k.block), body, "pad")


def apply(region: Region, s: Window, k: Knobs) -> Any:
    """Schedule the stages pad, anchor and out0."""
    (output,) = region.graph.outputs
    packed = packs.fits(region, output) and s.out[-1] % k.columns == 0
    stage = packs.stages(region, output) if packed else region.store(output, "out0")
    sch = loops.schedule(region.primfunc([stage]))
    if "pack" in region.stages:
        loops.padding_stage(sch, sch.get_sblock("pack"), region.machine, vector=False)
    dense = not static(output).layout
    n, c, *space = sch.get_loops(sch.get_sblock("out0"))
    if dense:
        c, last = sch.split(c, [None, k.block])
    else:
        last = space.pop()
    column = space.pop()
    wo, wi = sch.split(column, [None, k.columns])
    within = []
    if space:
        ho, hi = sch.split(space.pop(), [None, k.rows])
        within, space = [hi], [*space, ho]
    sch.reorder(n, c, *space, *within, wo, wi, last)
    fused = sch.fuse(n, c, *space)
    if packed:
        packs.tile(sch, wo, wi, outer=len(sch.get_loops(sch.get_sblock("out0"))) - 2)
    sch.compute_at(sch.get_sblock("anchor"), wo, preserve_unit_loops=True)
    if k.copy:  # before the anchor is decomposed, which hides it from compute_at
        _band_copy(sch, fused, exact=channel_block(region.anchor.operand(0)) == k.block)
    if loops.parallel_worth(3 * s.work) and loops.extent(sch, fused) > 1:
        sch.parallel(fused)
    _tile(sch, s, by_rows=neon.is_neon(region.machine))
    if not dense:
        sch.vectorize(last)
    sch.unroll(wi)
    return sch.mod["main"]


def _band_copy(sch: Any, fused: Any, *, exact: bool) -> None:
    """Compute the padded operand of one band."""
    pad = sch.get_sblock("pad")
    sch.compute_at(pad, fused, preserve_unit_loops=True)
    if exact:
        sch.vectorize(sch.get_loops(pad)[-1])


def _tile(sch: Any, s: Window, *, by_rows: bool) -> None:
    """Compute the tile of registers: taps outside, unrolled where they are few.

    By rows, those of the window are a loop, and taps of a row stand inside the columns: LLVM would
    keep the weights of all taps in registers, and spill.
    """
    y = sch.get_sblock("anchor")
    depth = len(sch.get_loops(sch.get_sblock("out0"))) - 2
    every = sch.get_loops(y)[depth:]
    dims = len(s.kernel)
    space, taps = every[:-dims], every[-dims:]
    if by_rows:
        sch.reorder(*taps[:-1], *space[:-1], taps[-1], space[-1])
    else:
        sch.reorder(*taps, *space)
    sch.vectorize(space[-1])
    for loop in space[:-1]:
        sch.unroll(loop)
    if by_rows and s.kernel[-1] <= UNROLLED_TAPS:
        sch.unroll(taps[-1])
    elif math.prod(s.kernel) <= UNROLLED_TAPS:
        for loop in taps:
            sch.unroll(loop)
    sch.decompose_reduction(y, taps[0])
    init = sch.get_loops(sch.get_sblock("anchor_init"))[depth:]
    sch.vectorize(init[-1])
    for loop in init[:-1]:
        sch.unroll(loop)
    sch.set_scope(sch.get_sblock("anchor_update"), 0, "local")


def sum_of(value: Any, axis: list[Any]) -> Any:
    """The sum over axes."""
    return te.sum(value, axis=axis)


def max_of(value: Any, axis: list[Any]) -> Any:
    """The maximum over axes."""
    return te.max(value, axis=axis)
