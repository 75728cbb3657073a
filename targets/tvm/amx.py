"""Which ops run on AMX tiles, and what they want for it. No TVM here.

A tile multiplies up to 16 rows of 16 words (of four 8-bit numbers, or two of bfloat16) by 16 words
of 16 columns, in the same 16 cycles however few words there are. Products sum as many words at once
as divide all; a convolution's are those of a chunk of its channels (`Form`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from graphopt.ir.core import Op, Value
from graphopt.ir.layout import parse_layout
from graphopt.ir.types import DType
from graphopt.ops.unary import is_half
from graphopt.targets.machine import Machine

FEATURE = "amx_int8"  # as /proc/cpuinfo spells it
BLOCK = 16  # columns of a tile, and channels of a block
WORDS = 16  # that a tile sums at most
FEWEST = 8  # of a product, at once
FEWEST_OF_CONVS = 3  # of a convolution, at once
FEWEST_BYTES = 9  # words of a convolution of bytes in all: vectors are faster with fewer
FEWEST_ROWS = 4  # of an attention
PANELS = "BA16b4a"  # the layout of a product's weights
BYTES, HALVES = 4, 2  # numbers of a word


@dataclass(frozen=True)
class Form:
    """How the channels of a convolution's pixels lie in the rows of tiles.

    Channels are cut into `chunks` of as many words, the last filled with zeros; a row of a tile has
    a chunk of one pixel. Where a line of the window fits into a row, or a half or a third of one
    that has so many parts, it has that.

    Attributes:
        per: numbers of a word.
        words: of a chunk of channels.
        chunks: of a pixel.
        line: the pixels that a row of a tile has: 1, or a divisor of the window's width.
    """

    per: int
    words: int
    chunks: int
    line: int = 1

    @property
    def tag(self) -> str:
        """The layout of the weights: a panel's lie in the order in which they are multiplied."""
        words = f"{self.words}b" if self.words > 1 else ""
        return f"ABcd{words}{BLOCK}a{self.per}b"

    @property
    def sums(self) -> int:
        """Words that are summed at once."""
        return self.words * self.line


def form(op: Op, per: int) -> Form | None:
    """The form of a convolution of words of `per` numbers; None where it has none."""
    kind: Any = op.kind
    w, x = op.operand(1).tensor, op.operand(0)
    if kind.group != 1 or w.static is None or w.rank != 4 or block_of(op.result) != BLOCK:
        return None
    ins, wide, own = w.static[1], w.static[3], block_of(x)
    if own not in (1, per, BLOCK) or (own == per and ins > per):
        return None
    words = -(-ins // own) * own // per if own > 1 else -(-ins // per)
    if own < BLOCK and words * per >= BLOCK:
        return None
    line = max(d for d in range(1, wide + 1) if wide % d == 0 and (d == 1 or d * words <= WORDS))
    if words <= WORDS and (line > 1 or wide == 1) and kind.dilations[-1] == 1:
        found = Form(per, words, 1, line)
    elif own < BLOCK:
        return None
    else:
        chunks = -(-words // WORDS)
        whole = BLOCK // per  # words of a block: no chunk has parts of one
        found = Form(per, -(-words // whole // chunks) * whole, chunks)
    total = words * math.prod(w.static[2:])
    return found if found.sums >= FEWEST_OF_CONVS and (per == 2 or total >= FEWEST_BYTES) else None


def together(words: int) -> int:
    """Words that are summed at once: as many as divide all; 0 where they are too few."""
    found = next(d for d in range(min(words, WORDS), 0, -1) if words % d == 0)
    return found if found >= FEWEST else 0


def integers(op: Op) -> Form | None:
    """How a convolution of u8 by s8 images runs on tiles, if its weights are laid out for it."""
    if op.kind.name != "conv_integer":
        return None
    types = op.operand(0).tensor.dtype, op.operand(1).tensor.dtype
    return form(op, BYTES) if types == (DType.u8, DType.i8) else None


def convolved_halves(op: Op) -> Form | None:
    """The same of images of bfloat16 made float32; so are the weights then, or will be."""
    return form(op, HALVES) if op.kind.name == "conv" and is_half(op.operand(0)) else None


def weights(op: Op) -> str:
    """The layout of weights that tiles multiply by; empty where they don't."""
    found = integers(op) or convolved_halves(op)
    if found:
        return found.tag
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


def attends(op: Op) -> bool:
    """Whether an op is an attention of bfloat16, of rows enough for tiles."""
    kind: Any = op.kind
    if kind.name != "attention" or not kind.rounded:
        return False
    if any(v.tensor.layout or not is_half(v) for v in op.operands[:3] if v):
        return False
    q = op.operand(0).tensor.static
    return not op.result.tensor.layout and q is not None and q[-2] >= FEWEST_ROWS


def block_of(value: Value) -> int:
    """Channels that a value's layout keeps together; 1: it is dense."""
    tag = value.tensor.layout
    return dict(parse_layout(tag).blocks).get(1, 1) if tag else 1


def passes_once(weights: int, machine: Machine) -> bool:
    """Whether weights of some bytes are too many for the second cache."""
    return weights > machine.l2_bytes // 2
