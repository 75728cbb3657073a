"""One form for what can be said in several ways, so that later rules have one to look for."""

from __future__ import annotations

from typing import Any

from graphopt.ir.core import Op, Value
from graphopt.ops.elementwise import (
    Add,
    Binary,
    Clip,
    Div,
    Max,
    Min,
    Mul,
    Neg,
    Pow,
    Reciprocal,
    Relu,
    Sub,
    Where,
)
from graphopt.ops.movement import Expand, Reshape, Squeeze, Unsqueeze
from graphopt.ops.reduce import Reduce, reduced
from graphopt.ops.shapes import broadcast
from graphopt.passes.simplify.identities import uniform
from graphopt.rewrite import Rewriter, Rule, made_by, only_use, rule, sides


@rule(Pow)
def square(rw: Rewriter, op: Op, kind: Pow) -> Value | None:
    """x ^ 2 -> x * x (ONNX Runtime computes it so)."""
    x, number = op.operand(0), uniform(op.operand(1))
    if number is None or number != 2 or op.result.type != x.type:
        return None
    return rw.make(Mul(), x, x)


@rule(Div)
def one_over(rw: Rewriter, op: Op, kind: Div) -> Value | None:
    """1 / x -> reciprocal(x), for floats."""
    x, number = op.operand(1), uniform(op.operand(0))
    if number is None or number != 1 or op.result.type != x.type or not x.tensor.dtype.is_float:
        return None
    return rw.make(Reciprocal(), x)


@rule(Mul)
def minus_one(rw: Rewriter, op: Op, kind: Mul) -> Value | None:
    """x * -1 -> -x."""
    for x, c in sides(op):
        number = uniform(c)
        if number is not None and number == -1 and op.result.type == x.type:
            return rw.make(Neg(), x)
    return None


@rule(Add)
def add_negative(rw: Rewriter, op: Op, kind: Add) -> Value | None:
    """x + (-y) -> x - y."""
    for x, n in sides(op):
        negated = made_by(n, Neg)
        if negated and n.use_count == 1:
            rw.absorb(negated[0])
            return rw.make(Sub(), x, negated[0].operand(0))
    return None


@rule(Sub)
def subtract_negative(rw: Rewriter, op: Op, kind: Sub) -> Value | None:
    """x - (-y) -> x + y."""
    negated = made_by(op.operand(1), Neg)
    if negated is None or op.operand(1).use_count != 1:
        return None
    rw.absorb(negated[0])
    return rw.make(Add(), op.operand(0), negated[0].operand(0))


def _bound(op: Op) -> tuple[Value, float | int] | None:
    """The operand and the constant of a min or max that is a clip."""
    for x, c in sides(op):
        number = uniform(c)
        if number is not None and number == number and op.result.type == x.type:
            return x, number.item()
    return None


@rule(Max)
def max_to_clip(rw: Rewriter, op: Op, kind: Max) -> Value | None:
    """max(x, 0) -> relu(x), max(x, c) -> clip(x, lo=c)."""
    found = _bound(op)
    if found is None:
        return None
    relu = found[1] == 0 and found[0].tensor.dtype.is_float
    return rw.make(Relu() if relu else Clip(lo=found[1]), found[0])


@rule(Min)
def min_to_clip(rw: Rewriter, op: Op, kind: Min) -> Value | None:
    """min(x, c) -> clip(x, hi=c)."""
    found = _bound(op)
    return rw.make(Clip(hi=found[1]), found[0]) if found else None


def _unexpanded(rw: Rewriter, op: Op, first: int) -> Value | None:
    operands = list(op.operands)
    for i, v in enumerate(operands[first:], first):
        found = made_by(v, Expand)
        if not found:
            continue
        trial = [*operands[:i], found[0].operands[0], *operands[i + 1 :]]
        shapes = [t.tensor.shape for t in trial if t]
        if broadcast(*shapes) == op.result.tensor.shape:
            return rw.make(op.kind, *trial)
    return None


@rule(Binary)
def expand_in_binary(rw: Rewriter, op: Op, kind: Binary) -> Value | None:
    """f(expand(x), y) -> f(x, y), where y broadcasts x to the same shape."""
    return _unexpanded(rw, op, 0)


@rule(Where)
def expand_in_where(rw: Rewriter, op: Op, kind: Where) -> Value | None:
    """where(c, expand(x), y) -> where(c, x, y), where the others broadcast x to the same shape."""
    return _unexpanded(rw, op, 0)


def _with_keepdims(rw: Rewriter, op: Op, keepdims: bool) -> Value | None:
    inner = made_by(op.operand(0), Reduce)
    if inner is None or inner[1].keepdims is keepdims or not inner[1].axes:
        return None
    have = inner[0].operand(0).tensor.shape
    if have is None or reduced(have, inner[1].axes, keepdims) != op.result.tensor.shape:
        return None
    only_use(op.operand(0))
    rw.absorb(inner[0])
    changed: Any = type(inner[1])
    return rw.make(changed(axes=inner[1].axes, keepdims=keepdims), inner[0].operand(0))


@rule(Squeeze)
def squeeze_reduced(rw: Rewriter, op: Op, kind: Squeeze) -> Value | None:
    """squeeze(reduce(x, keepdims)) -> reduce(x)."""
    return _with_keepdims(rw, op, False)


@rule(Unsqueeze)
def unsqueeze_reduced(rw: Rewriter, op: Op, kind: Unsqueeze) -> Value | None:
    """unsqueeze(reduce(x)) -> reduce(x, keepdims)."""
    return _with_keepdims(rw, op, True)


@rule(Reshape)
def reshape_reduced(rw: Rewriter, op: Op, kind: Reshape) -> Value | None:
    """reshape(reduce(x)) that adds or drops the reduced axes -> reduce(x)."""
    return _with_keepdims(rw, op, False) or _with_keepdims(rw, op, True)


RULES: tuple[Rule[Any], ...] = (
    square, one_over, minus_one, add_negative, subtract_negative, max_to_clip, min_to_clip,
    expand_in_binary, expand_in_where, squeeze_reduced, unsqueeze_reduced, reshape_reduced,
)  # fmt: skip
