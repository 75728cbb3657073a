"""Offers of convolutions: which operands and results they take in blocks, and packed weights."""

from __future__ import annotations

import math
from typing import Any

from graphopt.analysis.cost import macs
from graphopt.ir.core import Op
from graphopt.passes.layout import tags
from graphopt.passes.layout.offer import (
    BLOCKED,
    OPS_A_BYTE,
    Choice,
    Offer,
    dense,
    padded,
    repacked,
)

WASTED = 4.0  # times the useful products that a grouped convolution in blocks may compute
WORD = 4  # 8-bit channels that are multiplied at once
FEW = 8  # input channels that a first convolution reads from a dense tensor

Shape = tuple[int, ...]


def convolution(op: Op, block: int) -> Offer:
    """conv and conv_transpose of floats."""
    x, w, y = (tags.shape_of(v) for v in (op.operand(0), op.operand(1), op.result))
    if x is None or w is None or y is None or len(x) not in tags.RANKS:
        return dense(op)
    packed = _weights(op, x, w, block)
    if packed is None:
        return dense(op)
    read = BLOCKED
    if packed[0] != packed[1] and w[1] <= FEW:
        read = Choice(blocked=_of_padding(op, w[1], block))
    return _offer(op, read, _written(op, block), {1: packed, **_bias(op, y[1], block)})


def _weights(op: Op, x: Shape, w: Shape, block: int) -> tuple[str, str] | None:
    """Tags of the weights for a dense and a blocked operand; None: nothing can be in blocks."""
    kind: Any = op.kind
    rest = tags.LETTERS[2 : len(x)]
    vectors, tiles = f"Ab{rest}{block}a", f"AB{rest}{block}b{block}a"
    if op.kind.name == "conv_transpose":
        transposed = f"BA{rest}{block}a{block}b"
        return (transposed, transposed) if kind.group == 1 else None
    if kind.group == 1:
        return vectors, tiles
    if w[1] == 1 and w[0] == kind.group:
        return vectors, vectors
    if w[1] % block or (w[0] // kind.group) % block:
        return None if _wasted(w[0], kind.group, block) > WASTED else (vectors, vectors)
    return tiles, tiles


def _wasted(outs: int, groups: int, block: int) -> float:
    """Products computed in blocks for each useful one: a block computes every group it meets."""
    per = outs // groups
    firsts = range(0, outs, block)
    met = sum((min(f + block, outs) - 1) // per - f // per + 1 for f in firsts)
    return met * block / outs


def channels(op: Op) -> tuple[int, int]:
    """Output channels, and input channels of a group, of a float convolution."""
    shape = op.operand(1).tensor.static or (1, 1, 1)
    outs, ins = shape[1:] if op.kind.name == "conv_winograd" else shape[:2]
    return outs, ins


def points(op: Op) -> int:
    """Products for each pair of channels."""
    result, filters = op.result.tensor.static or (), op.operand(1).tensor.static or ()
    taps = 9 if op.kind.name == "conv_winograd" else math.prod(filters[2:])
    return math.prod(result[:1] + result[2:]) * taps


def _of_padding(op: Op, ins: int, block: int) -> int:
    """What the products with padded lanes cost: sums go over parts of a block that fit `ins`."""
    part = next((p for p in (block, 8, 4) if ins % p == 0), block)
    whole = -(-ins // part) * part
    return 2 * macs(op) * (whole - ins) // ins // OPS_A_BYTE


def _written(op: Op, block: int) -> Choice:
    """A result is blocked, but for few channels, which may be dense."""
    if op.result.tensor.static is not None and op.result.tensor.static[1] >= block:
        return BLOCKED
    return Choice(repacked(op.result, block), padded(op.result, block))


def _bias(op: Op, channels: int, block: int) -> dict[int, tuple[str, str]]:
    """A bias is as long as the blocks are."""
    if op.operands[2] is None or channels % block == 0:
        return {}
    return {2: (f"A{block}a", f"A{block}a")}


def _offer(op: Op, read: Choice, written: Choice, packed: dict[int, tuple[str, str]]) -> Offer:
    operands = (0, *(None for _ in op.operands[1:]))
    return Offer((read, written), operands, (1,), packed)


def minimal_filtering(op: Op, block: int) -> Offer:
    """Operand and result in blocks."""
    filters = f"aBc{block}b"
    outs = (op.operand(1).tensor.static or (0, 0))[1]
    packed = {1: (filters, filters), **_bias(op, outs, block)}
    return _offer(op, BLOCKED, BLOCKED, packed)


def integers(op: Op, block: int) -> Offer:
    """As floats, but that weights and operand are packed in words of four input channels."""
    kind: Any = op.kind
    x, w = tags.shape_of(op.operand(0)), tags.shape_of(op.operand(1))
    if x is None or w is None or len(x) not in tags.RANKS:
        return dense(op)
    rest = tags.LETTERS[2 : len(x)]
    whole = w[1] % block == 0 and (w[0] // kind.group) % block == 0
    if kind.group > 1 and w[1] == 1 and w[0] == kind.group:
        columns = f"Ab{rest[:-1]}{rest[-1].upper()}{block}a{WORD}{rest[-1]}"
        return _offer(op, BLOCKED, BLOCKED, {1: (columns, columns)})
    if kind.group > 1 and not whole:
        return dense(op)
    words = f"AB{rest}{block // WORD}b{block}a{WORD}b"
    if w[1] > WORD:
        return _offer(op, BLOCKED, BLOCKED, {1: (words, words)})
    small = f"aB{rest}{WORD}b"  # of a dense operand: one word of channels
    moved = tags.nbytes(op.operand(0)) + tags.nbytes(op.operand(0), small)
    products = 2 * macs(op) * (block - WORD) // w[1] // OPS_A_BYTE // WORD
    packed = {0: (small, tags.blocked(len(x), block)), 1: (f"AB{rest}{block}a{WORD}b", words)}
    return _offer(op, Choice(moved, products), BLOCKED, packed)
