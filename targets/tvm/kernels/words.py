# pyright: basic
# TVM ships no types.
"""Sums of products of short numbers, by 32-bit words: four of 8 bits, or two of bfloat16.

Convolutions are those of `conv`, products those of `matmul`, a word where those have one number:

    y[n, ob, s.., oi] = sum over ib, k.., ii of dot(x[n, ib, s*stride + k*dilation.., ii],
                                                    w[ob, ib, k.., ii, oi])
    y[batch, m, n]    = sum over k of dot(a[batch, m, k], b[n/lanes, k, n%lanes])

with `dot` the sum of the products of a word's parts, in one instruction where the machine has it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import s_tir, te, tirx

from graphopt.ir.core import Op
from graphopt.targets.tvm import loops, packs
from graphopt.targets.tvm.intrinsics import call
from graphopt.targets.tvm.kernels import conv, matmul
from graphopt.targets.tvm.region import Region, shape_of, static

Expr = Any


@dataclass(frozen=True)
class Words:
    """How many numbers a word has, the function that multiplies words, and the type of its sums."""

    per: int
    dot: str
    dtype: str

    def times(self, x: Expr, w: Expr) -> Expr:
        """The sum of a word's products; see `contract`."""
        return call(self.dot, tirx.const(0, self.dtype), x, w)


COPY = 6.0  # products in the time that copying a word takes, times the lanes of a vector
STORE = 10.0  # and that packing and storing bytes takes

BYTES = Words(4, "dot", "int32")
HALVES = Words(2, "dot_half", "float32")


