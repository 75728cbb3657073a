# pyright: basic
# TVM ships no types.
"""Depthwise convolution: one filter a channel, weights packed as Abcd16a."""

from __future__ import annotations

from typing import Any

from graphopt.ir.core import Op
from graphopt.targets.tvm.kernels import conv, window
from graphopt.targets.tvm.region import Region, shape_of


def shape(op: Op) -> window.Window:
    """Read the sizes off the op."""
    kind: Any = op.kind
    x = shape_of(op.operand(0))
    return window.Window(x[0], x[1], x[2:], shape_of(op.result)[2:], shape_of(op.operand(1))[2:],
                         kind.strides, kind.pads, kind.dilations)  # fmt: skip


def compute(region: Region, op: Op, s: window.Window, k: window.Knobs) -> None:
    """Bind the op's result: the sum over taps of x times w, plus the bias."""
    rank = len(s.size) + 2
    w = conv.packed(region, op.operand(1), conv.weight_tag(rank, 1, k.block))

    def term(x: Any, at: list[Any], taps: list[Any]) -> Any:
        return x * w(at[1], 0, *taps, at[2])

    y, tag = window.compute(region, op, s, k, 0.0, window.sum_of, term)
    bias = op.operands[2]

    def read(index: Any) -> Any:
        value = y(*region.physical(tag, index))
        return value if bias is None else value + region.at(bias, [index[1]])

    region.bind(op.result, read)


def build(region: Region) -> Any:
    """The scheduled function of a depthwise convolution and its epilogue."""
    op = region.anchor
    assert op is not None
    s = shape(op)
    knobs = window.choose(s, op, region.machine)
    compute(region, op, s, knobs)
    return window.apply(region, s, knobs)
