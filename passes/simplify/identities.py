"""Ops that give back their operand."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.core import Op, Value
from graphopt.ir.data import Data, Splat
from graphopt.ops.elementwise import (
    Add,
    And,
    Cast,
    Div,
    Identity,
    Mul,
    Neg,
    Not,
    Or,
    Pow,
    Sub,
    Where,
)
from graphopt.ops.movement import Concat, Expand, Pad, Slice, Split, Tile, Transpose
from graphopt.ops.reduce import Reduce
from graphopt.passes.shapes import same_shape
from graphopt.rewrite import Miss, Rewriter, Rule, const, made_by, rule, sides

SEARCHED = 4096  # elements of a constant that are looked at to see whether all are equal


def uniform(value: Value | None) -> Any:
    """The number that a constant holds everywhere; None when it isn't one number."""
    data = const(value)
    if data is None or data.dtype.bits == 0:
        return None
    if isinstance(data, Splat):
        return np.asarray(data.value, data.dtype.numpy)[()]
    return _uniform_array(data)


def _uniform_array(data: Data) -> Any:
    count = int(np.prod(data.shape))
    if not 0 < count <= SEARCHED:
        return None
    flat = data.numpy().reshape(-1)
    return flat[0] if (flat == flat[0]).all() else None


def _kept(op: Op, x: Value) -> Value | None:
    """x, where it already has the op's type (a constant may have broadcast it)."""
    if op.result.type != x.type and not same_shape(op.result, x):
        raise Miss(f"it broadcasts {x.type} to {op.result.type}")
    return x


def _negative_zero(number: Any) -> bool:
    return bool(number == 0) and bool(np.signbit(np.float64(number)))


@rule(Identity)
def identity(rw: Rewriter, op: Op, kind: Identity) -> Value | None:
    """identity(x) -> x."""
    return op.operand(0)


@rule(Add)
def add_zero(rw: Rewriter, op: Op, kind: Add) -> Value | None:
    """x + 0 -> x for integers; for floats x + -0.0 -> x (+0.0 would turn -0.0 into 0.0)."""
    for x, c in sides(op):
        number = uniform(c)
        if number is None or number != 0:
            continue
        if x.tensor.dtype.is_float and not _negative_zero(number):
            continue  # `fuse`, which may change the sign of a zero, does that one
        return _kept(op, x)
    return None


@rule(Sub)
def subtract_zero(rw: Rewriter, op: Op, kind: Sub) -> Value | None:
    """x - 0 -> x (exact for -0.0 too: -0.0 - 0.0 is -0.0)."""
    number = uniform(op.operand(1))
    if number is None or number != 0 or _negative_zero(number):
        return None
    return _kept(op, op.operand(0))


@rule(Mul)
def multiply_one(rw: Rewriter, op: Op, kind: Mul) -> Value | None:
    """x * 1 -> x (x * 0 stays: it is NaN for an infinite x)."""
    for x, c in sides(op):
        number = uniform(c)
        if number is not None and number == 1:
            return _kept(op, x)
    return None


@rule(Div)
def divide_one(rw: Rewriter, op: Op, kind: Div) -> Value | None:
    """x / 1 -> x."""
    number = uniform(op.operand(1))
    return _kept(op, op.operand(0)) if number is not None and number == 1 else None


@rule(Pow)
def power_one(rw: Rewriter, op: Op, kind: Pow) -> Value | None:
    """x ^ 1 -> x."""
    number = uniform(op.operand(1))
    return _kept(op, op.operand(0)) if number is not None and number == 1 else None


@rule(Neg)
def negate_twice(rw: Rewriter, op: Op, kind: Neg) -> Value | None:
    """-(-x) -> x."""
    inner = made_by(op.operand(0), Neg)
    return inner[0].operand(0) if inner else None


@rule(Not)
def not_twice(rw: Rewriter, op: Op, kind: Not) -> Value | None:
    """not (not x) -> x."""
    inner = made_by(op.operand(0), Not)
    return inner[0].operand(0) if inner else None


@rule(And)
def and_true(rw: Rewriter, op: Op, kind: And) -> Value | None:
    """x and true -> x."""
    return next((_kept(op, x) for x, c in sides(op) if _is(c, True)), None)


@rule(Or)
def or_false(rw: Rewriter, op: Op, kind: Or) -> Value | None:
    """x or false -> x."""
    return next((_kept(op, x) for x, c in sides(op) if _is(c, False)), None)


def _is(value: Value, want: bool) -> bool:
    number = uniform(value)
    return number is not None and bool(number) is want


