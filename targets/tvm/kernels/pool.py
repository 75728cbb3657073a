# pyright: basic
# TVM ships no types.
"""Max and average pooling."""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx

from graphopt.ir.core import Op
from graphopt.targets.tvm.kernels import window
from graphopt.targets.tvm.region import Region, shape_of

LOWEST = float("-inf")


def shape(op: Op) -> window.Window:
    """Read the sizes off the op."""
    kind: Any = op.kind
    x = shape_of(op.operand(0))
    return window.Window(x[0], x[1], x[2:], shape_of(op.result)[2:], kind.kernel,
                         kind.strides, kind.pads, kind.dilations)  # fmt: skip


def count(op: Op, s: window.Window, index: Any) -> Any:
    """How many elements a window averages: an int or an int32 expression."""
    kind: Any = op.kind
    if kind.count_include_pad or not any(kind.pads):
        return math.prod(s.kernel)
    total: Any = 1
    for i, size, k, st, pad in zip(index[2:], s.size, s.kernel, s.strides, s.pads, strict=False):
        begin = i * st - pad
        last: Any = tirx.min(begin + k, size)
        total = total * (last - tirx.max(begin, 0))
    return total


def compute(region: Region, op: Op, s: window.Window, k: window.Knobs) -> None:
    """Bind the op's result."""
    largest = op.kind.name == "max_pool"
    combine = window.max_of if largest else window.sum_of
    y, tag = window.compute(region, op, s, k, LOWEST if largest else 0.0, combine,
                            lambda x, at, taps: x)  # fmt: skip

    def read(index: Any) -> Any:
        value = y(*region.physical(tag, index))
        if largest:
            return value
        n = count(op, s, index)
        return value / tirx.Cast("float32", n) if not isinstance(n, int) else value * tirx.const(
            1.0 / n, "float32")  # fmt: skip

    region.bind(op.result, read)


def build(region: Region) -> Any:
    """The scheduled function of a pool and its epilogue."""
    op = region.anchor
    assert op is not None
    s = shape(op)
    knobs = window.choose(s, op, region.machine)
    compute(region, op, s, knobs)
    return window.apply(region, s, knobs)
