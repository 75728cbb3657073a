"""Which integer sums multiply 16-bit numbers, and how weights are laid out for it. No TVM here.

NEON without dot products multiplies s16 by a lane of s16 and adds to int32 (smlal), four products
an instruction: as many as of float32, exact, and from a quarter of the memory. Weights stay s8 in
memory, in blocks of channels as those of float32 are.
"""

from __future__ import annotations

from typing import Any

from graphopt.ir.core import Op
from graphopt.ir.layout import parse_layout
from graphopt.ir.types import DType
from graphopt.targets.machine import Machine
from graphopt.targets.tvm.neon import has_dot, is_neon


def weights(op: Op, machine: Machine) -> str:
    """The layout of an op's weights, if it sums products of 16-bit numbers; else empty."""
    if not is_neon(machine) or has_dot(machine) or op.kind.name not in _TAGS:
        return ""
    if op.operand(0).tensor.dtype is not DType.i8 or op.operand(1).tensor.dtype is not DType.i8:
        return ""
    return _TAGS[op.kind.name](op)


def _convolution(op: Op) -> str:
    """Of a result in blocks, and an operand in blocks or words that groups don't share.

    Channel by channel, too: weights packed for words of columns would be gathered byte by byte.
    """
    kind: Any = op.kind
    w = op.operand(1).tensor
    if w.static is None:
        return ""
    block, inner = block_of(op.result.tensor.layout), block_of(op.operand(0).tensor.layout)
    if block == 1 or inner == 1 or not w.layout:
        return ""
    if kind.group > 1 and w.static[1] == 1:
        return f"Ab{'cdef'[: len(kind.strides)]}{block}a" if kind.group == w.static[0] else ""
    return f"AB{'cdef'[: len(kind.strides)]}{inner}b{block}a"


def _product(op: Op) -> str:
    """Of a matrix that is packed in words."""
    b = op.operand(1).tensor
    blocks = dict(parse_layout(b.layout).blocks) if b.layout else {}
    return f"Ba{blocks[1]}b" if b.rank == 2 and 1 in blocks else ""


def block_of(tag: str) -> int:
    """How many channels an activation's layout keeps together (1: it is dense)."""
    return dict(parse_layout(tag).blocks).get(1, 1) if tag else 1


_TAGS = {"conv_integer": _convolution, "matmul_integer": _product}