@rule(Cast)
def cast_same(rw: Rewriter, op: Op, kind: Cast) -> Value | None:
    """cast(x: t, to t) -> x."""
    return op.operand(0) if op.operand(0).tensor.dtype is kind.to else None


@rule(Where)
def where_constant(rw: Rewriter, op: Op, kind: Where) -> Value | None:
    """where(true, a, b) -> a, where(false, a, b) -> b."""
    number = uniform(op.operand(0))
    return None if number is None else _kept(op, op.operand(1 if number else 2))


@rule(Where)
def where_same(rw: Rewriter, op: Op, kind: Where) -> Value | None:
    """where(c, a, a) -> a."""
    return _kept(op, op.operand(1)) if op.operand(1) is op.operand(2) else None


@rule(Transpose)
def transpose_nothing(rw: Rewriter, op: Op, kind: Transpose) -> Value | None:
    """transpose(x, [0, 1, ...]) -> x."""
    return op.operand(0) if list(kind.perm) == list(range(len(kind.perm))) else None


@rule(Concat)
def concat_one(rw: Rewriter, op: Op, kind: Concat) -> Value | None:
    """concat(x) -> x."""
    return op.operand(0) if len(op.operands) == 1 else None


def _empty(value: Value | None) -> bool:
    shape = value.tensor.static if value else None
    return shape is not None and 0 in shape


@rule(Concat)
def concat_nothing(rw: Rewriter, op: Op, kind: Concat) -> Value | None:
    """concat(x, nothing, y) -> concat(x, y)."""
    left = [v for v in op.operands if not _empty(v)]
    return rw.make(kind, *left) if 0 < len(left) < len(op.operands) else None


@rule(Split)
def split_nothing(rw: Rewriter, op: Op, kind: Split) -> tuple[Value, ...] | None:
    """split(x, [n, 0, m]) -> y, nothing, z, where y, z = split(x, [n, m])."""
    if 0 not in kind.sizes or all(s == 0 for s in kind.sizes):
        return None
    types = [r.tensor for r in op.results]
    if any(t.static is None for t in types if t.shape and t.shape[kind.axis] == 0):
        raise Miss("the other sizes aren't known")
    parts = rw.op(Split(kind.axis, tuple(s for s in kind.sizes if s)), op.operand(0)).results
    left = iter(parts)
    return tuple(next(left) if s else rw.const(Splat(t.dtype, t.static or (), 0))
                 for s, t in zip(kind.sizes, types, strict=True))  # fmt: skip


@rule(Split)
def split_one(rw: Rewriter, op: Op, kind: Split) -> Value | None:
    """split(x) in one part -> x."""
    return op.operand(0) if len(kind.sizes) == 1 else None


@rule(Slice)
def slice_all(rw: Rewriter, op: Op, kind: Slice) -> Value | None:
    """x[:] -> x."""
    forward = all(s == 1 for s in kind.steps)
    whole = all(s == 0 for s in kind.starts) and all(e >= 2**31 - 1 for e in kind.ends)
    if not forward or not (whole or same_shape(op.result, op.operand(0))):
        return None
    return op.operand(0)


@rule(Pad)
def pad_nothing(rw: Rewriter, op: Op, kind: Pad) -> Value | None:
    """pad(x, 0) -> x."""
    return op.operand(0) if not any(kind.pads) else None


@rule(Expand)
def expand_same(rw: Rewriter, op: Op, kind: Expand) -> Value | None:
    """expand(x) to its own shape -> x."""
    ones = all(d == 1 for d in kind.shape) and len(kind.shape) <= (op.operand(0).tensor.rank or 0)
    return op.operand(0) if ones or same_shape(op.result, op.operand(0)) else None


@rule(Tile)
def tile_once(rw: Rewriter, op: Op, kind: Tile) -> Value | None:
    """tile(x, [1, ...]) -> x."""
    return op.operand(0) if all(r == 1 for r in kind.repeats) else None


@rule(Reduce)
def reduce_nothing(rw: Rewriter, op: Op, kind: Reduce) -> Value | None:
    """reduce(x, no axes) -> x, for sum, mean, max, min and prod."""
    if kind.axes:
        return None
    same_number = ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod")
    return op.operand(0) if kind.name in same_number else None


RULES: tuple[Rule[Any], ...] = (
    identity, add_zero, subtract_zero, multiply_one, divide_one, power_one, negate_twice, not_twice,
    and_true, or_false, cast_same, where_constant, where_same, transpose_nothing, concat_one,
    concat_nothing, split_nothing, split_one, slice_all, pad_nothing, expand_same, tile_once,
    reduce_nothing,
)  # fmt: skip
