"""Which kernels read operands as bfloat16, and where that is slower than float32. No TVM here.

Where vectors multiply bfloat16 faster than float32 (`Machine.halves`), convolutions and products of
two such operands do (`pairs`). Elsewhere, and for other operands, it is what memory holds:

Making float32 of bfloat16 takes two instructions a vector. They cost nothing where a vector of
weights is used once or a few times and memory is waited for (1.9 times float32's speed for one row,
1.7 for four, of 960 x 3840 weights); a product of many rows converts panels once, and is as fast as
float32. Convolutions would convert in each tile, at 15 to 30 % of the time.
"""

from __future__ import annotations

import math
from typing import Any

from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Op
from graphopt.ir.layout import parse_layout
from graphopt.ops.elementwise import Elementwise
from graphopt.ops.unary import is_half
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import amx

CONVS = {"conv", "conv_transpose"}
SCANS = {"lstm_scan", "gru_scan"}
FEW = 16  # pixels of a result, up to which a convolution waits for its weights
CACHED = 1 << 20  # bytes of a recurrence's weights that stay in the second cache


def reads(op: Op, index: int) -> bool:
    """Whether an op's kernel can read an operand as bfloat16."""
    return not isinstance(op.kind, Opaque) and not op.regions and op.kind.name != "return"


def pairs(op: Op, machine: Machine) -> str:
    """The layout of weights by which an op's kernel multiplies pairs of bfloat16; empty: none.

    The other operand is bfloat16 made float32; so are the weights then, or will be.
    """
    if machine.halves <= 1 or amx.FEATURE in machine.cpu_features:
        return ""
    return _convolution(op, machine.lanes) if op.kind.name == "conv" else amx.pairs(op)


def _convolution(op: Op, block: int) -> str:
    """Of channels in blocks that groups don't share."""
    kind: Any = op.kind
    x, w, y = op.operand(0).tensor, op.operand(1).tensor, op.result.tensor
    letters = "cdef"[: len(kind.strides)]
    if not is_half(op.operand(0)) or w.static is None:
        return ""
    if x.layout != f"aB{letters}{block}b" or y.layout not in ("", x.layout):
        return ""
    outs, ins = w.static[:2]
    if kind.group > 1 and (ins % block or outs // kind.group % block):
        return ""
    return f"AB{letters}{block // 2}b{block}a2b"


def paired(op: Op) -> bool:
    """Whether an op's weights are stored in pairs of bfloat16."""
    tag = op.operand(1).tensor.layout if len(op.operands) > 1 and op.operands[1] else ""
    blocks = parse_layout(tag).blocks if tag else ()
    return len(blocks) > 1 and blocks[-1][1] == 2


def slower(op: Op, index: int) -> str:
    """Why a constant operand of bfloat16 numbers is better stored as float32; else empty."""
    name, shape = op.kind.name, op.operand(index).tensor.static or ()
    if index == 1 and paired(op):
        return ""
    if name in CONVS:
        y = op.result.tensor.static or ()
        points = math.prod(y[:1] + y[2:])
        return f"its {points} pixels take longer than its weights" if points > FEW else ""
    if name in SCANS:
        small = 4 * math.prod(shape) <= CACHED
        return "its weights stay in the cache" if small else ""
    if name in ("matmul", "gemm"):
        return "" if index == 1 else "it is the left side of a product"
    if name == "gather" or isinstance(op.kind, Elementwise):
        return ""
    return "its weights are few"
