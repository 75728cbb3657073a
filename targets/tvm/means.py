"""A convolution on AMX tiles and the global mean after it, as one kernel computes them. No TVM.

    y[n, c] = mean over the image of act(conv(x, w))[n, c]

Element-wise ops, of any element types, may stand between, and follow. What is between isn't stored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from graphopt.ir.builtin import Const, Return
from graphopt.ir.core import Op, Value
from graphopt.ir.types import DType
from graphopt.ops.elementwise import Elementwise
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import amx
from graphopt.targets.tvm.legal import is_anchor

FAMILY = "tiled_mean"


@dataclass(frozen=True)
class Mean:
    """The convolution, the mean, and the bytes of a weight."""

    conv: Op
    mean: Op
    bytes: int


def mean_of(ops: Iterable[Op]) -> Mean | None:
    """What a region's ops are; None if they aren't such a convolution and the mean of its image."""
    every = [op for op in ops if not isinstance(op.kind, Const | Return)]
    anchors = [op for op in every if is_anchor(op)]
    if len(anchors) != 2 or anchors[1].kind.name != "reduce_mean":
        return None
    conv, mean = anchors
    form, size = amx.integers(conv), 1
    if form is None:
        form, size = amx.convolved_halves(conv), 2
    if form is None or form.tag != conv.operand(1).tensor.layout:
        return None
    at, kind = every.index(conv), mean.kind
    before, after = every[:at], every[at:]
    widened = all(any(v is op.result for v in conv.operands) for op in before)
    axes: Any = getattr(kind, "axes", ())
    if not widened or tuple(axes) != (2, 3) or not _in_line(after, mean):
        return None
    return Mean(conv, mean, size)


def _in_line(ops: list[Op], mean: Op) -> bool:
    """Whether each op reads the one before it, element by element; the mean is of float32."""
    end = ops.index(mean)
    shape = _form(ops[0].result)
    others = all(isinstance(op.kind, Elementwise) for op in (*ops[1:end], *ops[end + 1 :]))
    same = all(_form(op.result) == shape for op in ops[:end])
    reads = all(any(v is a.result for v in b.operands) for a, b in itertools.pairwise(ops))
    floats = all(op.result.tensor.dtype is DType.f32 for op in (ops[end - 1], *ops[end:]))
    return others and same and reads and floats and mean.operand(0) is ops[end - 1].result


def _form(value: Value) -> tuple[object, ...]:
    return value.tensor.shape, value.tensor.layout


def pays(found: Mean, machine: Machine) -> bool:
    """Whether one kernel is sooner done than two: where weights stay in the second cache.

    A task has all rows of an image, so more weights would pass once for each register tile of rows.
    """
    w = found.conv.operand(1).tensor.static or ()
    return not amx.passes_once(found.bytes * math.prod(w), machine)