def convolution(
    region: Region, op: Op, s: conv.Shape, of: Words, border: Expr
) -> tuple[Callable[[Any], Expr], conv.Knobs, conv.Shape]:
    """A reader of the sums of a convolution in blocks, its schedule, and its sizes in words.

    `border` is the word of the padding.
    """
    stored = conv.channel_block(op.operand(0))
    words = dataclasses.replace(s, ins=-(-s.ins // of.per))
    block = conv.channel_block(op.result)
    block = block if block > 1 else max(region.machine.lanes, 8)
    small = s.ins * s.outs * math.prod(s.kernel) <= region.machine.l2_bytes // 2
    extra = _extra(words, packs.fits(region, region.graph.outputs[0]))
    k = region.pick([
        conv.Knobs(block, stored // of.per, columns, blocks, order,
                   any(s.pads) or s.out[-1] % columns != 0)
        for order in (small, not small)
        for columns, blocks in conv.tiles(
            s.out[-1], -(-s.outs // s.group // block), block,
            loops.by_blocks(region.machine), extra)
    ])  # fmt: skip
    x, w = region.words(op.operand(0)), region.words(op.operand(1))
    if k.copy:
        x = padded(region, words, k, x, border)
    return accumulate(region, op, words, k, of, x, w), k, words


def _extra(s: conv.Shape, packed: bool) -> Callable[[int], float]:
    """What a tile costs besides its sums, in products: the copy of ragged rows, and stores."""
    reuse, products = s.outs // s.group * math.prod(s.kernel), s.ins * math.prod(s.kernel)

    def cost(columns: int) -> float:
        ragged = s.out[-1] % columns != 0
        copy = COPY / reuse if ragged and not any(s.pads) else 0.0
        stores = columns if ragged else packs.turns(columns)
        return copy + (STORE * stores / columns / products if packed else 0.0)

    return cost


def padded(region: Region, s: conv.Shape, k: conv.Knobs, x: Any, border: Expr) -> Any:
    """A copy of the words of x with the padding, and as many columns as the tiles read.

    A row's words lie beside each other, and are as many as whole vectors hold.
    """
    dims, lanes = len(s.size), max(region.machine.lanes, 4)
    cols = -(-s.out[-1] // k.columns) * k.columns
    out = (*s.out[:-1], cols)
    *need, width = ((o - 1) * st + (t - 1) * d + 1 for o, st, t, d in
                    zip(out, s.strides, s.kernel, s.dilations, strict=True))  # fmt: skip
    row = -(-width * k.inner // lanes) * lanes
    full = (s.n, -(-s.ins * s.group // k.inner), *need, row)

    def body(*at: Any) -> Any:
        n, cb, *above, j = at
        lines = [p - b for p, b in zip(above, s.pads[: dims - 1], strict=True)]
        near = [tirx.max(tirx.min(p, size - 1), 0) for p, size in zip(lines, s.size, strict=False)]
        checks = [c for p, size in zip(lines, s.size, strict=False) for c in (p >= 0, p < size)]
        held: Any = tirx.const(s.size[-1] * k.inner, "int32")
        count = tirx.Select(tirx.all(*checks), held, tirx.const(0, "int32")) if checks else held
        last = x(n, cb, *near, s.size[-1] - 1, k.inner - 1)
        return _row(x(n, cb, *near, 0, 0), j - s.pads[dims - 1] * k.inner, count, border, last)

    made = region.compute(full, body, "rows")

    def read(n: Any, cb: Any, *rest: Any) -> Any:
        *space, lane = rest
        return made(n, cb, *space[:-1], space[-1] * k.inner + lane)

    return read


def _row(first: Expr, at: Expr, count: Any, border: Expr, last: Expr) -> Expr:
    """A word of a row that begins with `first` and ends with `last`; a border outside."""
    pointer = tvm.ir.PointerType(tvm.ir.PrimType("int32"))
    address = tirx.op.Call("tirx.address_of", [first], ret_ty=pointer)
    return call("inside", address, at, count, border, last)


def together(ins: int, inner: int) -> int:
    """Words summed in a turn of the inner loop: as few beyond the last channel as can be."""
    return ins if ins < inner else next((p for p in (inner, 4, 2) if ins % p == 0), inner)


def accumulate(
    region: Region, op: Op, s: conv.Shape, k: conv.Knobs, of: Words, x: Any, w: Any
) -> Callable[[Any], Expr]:
    """A reader of the stage `anchor`: sums of `dot`, to be contracted once the schedule is made."""
    taps = [region.reduce_axis(d, f"k{i}") for i, d in enumerate(s.kernel)]
    c = conv.Channels(region, s.ins, k.inner, together(s.ins, k.inner), taps)

    def body(*at: Any) -> Any:
        n, ob, *space, oi = at
        channel, tap = c.block, [t.var for t in taps]
        if s.group > 1:
            channel = tirx.floordiv(ob * k.block, s.outs // s.group) * (s.ins // k.inner) + channel
        word = x(n, channel, *conv.reads(s, space, taps), c.lane)
        return te.sum(of.times(word, w(ob, c.block, *tap, *c.at, oi, 0)), axis=c.every)

    return conv.anchored(region, s, k, body)


def product(region: Region, op: Op, s: matmul.Shape, of: Words) -> Any:
    """The scheduled function of a product whose b is packed in words, and its epilogue."""
    words = dataclasses.replace(s, k=-(-s.k // of.per))
    k = region.pick(matmul.choose(words, loops.by_blocks(region.machine)))
    a, b = left(region, op, words, s.k, of), region.words(op.operand(1))
    panels, last = matmul.padded_panels(words, k), -(-s.n // k.lanes) - 1
    rows = -(-s.m // k.rows) * k.rows
    kk = region.reduce_axis(words.k, "anchor_k")

    def body(*at: Any) -> Any:
        *batch, m, panel, lane = at
        row = m if rows == s.m else tirx.min(m, s.m - 1)
        weight = b(panel if panels == last + 1 else tirx.min(panel, last), kk.var, lane, 0)
        return te.sum(of.times(a(batch, row, kk.var), weight), axis=[kk])

    y = region.compute((*s.batch, rows, panels, k.lanes), body, "anchor")
    region.bind(op.result, lambda index: matmul.finish(region, op, words, k, y, index))
    return contract(matmul.apply(region, words, k), of)


def left(region: Region, op: Op, s: matmul.Shape, depth: int, of: Words) -> Any:
    """A reader a(batch, m, k) of words, of rows of `depth` numbers."""
    value = op.operand(0)
    rows = dataclasses.replace(s, trans_a=False)
    if depth % of.per == 0 and not static(value).layout:
        tensor, own = region.words(value), shape_of(value)
        return lambda batch, m, k: tensor(*matmul.position(region, own, rows, batch, m), k)
    numbers, bits = matmul.left(region, op, rows), 32 // of.per

    def word(*at: Any) -> Any:
        *batch, m, k = at
        total: Any = tirx.const(0, "int32")
        for i in range(of.per):
            number = _bits(numbers(batch, m, tirx.min(of.per * k + i, depth - 1)))
            total = tirx.bitwise_or(total, tirx.shift_left(number, tirx.const(bits * i, "int32")))
        return total

    tensor = region.compute((*s.batch, s.m, s.k), word, "pack")
    return lambda batch, m, k: tensor(*batch, m, k)


def _bits(number: Expr) -> Expr:
    """The bits of an unsigned byte, or of a bfloat16 that is read as float32, as an int32."""
    if str(number.ty.dtype) != "float32":
        return tirx.Cast("int32", number)
    wide = tirx.shift_right(tirx.reinterpret("uint32", number), tirx.const(16, "uint32"))
    return tirx.Cast("int32", wide)


def contract(func: Any, of: Words, name: str = "anchor") -> Any:
    """acc + dot(0, x, w) -> dot(acc, x, w) in a scheduled stage: TE has no such reduction."""
    sch = loops.schedule(func)
    store = sch.get(sch.get_sblock(f"{name}_update")).body
    acc, product = store.value.a, store.value.b
    made = call(of.dot, acc, product.args[1], product.args[2])
    return _replaced(sch, f"{name}_update", made, [])


def started(func: Any, argument: int, block: int) -> Any:
    """Sums that begin with a bias [C, 1, ..], an argument, not with 0."""
    sch = loops.schedule(func)
    store = sch.get(sch.get_sblock("anchor_init")).body
    bias = func.params[argument]
    _, ob, *_, oi = store.indices
    at = [ob * block + oi, *(0 for _ in bias.shape[1:])]
    one: Any = 1
    read = tvm.tirx.BufferRegion(bias, [tvm.ir.Range.from_min_extent(i, one) for i in at])
    return _replaced(sch, "anchor_init", tirx.BufferLoad(bias, at), [read])


def _replaced(sch: Any, name: str, value: Any, reads: list[Any]) -> Any:
    """A scheduled function whose block `name` stores `value`, for which it reads more."""
    ref = sch.get_sblock(name)
    block = sch.get(ref)
    store = block.body
    made = tirx.BufferStore(store.buffer, value, list(store.indices))
    new = s_tir.SBlock(block.iter_vars, [*block.reads, *reads], block.writes, block.name_hint, made,
                       alloc_buffers=block.alloc_buffers, match_buffers=block.match_buffers,
                       annotations=block.annotations)  # fmt: skip
    sch.state.replace(sch.get_sref(ref), new, {block: new})
    return sch.mod["main"]
