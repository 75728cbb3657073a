"""What each kind of op offers. Kinds without a rule work on dense tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from graphopt.ir.core import Op, Value
from graphopt.ir.types import DType
from graphopt.ops.elementwise import Elementwise
from graphopt.ops.quant import Scaled
from graphopt.passes.group import is_constant
from graphopt.passes.layout import convolutions, tags
from graphopt.passes.layout.offer import (
    DENSE,
    Choice,
    Offer,
    dense,
    padded,
    repacked,
    scattered,
    together,
)

WORD = convolutions.WORD
Rule = Callable[[Op, int], Offer]


def offer(op: Op, block: int) -> Offer:
    """What an op that a kernel computes can do, for blocks of `block` channels."""
    if isinstance(op.kind, Elementwise):
        return elementwise(op, block)
    return RULES.get(op.kind.name, _dense)(op, block)


def _dense(op: Op, block: int) -> Offer:
    return dense(op)


def elementwise(op: Op, block: int) -> Offer:
    """Operands with the result's channels are stored as it is; few ones stay dense."""
    if not may_follow(op):
        return dense(op)
    shape = tags.dims(op.result)
    operands, packs, loose = list[int | None](), dict[int, tuple[str, str]](), set[int]()
    for i, v in enumerate(op.operands):
        if v is None or (i and isinstance(op.kind, Scaled)):
            operands.append(None)
            packs |= {i: ("", _parameter_tag(op, v, shape, block))} if v else {}
        elif len(tags.dims(v)) < len(shape):
            operands.append(None)
            packs[i] = ("", _vector_tag(v, len(shape), block))
        else:
            one_for_all = tags.dims(v)[1] == 1 and shape[1] > 1
            operands.append(None if one_for_all else 0)
            loose |= {i} if _one_pixel(v, block) else set()
    choice = Choice(blocked=padded(op.result, block))
    return Offer((choice,), tuple(operands), (0,), packs, frozenset(loose))


def may_follow(op: Op) -> bool:
    """Whether an op of one result works in blocks, as far as its types say."""
    known = all(tags.shape_of(v) is not None for v in op.operands if v)
    return known and len(op.results) == 1 and tags.may_be_blocked(op.result)


def _one_pixel(v: Value, block: int) -> bool:
    """Whether an operand lies in memory alike either way: whole blocks of one pixel each."""
    shape = tags.dims(v)
    return shape[1] % block == 0 and all(d == 1 for d in shape[2:])


def _parameter_tag(op: Op, v: Value, shape: tuple[int, ...], block: int) -> str:
    """Scales and zero points are dense, but padded where the channels are."""
    kind: Any = op.kind
    vector = tags.shape_of(v) not in ((), (1,)) and kind.axis % len(shape) == 1
    return f"A{block}a" if vector and shape[1] % block else ""


def _vector_tag(v: Value, rank: int, block: int) -> str:
    """An operand of fewer axes is dense, but padded where its channels don't fill blocks."""
    shape = tags.dims(v)
    axis = len(shape) - (rank - 1)  # where the channels are; absent below 0
    if axis < 0 or shape[axis] == 1 or shape[axis] % block == 0:
        return ""
    letter = tags.LETTERS[axis]
    return f"{tags.LETTERS[: len(shape)].replace(letter, letter.upper())}{block}{letter}"


def windows(op: Op, block: int) -> Offer:
    """Pools work in blocks: dense tensors are repacked inside."""
    if not may_follow(op):
        return dense(op)
    read = Choice(repacked(op.operand(0), block))
    written = Choice(scattered(op.result, block), padded(op.result, block))
    return Offer((read, written), (0,), (1,))


def responses(op: Op, block: int) -> Offer:
    """lrn is slower on dense tensors."""
    if not may_follow(op):
        return dense(op)
    return together(op, Choice(repacked(op.operand(0), block), padded(op.result, block)))


def resizes(op: Op, block: int) -> Offer:
    """Either layout, the same for operand and result."""
    return together(op, Choice(blocked=padded(op.result, block))) if may_follow(op) else dense(op)


def scaling(op: Op, block: int) -> Offer:
    """batch_norm by itself: its parameters are dense, so blocks must be whole."""
    shape = tags.shape_of(op.operand(0))
    whole = may_follow(op) and shape is not None and shape[1] % block == 0
    return together(op, Choice()) if whole else dense(op)


def excitation(op: Op, block: int) -> Offer:
    """Weights in panels; the gate is stored as x is, so that partial blocks meet theirs."""
    if not may_follow(op):
        return dense(op)
    panel = f"Ab{tags.LETTERS[2 : len(tags.dims(op.operand(0)))]}{block}a"
    packs = {1: (panel, panel), 2: (panel, panel)}
    for i in (3, 4):
        v = op.operands[i]
        if v is not None and tags.dims(v)[0] % block:
            packs[i] = (f"A{block}a", f"A{block}a")
    made = together(op, Choice())
    return Offer(made.choices, made.operands, made.results, packs)


