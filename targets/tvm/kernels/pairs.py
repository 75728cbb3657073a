# pyright: basic
# TVM ships no types.
"""Convolutions and products of bfloat16 by bfloat16, summed in float32, where vectors do so faster.

Two numbers beside each other are a word (`words`). The instruction multiplies exactly, rounds after
each of its two additions to nearest even, and takes denormals for zero (Intel's manual, volume 2,
VDPBF16PS). A sum of K products has K roundings, as a float32 sum has, in another order, and what is
lost of denormals is below K * 2^-126 times the largest factor.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from graphopt.ir.core import Op
from graphopt.ops.unary import is_half
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import halves
from graphopt.targets.tvm.kernels import conv, conv_schedule, matmul, words
from graphopt.targets.tvm.region import Region, static


def fits(op: Op, machine: Machine) -> bool:
    """Whether an op's operands are stored for it."""
    tag = halves.pairs(op, machine)
    return bool(tag) and static(op.operand(1)).layout == tag and is_half(op.operand(1))


def convolution(region: Region, op: Op) -> Any:
    """The scheduled function of a convolution and its epilogue."""
    s = conv.shape(op)
    sums, k, of = words.convolution(region, op, s, words.HALVES, tirx.const(0, "int32"))
    bias = op.operands[2]

    def read(index: Any) -> Any:
        value = sums(index)
        return value if bias is None else value + region.at(bias, [index[1]])

    region.bind(op.result, read)
    return words.contract(conv_schedule.apply(region, of, k), words.HALVES)


def product(region: Region, op: Op) -> Any:
    """The scheduled function of a product and its epilogue."""
    return words.product(region, op, matmul.shape(op), words.HALVES)
