"""Which integer sums multiply eight bytes at once, and how weights are laid out. No TVM here.

NEON with i8mm multiplies two rows of eight s8 by two others (smmla): 32 products an instruction.

NEON without dot products multiplies s8 by s8 to s16 (smull), adds another eight products (smlal),
and adds neighbours to int32 (sadalp): 16 products by three instructions of two pipes. Two products
fit into s16 unless both weights and both operands are -128, so weights must not be -128.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.builtin import Const
from graphopt.ir.core import Op, Value
from graphopt.ir.types import DType
from graphopt.ops.movement import Reorder
from graphopt.targets.machine import Machine
from graphopt.targets.tvm.neon import has_dot, has_squares, is_neon
from graphopt.targets.tvm.shorts import block_of

EIGHT = 8
PANELS = "BA8b8a"  # of a [K, N] matrix
LEAST = -127


def weights(op: Op, machine: Machine) -> str:
    """The layout of an op's weights, if it can multiply eight bytes at once; else empty."""
    tag = layout(op, machine)
    return tag if tag and (has_squares(machine) or _small(op.operand(1))) else ""


def layout(op: Op, machine: Machine) -> str:
    """The same, whatever the numbers are."""
    if not is_neon(machine) or (has_dot(machine) and not has_squares(machine)):
        return ""
    if op.kind.name == "conv_integer" and _types(op) and _convolves(op):
        return "ABcd8a8b"
    if op.kind.name == "matmul_integer" and _types(op) and _multiplies(op):
        return PANELS
    return ""


def _types(op: Op) -> bool:
    return all(op.operand(i).tensor.dtype is DType.i8 for i in (0, 1))


def _convolves(op: Op) -> bool:
    """Whether it is a convolution of images in blocks of eight channels, in one group."""
    kind: Any = op.kind
    x, w, y = op.operand(0).tensor, op.operand(1).tensor, op.result.tensor
    return kind.group == 1 and w.rank == 4 and block_of(x.layout) == block_of(y.layout) == EIGHT


def _multiplies(op: Op) -> bool:
    """Whether it is a product by a matrix, of rows that eights fill."""
    a, b, y = op.operand(0).tensor, op.operand(1).tensor, op.result.tensor
    rows = a.static is not None and len(a.static) > 1 and a.static[-1] % EIGHT == 0
    return rows and b.rank == 2 and bool(b.layout) and not (a.layout or y.layout)


def _small(value: Value) -> bool:
    """Whether no weight is -128."""
    while value.op and isinstance(value.op.kind, Reorder):
        value = value.op.operand(0)
    if not value.op or not isinstance(value.op.kind, Const):
        return False
    numbers = value.op.kind.data.numpy()
    return not numbers.size or int(np.min(numbers)) >= LEAST
