"""Which kernels read operands as bfloat16, and where that is slower than float32. No TVM here.

Making float32 of bfloat16 takes two instructions a vector. They cost nothing where a vector of
weights is used once or a few times and memory is waited for (1.9 times float32's speed for one row,
1.7 for four, of 960 x 3840 weights); a product of many rows converts panels once, and is as fast as
float32. Convolutions would convert in each tile, at 15 to 30 % of the time.
"""

from __future__ import annotations

import math

from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Op
from graphopt.ops.elementwise import Elementwise

CONVS = {"conv", "conv_transpose"}
SCANS = {"lstm_scan", "gru_scan"}
FEW = 16  # pixels of a result, up to which a convolution waits for its weights
CACHED = 1 << 20  # bytes of a recurrence's weights that stay in the second cache


def reads(op: Op, index: int) -> bool:
    """Whether an op's kernel can read an operand as bfloat16."""
    return not isinstance(op.kind, Opaque) and not op.regions and op.kind.name != "return"


def slower(op: Op, index: int) -> str:
    """Why a constant operand of bfloat16 numbers is better stored as float32; else empty."""
    name, shape = op.kind.name, op.operand(index).tensor.static or ()
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
