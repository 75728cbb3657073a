"""Activations that exporters wrote as several ops, under all their usual spellings."""

from __future__ import annotations

import math
from typing import Any

from graphopt.ir.core import Op, OpKind, Value
from graphopt.ops.elementwise import (
    Add,
    Clip,
    Div,
    Erf,
    Exp,
    Gelu,
    HardSigmoid,
    HardSwish,
    Log,
    Mish,
    Mul,
    Neg,
    Reciprocal,
    Sigmoid,
    Silu,
    Softplus,
    Tanh,
)
from graphopt.passes.fuse.products import Product, close, pair, plus, product
from graphopt.rewrite import Miss, Rewriter, Rule, made_by, rule, scalar, sides


def _unary(rw: Rewriter, op: Op, kind: OpKind, x: Value, inside: list[Op]) -> Value:
    """kind(x) in place of `op` and the ops `inside`, which nothing else may use."""
    for inner in inside:
        if inner.result.use_count != 1:
            raise Miss(f"the {inner.kind.name} inside the {kind.name} has other users")
        rw.absorb(inner)
    if x.type != op.result.type:
        raise Miss(f"a constant broadcasts {x.type} to {op.result.type}")
    return rw.make(kind, x)


def _erf_of(value: Value) -> tuple[Value, list[Op]] | None:
    """x and the ops where value is 1 + erf(x / sqrt(2))."""
    added = plus(value, 1.0)
    erf = made_by(added[1], Erf) if added else None
    if added is None or erf is None:
        return None
    inner = product(erf[0].operand(0))
    dtype = value.tensor.dtype
    if len(inner.factors) != 1 or not close(inner.coefficient, math.sqrt(0.5), dtype):
        return None
    return inner.factors[0], [added[0], erf[0], *inner.ops]


def _gelu(rw: Rewriter, op: Op) -> Value | None:
    found = product(op.result)
    if not close(found.coefficient, 0.5, op.result.tensor.dtype):
        return None
    for x, other in pair(found):
        erf = _erf_of(other)
        if erf and erf[0] is x:
            return _unary(rw, op, Gelu(), x, [*found.ops[1:], *erf[1]])
    return None


def _tanh_of(value: Value, x: Value) -> list[Op] | None:
    """The ops where value is 1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3))."""
    added = plus(value, 1.0)
    tanh = made_by(added[1], Tanh) if added else None
    if added is None or tanh is None:
        return None
    inner, dtype = product(tanh[0].operand(0)), value.tensor.dtype
    if not close(inner.coefficient, math.sqrt(2 / math.pi), dtype):
        return None
    polynomial = _cubic(inner, x)
    return None if polynomial is None else [added[0], tanh[0], *inner.ops, *polynomial]


def _cubic(inner: Product, x: Value) -> list[Op] | None:
    """The ops where the product is (x + 0.044715 * x^3), or x * (1 + 0.044715 * x^2)."""
    if len(inner.factors) == 1:
        total = made_by(inner.factors[0], Add)
        terms = [v for v in total[0].operands if v and v is not x] if total else []
        return _power(total[0], terms[0], x, 3) if total and len(terms) == 1 else None
    for factor, other in pair(inner):
        one = plus(other, 1.0)
        if factor is x and one:
            return _power(one[0], one[1], x, 2)
    return None


def _power(add: Op, value: Value, x: Value, power: int) -> list[Op] | None:
    found = product(value)
    good = found.factors == [x] * power and close(found.coefficient, 0.044715, x.tensor.dtype)
    return [add, *found.ops] if good else None


def _gelu_tanh(rw: Rewriter, op: Op) -> Value | None:
    found = product(op.result)
    if not close(found.coefficient, 0.5, op.result.tensor.dtype):
        return None
    for x, other in pair(found):
        tanh = _tanh_of(other, x)
        if tanh is not None:
            return _unary(rw, op, Gelu("tanh"), x, [*found.ops[1:], *tanh])
    return None


@rule(Mul)
def gelu(rw: Rewriter, op: Op, kind: Mul) -> Value | None:
    """0.5 * x * (1 + erf(x / sqrt(2))) -> gelu(x), the constants anywhere."""
    return _gelu(rw, op)


@rule(Div)
def gelu_divided(rw: Rewriter, op: Op, kind: Div) -> Value | None:
    """x * (1 + erf(x / sqrt(2))) / 2 -> gelu(x)."""
    return _gelu(rw, op)


@rule(Mul)
def gelu_tanh(rw: Rewriter, op: Op, kind: Mul) -> Value | None:
    """0.5 * x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))) -> gelu(x, tanh)."""
    return _gelu_tanh(rw, op)


@rule(Mul)
def silu(rw: Rewriter, op: Op, kind: Mul) -> Value | None:
    """x * sigmoid(a * x) -> silu(x, a)."""
    for x, other in sides(op):
        gate = made_by(other, Sigmoid)
        if gate is None:
            continue
        inner = product(gate[0].operand(0))
        if inner.factors == [x]:
            return _unary(rw, op, Silu(inner.coefficient), x, [gate[0]])
    return None


@rule(Mul)
def hard_swish(rw: Rewriter, op: Op, kind: Mul) -> Value | None:
    """x * hard_sigmoid(x, 1/6, 1/2) -> hard_swish(x)."""
    return _hard_swish(rw, op)


@rule(Div)
def hard_swish_divided(rw: Rewriter, op: Op, kind: Div) -> Value | None:
    """x * clip(x + 3, 0, 6) / 6 -> hard_swish(x)."""
    return _hard_swish(rw, op)


