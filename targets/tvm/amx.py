"""Which ops run on AMX tiles, and what they want for it. No TVM here.

A tile multiplies up to 16 rows of 16 words (of four 8-bit numbers, or two of bfloat16) by 16 words
of 16 columns. Where fewer than 8 words can be summed at once, vectors are as fast.
"""

from __future__ import annotations

import math
from typing import Any

from graphopt.ir.core import Op, Value
from graphopt.ir.layout import parse_layout
from graphopt.ir.types import DType

FEATURE = "amx_int8"  # as /proc/cpuinfo spells it
BLOCK = 16  # columns of a tile, and channels of a block
WORDS = 16  # that a tile sums at most
FEWEST = 8
PANELS = "BA16b4a"  # the layout of a product's weights
WEIGHTS = "AcdB4b16a4b"  # of a convolution's: the channels of a tap lie together
HALF_WEIGHTS = "AcdB8b16a2b"  # the same of bfloat16


def together(words: int) -> int:
    """Words that are summed at once: as many as divide all; 0 where they are too few."""
    found = next(d for d in range(min(words, WORDS), 0, -1) if words % d == 0)
    return found if found >= FEWEST else 0


def convolves(op: Op) -> bool:
    """Whether a convolution of images can run on tiles, if its weights are laid out for it."""
    if op.kind.name != "conv_integer":
        return False
    types = op.operand(0).tensor.dtype, op.operand(1).tensor.dtype
    return types == (DType.u8, DType.i8) and _blocks(op, 4)


def convolves_halves(op: Op) -> bool:
    """The same of images of bfloat16 made float32; so are the weights then, or will be."""
    return op.kind.name == "conv" and is_half(op.operand(0)) and _blocks(op, 2)


def _blocks(op: Op, per: int) -> bool:
    """Whether a convolution's channels fill tiles by words of `per` numbers."""
    kind: Any = op.kind
    w = op.operand(1).tensor
    outs, ins = (w.static or (1, 0))[:2]
    if kind.group != 1 or w.rank != 4 or outs % BLOCK:
        return False
    blocked = _block(op.operand(0)) == _block(op.result) == BLOCK
    return blocked and together(-(-ins // BLOCK) * BLOCK // per) > 0


def halves(op: Op) -> str:
    """The layout of an op's weights, if tiles multiply both sides as bfloat16; else empty."""
    if convolves_halves(op):
        return HALF_WEIGHTS
    tag = pairs(op)
    return tag if tag and together((op.operand(0).tensor.static or (0,))[-1] // 2) else ""


def pairs(op: Op) -> str:
    """The layout of a product's weights in pairs of bfloat16; empty where it isn't of such.

    The left side is bfloat16 made float32; so are the weights then, or will be.
    """
    kind: Any = op.kind
    if kind.name not in ("matmul", "gemm") or getattr(kind, "trans_a", False):
        return ""
    if (getattr(kind, "alpha", 1.0), getattr(kind, "beta", 1.0)) != (1.0, 1.0):
        return ""
    a, b, y = op.operand(0).tensor, op.operand(1).tensor, op.result.tensor
    if a.layout or y.layout or b.rank != 2 or not is_half(op.operand(0)):
        return ""
    sizes = a.static or (1,)
    if sizes[-1] % 2 or math.prod(sizes[:-1]) < 2:
        return ""
    return "AB16a2b" if getattr(kind, "trans_b", False) else "BA16b2a"


def is_half(value: Value) -> bool:
    """Whether a value is bfloat16 made float32."""
    op = value.op
    return op is not None and op.kind.name == "cast" and op.operand(0).tensor.dtype is DType.bf16


def _block(value: Value) -> int:
    tag = value.tensor.layout
    return dict(parse_layout(tag).blocks).get(1, 1) if tag else 1
