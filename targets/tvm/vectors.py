# pyright: basic
# TVM ships no types.
"""Loops written out over tiles of vectors of channels: what such kernels share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as ir

from graphopt.ir.core import Op, Value
from graphopt.targets.tvm.region import Region, static

Expr = Any
BIASED = frozenset({"conv", "conv_winograd"})


def bias_of(op: Op) -> Value | None:
    """What is added to each channel of an op's result, if anything."""
    return op.operands[2] if op.kind.name in BIASED else None


def store(
    region: Region,
    op: Op,
    last: Value,
    at: Sequence[Expr],
    value_of: Callable[[Expr], Expr],
    block: int,
    target: tuple[Any, Sequence[Expr]] = (None, ()),
    biased: bool = False,
) -> None:
    """Store a vector of `last`, which element-wise ops make of an op's results.

    Args:
        region: of the kernel.
        op: a convolution, whose bias is added here, or a pool.
        last: the value that is stored.
        at: image, block of channels, row and column; those after the block only where it has such.
        value_of: the op's result without its bias, by lane.
        block: lanes.
        biased: whether the bias is in the value already.
        target: a buffer, and the place in it without the lane; (None, ...): the kernel's result.
    """
    buffer, place = target
    n, cb, *pixel = at
    bias = None if biased else bias_of(op)
    with ir.vectorized(0, block) as lane:
        channel = cb * block + lane
        value = value_of(lane)
        if bias is not None:
            value = value + region.at(bias, [channel])
        region.bind(op.result, lambda index: value)
        index, tag = [n, channel, *pixel], static(last).layout
        found = region.element(last, index, tag)
        if buffer is None:
            ir.buffer_store(region.result, found, region.physical(tag, index))
        else:
            ir.buffer_store(buffer, found, [*place, lane])


def tiles(total: int, columns: int, body: Callable[[Any, int], None]) -> None:
    """`body(begin, count)` for tiles of as many columns, and for the rest."""
    whole, rest = divmod(total, columns)
    if whole:
        with ir.serial(0, whole) as t:
            body(t * columns, columns)
    if rest:
        body(tirx.const(whole * columns, "int32"), rest)


@contextlib.contextmanager
def when(condition: Expr, needed: bool) -> Any:
    """A branch, where the condition isn't always true."""
    if not needed:
        yield
        return
    with ir.If(condition), ir.Then():
        yield