def _hard_swish(rw: Rewriter, op: Op) -> Value | None:
    found, dtype = product(op.result), op.result.tensor.dtype
    for x, other in pair(found):
        gate = made_by(other, HardSigmoid)
        if gate and gate[0].operand(0) is x and close(found.coefficient, 1.0, dtype):
            same = close(gate[1].alpha, 1 / 6, dtype) and close(gate[1].beta, 0.5, dtype)
            return _unary(rw, op, HardSwish(), x, [*found.ops[1:], gate[0]]) if same else None
        clip = made_by(other, Clip)
        if not clip or clip[1] != Clip(0.0, 6.0) or not close(found.coefficient, 1 / 6, dtype):
            continue
        shifted = plus(clip[0].operand(0), 3.0)
        if shifted and shifted[1] is x:
            return _unary(rw, op, HardSwish(), x, [*found.ops[1:], clip[0], shifted[0]])
    return None


@rule(Clip)
def hard_sigmoid(rw: Rewriter, op: Op, kind: Clip) -> Value | None:
    """clip(a * x + b, 0, 1) -> hard_sigmoid(x, a, b)."""
    found = made_by(op.operand(0), Add)
    if found is None or kind != Clip(0.0, 1.0):
        return None
    for scaled, c in sides(found[0]):
        beta, inner = scalar(c), product(scaled)
        if beta is not None and len(inner.factors) == 1 and inner.ops and scaled.use_count == 1:
            x = inner.factors[0]
            return _unary(rw, op, HardSigmoid(inner.coefficient, beta), x, [found[0], *inner.ops])
    return None


@rule(Div)
def hard_sigmoid_divided(rw: Rewriter, op: Op, kind: Div) -> Value | None:
    """clip(x + b, 0, h) / h -> hard_sigmoid(x, 1/h, b/h), b 0 where it is absent."""
    return _hard_sigmoid_scaled(rw, op)


@rule(Mul)
def hard_sigmoid_scaled(rw: Rewriter, op: Op, kind: Mul) -> Value | None:
    """clip(x + b, 0, h) * (1/h) -> hard_sigmoid(x, 1/h, b/h), b 0 where it is absent."""
    return _hard_sigmoid_scaled(rw, op)


def _hard_sigmoid_scaled(rw: Rewriter, op: Op) -> Value | None:
    found = product(op.result)
    clip = made_by(found.factors[0], Clip) if len(found.factors) == 1 else None
    if clip is None or clip[1].lo != 0 or not clip[1].hi:
        return None
    high = clip[1].hi
    if not close(found.coefficient, 1 / high, op.result.tensor.dtype):
        return None
    x, beta, added = _shifted(clip[0].operand(0))
    kind = HardSigmoid(1 / high, beta / high)
    return _unary(rw, op, kind, x, [*found.ops[1:], clip[0], *added])


def _shifted(value: Value) -> tuple[Value, float, list[Op]]:
    """x, b and the op where value is x + b; x is the value and b 0 where it is no such sum."""
    added = made_by(value, Add)
    for x, c in sides(added[0]) if added else ():
        beta = scalar(c)
        if beta is not None and added:
            return x, beta, [added[0]]
    return value, 0.0, []


@rule(Reciprocal)
def sigmoid(rw: Rewriter, op: Op, kind: Reciprocal) -> Value | None:
    """1 / (1 + e^-x) -> sigmoid(x)."""
    found = _logistic(op.operand(0))
    return _unary(rw, op, Sigmoid(), found[0], found[1]) if found else None


def _logistic(value: Value) -> tuple[Value, list[Op]] | None:
    """x and the ops where value is 1 + e^-x."""
    added = plus(value, 1.0)
    power = made_by(added[1], Exp) if added else None
    negated = made_by(power[0].operand(0), Neg) if power else None
    if added is None or power is None or negated is None:
        return None
    return negated[0].operand(0), [added[0], power[0], negated[0]]


@rule(Div)
def over_logistic(rw: Rewriter, op: Op, kind: Div) -> Value | None:
    """a / (1 + e^-x) -> a * sigmoid(x)."""
    found = _logistic(op.operand(1))
    if found is None:
        return None
    for inner in found[1]:
        rw.absorb(inner)
    return rw.make(Mul(), op.operand(0), rw.make(Sigmoid(), found[0]))


@rule(Log)
def softplus(rw: Rewriter, op: Op, kind: Log) -> Value | None:
    """ln(1 + e^x) -> softplus(x)."""
    added = plus(op.operand(0), 1.0)
    power = made_by(added[1], Exp) if added else None
    if added is None or power is None:
        return None
    return _unary(rw, op, Softplus(), power[0].operand(0), [added[0], power[0]])


@rule(Mul)
def mish(rw: Rewriter, op: Op, kind: Mul) -> Value | None:
    """x * tanh(softplus(x)) -> mish(x)."""
    for x, other in sides(op):
        tanh = made_by(other, Tanh)
        plus_ = made_by(tanh[0].operand(0), Softplus) if tanh else None
        if tanh and plus_ and plus_[0].operand(0) is x:
            return _unary(rw, op, Mish(), x, [tanh[0], plus_[0]])
    return None


RULES: tuple[Rule[Any], ...] = (
    gelu, gelu_divided, gelu_tanh, silu, hard_swish, hard_swish_divided, hard_sigmoid,
    hard_sigmoid_divided, hard_sigmoid_scaled, sigmoid, over_logistic, softplus, mish,
)  # fmt: skip
