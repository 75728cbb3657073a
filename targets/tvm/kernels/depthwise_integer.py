# pyright: basic
# TVM ships no types.
"""Depthwise convolution of 8-bit integers, summed in int32; means of windows, too.

Where the machine multiplies words of four bytes, a word holds a channel's elements in four columns:
one shuffle of 64 bytes of the padded operand makes those of 16 channels, and weights are packed
alike (tag AbcD16a4d). So does NEON with dot products (see `depthwise_dots`); without, it multiplies
16-bit numbers and adds to int32 in one instruction.
Elsewhere sums are in float32, which is exact for them: a product is below 2^15, so that 2^9 of them
stay below 2^24.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tvm
from tvm import te, tirx

from graphopt.ir.core import Op
from graphopt.ir.types import DType
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import neon
from graphopt.targets.tvm.intmath import has_vnni
from graphopt.targets.tvm.intrinsics import call
from graphopt.targets.tvm.kernels import depthwise, depthwise_dots, plain_integer, window
from graphopt.targets.tvm.kernels.integer import border
from graphopt.targets.tvm.kernels.words import BYTES, contract
from graphopt.targets.tvm.region import Region, shape_of, static

EXACT_TERMS = 1 << 9  # products of u8 and s8 whose float32 sum is exact
WORD = 4


def fits(op: Op, machine: Machine) -> bool:
    """Whether one of the two ways computes a convolution in blocks."""
    return _by_words(op, machine) or math.prod(shape_of(op.operand(1))[2:]) <= EXACT_TERMS


def _by_words(op: Op, machine: Machine) -> bool:
    kind: Any = op.kind
    x, block = static(op.operand(0)), window.channel_block(op.operand(0))
    near = kind.dilations[-1] == 1 and x.dtype is DType.u8
    return near and block == max(machine.lanes, 8) and has_vnni(machine, block)


def build(region: Region) -> Any:
    """The scheduled function of a depthwise convolution and its epilogue."""
    op = region.anchor
    assert op is not None
    if not static(op.result).layout or not fits(op, region.machine):
        return plain_integer.build(region)
    if depthwise_dots.fits(op, region.machine):
        return depthwise_dots.build(region, op)
    if neon.is_neon(region.machine):
        return shorts(region, op)
    return (words if _by_words(op, region.machine) else floats)(region, op)


def words(region: Region, op: Op) -> Any:
    """By words of four columns."""
    s = depthwise.shape(op)
    held = WORD * region.machine.l1_bytes  # of bytes, where a band is counted in floats
    k = dataclasses.replace(window.choose(s, op, region.machine, held), copy=True)
    *_, width = s.kernel
    wide = dataclasses.replace(s, kernel=(*s.kernel[:-1], -(-width // WORD) * WORD))
    cols = -(-s.out[-1] // k.columns) * k.columns
    out = (*s.out[:-1], cols)
    x = window.padded(region, op.operand(0), wide, k, out, border(region, op), lambda v: v)
    w = region.words(op.operand(1))
    s = dataclasses.replace(s, kernel=(*s.kernel[:-1], -(-width // WORD)))
    taps = [region.reduce_axis(d, f"k{i}") for i, d in enumerate(s.kernel)]

    def body(*at: Any) -> Any:
        n, cb, *space, ci = at
        apart = (*s.dilations[:-1], WORD)
        where = [p * st + t.var * d for p, st, t, d in
                 zip(space, s.strides, taps, apart, strict=True)]  # fmt: skip
        weight = w(cb, 0, *[t.var for t in taps], ci, 0)
        product = call("dot", tirx.const(0, "int32"), _columns(x, n, cb, where, ci), weight)
        return te.sum(product, axis=taps)

    blocks, rank = -(-s.channels // k.block), len(s.size) + 2
    y = region.compute((s.n, blocks, *out, k.block), body, "anchor")
    tag = f"aB{'abcdef'[2:rank]}{k.block}b"
    region.bind(op.result, lambda index: y(*region.physical(tag, index)))
    return contract(window.apply(region, s, k), BYTES)


def _columns(x: Any, n: Any, cb: Any, where: list[Any], ci: Any) -> Any:
    """The word of lane ci whose first column is at `where`."""
    first = x(n, cb, *where, 0)
    last = x(n, cb, *where[:-1], where[-1] + (WORD - 1), ci)
    pointer = tvm.ir.PointerType(tvm.ir.PrimType("uint8"))
    return call("columns", tirx.op.Call("tirx.address_of", [first], ret_ty=pointer), ci, last)


def floats(region: Region, op: Op) -> Any:
    """Tap by tap, of a padded copy in floats."""

    def real(x: Any) -> Any:
        return tirx.Cast("float32", tirx.Cast("int32", x))

    return _by_taps(region, op, real, lambda x, w: x * real(w))


def shorts(region: Region, op: Op) -> Any:
    """Tap by tap, of a padded copy in 16 bits."""

    def product(x: Any, w: Any) -> Any:
        return tirx.Cast("int32", x) * tirx.Cast("int32", tirx.Cast("int16", w))

    return _by_taps(region, op, lambda x: tirx.Cast("int16", x), product)


def _by_taps(region: Region, op: Op, convert: Any, times: Any) -> Any:
    """A copy that holds `convert(x)`, multiplied by weights with `times`."""
    s = depthwise.shape(op)
    k = dataclasses.replace(window.choose(s, op, region.machine), copy=True)

    def term(x: Any, at: list[Any], taps: list[Any]) -> Any:
        channel = at[1] * k.block + at[2]
        return times(x, region.at(op.operand(1), [channel, 0, *taps]))

    y, tag = window.compute(region, op, s, k, border(region, op), window.sum_of, term, convert)
    region.bind(op.result, lambda index: tirx.Cast("int32", y(*region.physical(tag, index))))
    return window.apply(region, s, k)