def range_of(op: Op, block: int) -> Offer:
    """dynamic_quantize: its scale and zero point are scalars."""
    if not tags.may_be_blocked(op.operand(0)):
        return dense(op)
    return Offer((Choice(), DENSE), (0,), (0, 1, 1))


def reduction(op: Op, block: int) -> Offer:
    """Over all pixels: reads either layout, and writes its few results in either."""
    kind: Any = op.kind
    rank = len(tags.shape_of(op.operand(0)) or ())
    spatial = sorted(a % rank for a in kind.axes) == list(range(2, rank)) if rank else False
    if not spatial or not tags.may_be_blocked(op.operand(0)):
        return dense(op)
    written = _port(op.result) if kind.keepdims else DENSE
    return Offer((Choice(), written), (0,), (1,))


def phases(op: Op, block: int) -> Offer:
    """depth_to_space of channels that lie together: by words of 32 bits, in blocks alike."""
    kind: Any = op.kind
    if kind.mode != "DCR" or not may_follow(op) or not tags.may_be_blocked(op.operand(0)):
        return movement(op, block)
    word = 32 // op.result.tensor.dtype.bits
    if not word or tags.dims(op.result)[1] % word:
        return movement(op, block)
    return together(op, Choice(repacked(op.result, block), padded(op.result, block)))


def _port(value: Value | None, block: int = 0) -> Choice:
    """Either layout, dense if nothing speaks for blocks."""
    if not tags.may_be_blocked(value):
        return DENSE
    return Choice(blocked=1 + (padded(value, block) if value and block else 0))


def movement(op: Op, block: int) -> Offer:
    """Elements are fetched one by one: each operand and result is stored in either layout."""
    results = [_port(v, block) for v in op.results]
    operands = [_port(v) for v in op.operands]
    first = len(operands)
    numbers = tuple(range(first + len(results)))
    return Offer((*operands, *results), numbers[:first], numbers[first:])


def concatenation(op: Op, block: int) -> Offer:
    """A movement, but that it costs nothing where the parts are made in place.

    So they are if all are stored alike, one after the other: dense, or in whole blocks.
    """
    kind: Any = op.kind
    shapes = [tags.shape_of(v) for v in op.operands]
    shape = tags.shape_of(op.result)
    found = movement(op, block)
    if shape is None or any(s is None for s in shapes):
        return found
    axis = kind.axis % len(shape)
    if math.prod(shape[:axis]) > 1 or _moved_on(op.result):
        return found
    whole = axis != 1 or all(s is not None and s[1] % block == 0 for s in shapes[:-1])
    choices = found.choices if whole else (*found.choices, DENSE)
    return Offer(choices, found.operands, found.results, mixed=2 * tags.nbytes(op.result))


def _moved_on(value: Value) -> bool:
    """Whether the only user of a value moves its elements anyway, in the same kernel."""
    return value.use_count == 1 and value.uses[0].op.kind.name in MOVED


def product(op: Op, block: int) -> Offer:
    """Dense; a constant right-hand matrix is packed in panels of eight columns or more."""
    kind: Any = op.kind
    block = max(block, 8)
    b = op.operand(1)
    shape = tags.shape_of(b)
    if shape is None or len(shape) != 2 or not is_constant(b):
        return dense(op)
    if op.kind.name == "matmul_integer":
        words = b.tensor.dtype is DType.i8
        return dense(op, {1: f"BA{block}b{WORD}a"} if words else None)
    transposed = op.kind.name == "gemm" and kind.trans_b
    return dense(op, {1: f"Ab{block}a" if transposed else f"Ba{block}b"})


def scan(op: Op, block: int) -> Offer:
    """A recurrence's weights are packed in vectors of units, which have to fill them."""
    units = (op.operand(1).tensor.static or (0, 1))[1]
    width = math.gcd(block, units)
    return dense(op, {1: f"Bca{width}b" if width > 1 else "bca"})


MOVED = frozenset({"transpose", "reshape", "split", "slice", "pad", "concat"})
RULES: dict[str, Rule] = {
    "conv": convolutions.convolution,
    "conv_transpose": convolutions.convolution,
    "conv_winograd": convolutions.minimal_filtering,
    "conv_integer": convolutions.integers,
    "max_pool": windows, "avg_pool": windows,
    "lrn": responses,
    "resize": resizes,
    "batch_norm": scaling,
    "squeeze_excite": excitation,
    "dynamic_quantize": range_of,
    "reduce_sum": reduction, "reduce_mean": reduction,
    "reduce_max": reduction, "reduce_min": reduction,
    "concat": concatenation,
    "transpose": movement, "split": movement, "slice": movement, "pad": movement,
    "depth_to_space": phases,
    "matmul": product, "matmul_integer": product, "gemm": product,
    "lstm_scan": scan, "gru_scan": scan,
}  # fmt: skip
