"""Arithmetic with constants that is associative but for rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.ir.core import Op, Value
from graphopt.ir.data import Data, size
from graphopt.ir.types import Array
from graphopt.ops.elementwise import Add, Div, Mul, Pow, Reciprocal, Sqrt
from graphopt.ops.linalg import Gemm, MatMul
from graphopt.ops.movement import Transpose
from graphopt.passes.fuse.weights import wide
from graphopt.passes.shapes import same_shape
from graphopt.passes.simplify.identities import uniform
from graphopt.rewrite import Miss, Rewriter, Rule, const, made_by, only_use, rule, scalar, sides


@rule(Add)
def add_positive_zero(rw: Rewriter, op: Op, kind: Add) -> Value | None:
    """x + 0.0 -> x (a zero keeps the sign that the addition would lose)."""
    for x, c in sides(op):
        number = uniform(c)
        if number is not None and number == 0 and same_shape(op.result, x):
            return x
    return None


@rule(Pow)
def square_root(rw: Rewriter, op: Op, kind: Pow) -> Value | None:
    """x ^ 0.5 -> sqrt(x) (they differ in the sign of zero and for -inf)."""
    x = op.operand(0)
    return rw.make(Sqrt(), x) if scalar(op.operand(1)) == 0.5 and x.type == op.result.type else None


@rule(Mul)
def multiply_reciprocal(rw: Rewriter, op: Op, kind: Mul) -> Value | None:
    """x * (1 / y) -> x / y."""
    for x, r in sides(op):
        inverse = made_by(r, Reciprocal)
        if inverse and r.use_count == 1:
            rw.absorb(inverse[0])
            return rw.make(Div(), x, inverse[0].operand(0))
    return None


def _constant_side(op: Op) -> tuple[Value, Value, Data] | None:
    """x, c and the data of c where the op has one constant operand of floats."""
    for x, c in sides(op):
        data = const(c)
        if data is not None and data.dtype.is_float and const(x) is None:
            return x, c, data
    return None


def _together(rw: Rewriter, op: Op, kind: type[Add] | type[Mul]) -> Value | None:
    outer = _constant_side(op)
    if outer is None:
        return None
    inner = made_by(outer[0], kind)
    first = _constant_side(inner[0]) if inner else None
    if inner is None or first is None:
        return None
    only_use(outer[0])
    a, b = first[2], outer[2]
    shape = np.broadcast_shapes(a.shape, b.shape)
    if int(np.prod(shape)) > max(size(a), size(b)):
        raise Miss(f"the constants {a.shape} and {b.shape} together are larger than either")
    rw.absorb(inner[0])
    merge: Callable[[Array, Array], Array] = np.add if kind is Add else np.multiply
    return rw.make(kind(), first[0], rw.computed(a, shape, lambda: merge(wide(a), wide(b))))


@rule(Mul)
def multiply_together(rw: Rewriter, op: Op, kind: Mul) -> Value | None:
    """(x * a) * b -> x * (a*b), a and b constant."""
    return _together(rw, op, Mul)


@rule(Add)
def add_together(rw: Rewriter, op: Op, kind: Add) -> Value | None:
    """(x + a) + b -> x + (a+b), a and b constant."""
    return _together(rw, op, Add)


def _turned(value: Value) -> Value | None:
    found = made_by(value, Transpose)
    return found[0].operand(0) if found and found[1].perm == (1, 0) else None


@rule(Gemm)
def transpose_into_gemm(rw: Rewriter, op: Op, kind: Gemm) -> Value | None:
    """gemm(transpose(a), b) -> gemm(a, b, trans_a), the same for b."""
    a, b = _turned(op.operand(0)), _turned(op.operand(1))
    if a is None and b is None:
        return None
    flipped = Gemm(kind.alpha, kind.beta, kind.trans_a != bool(a), kind.trans_b != bool(b))
    return rw.make(flipped, a or op.operand(0), b or op.operand(1), op.operands[2])


@rule(MatMul)
def matmul_of_transpose(rw: Rewriter, op: Op, kind: MatMul) -> Value | None:
    """matmul(a, transpose(b)) -> gemm(a, b, trans_b), for matrices; the same for a."""
    a, b = _turned(op.operand(0)), _turned(op.operand(1))
    if (a is None and b is None) or {v.tensor.rank for v in op.operands if v} != {2}:
        return None
    if not op.result.tensor.dtype.is_float:
        return None  # ONNX Runtime has no Gemm of integers
    turned = Gemm(trans_a=bool(a), trans_b=bool(b))
    return rw.make(turned, a or op.operand(0), b or op.operand(1))


RULES: tuple[Rule[Any], ...] = (
    add_positive_zero, square_root, multiply_reciprocal, multiply_together, add_together,
    transpose_into_gemm, matmul_of_transpose,
)  # fmt: skip
