"""Scaled dot-product attention, taken apart by exporters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from graphopt.ir.core import Op, Value
from graphopt.ir.data import Data
from graphopt.ir.types import DType
from graphopt.ops.elementwise import Add, Cast
from graphopt.ops.linalg import Attention, Gemm, MatMul
from graphopt.ops.movement import Reshape, Squeeze, Transpose, Unsqueeze
from graphopt.ops.nn import Conv, Softmax
from graphopt.passes.fuse.products import product
from graphopt.passes.fuse.weights import Linear, linear, wide
from graphopt.passes.shapes import rank, same_shape
from graphopt.rewrite import Miss, Rewriter, Rule, const, made_by, rule, sides
from graphopt.rewrite import data as constant


@dataclass
class Scores:
    """scale * q kt [+ mask], and the ops that compute it."""

    q: Value
    kt: Value
    scale: float
    mask: Value | None = None
    ops: list[Op] = field(default_factory=list[Op])


def _scores(value: Value) -> Scores | None:
    """Read the operand of the softmax."""
    added = made_by(value, Add)
    if added is None:
        return _scaled(value)
    for term, mask in sides(added[0]):
        found = _scaled(term)
        if found:
            if not same_shape(value, term):
                raise Miss("the mask broadcasts the scores")
            found.mask = mask
            found.ops.append(added[0])
            return found
    return None


def _scaled(value: Value) -> Scores | None:
    """Read scale * (q * c) (kt * d)."""
    outer = product(value)
    matmul = made_by(outer.factors[0], MatMul) if len(outer.factors) == 1 else None
    if matmul is None:
        return None
    found = Scores(matmul[0].operand(0), matmul[0].operand(1), outer.coefficient)
    found.ops += [matmul[0], *outer.ops]
    found.q = _unscaled(found, found.q)
    found.kt = _unscaled(found, found.kt)
    return found


def _unscaled(found: Scores, value: Value) -> Value:
    """The factor of a scaled operand; its coefficient goes into the scale."""
    inner = product(value)
    if len(inner.factors) != 1 or inner.factors[0].type != value.type or value.use_count != 1:
        return value
    found.scale *= inner.coefficient
    found.ops += inner.ops
    return inner.factors[0]


def _keys(rw: Rewriter, found: Scores) -> Value:
    """K with its last axes the other way round than in the product."""
    n = rank(found.kt)
    swap = (*range(n - 2), n - 1, n - 2)
    turned = made_by(found.kt, Transpose)
    if turned is None:
        return rw.make(Transpose(swap), found.kt)
    perm = tuple(turned[1].perm[i] for i in swap)
    y = turned[0].operand(0)
    if perm == tuple(range(n)):
        rw.absorb(turned[0])
        return y
    keys = rw.op(Transpose(perm), y)
    keys.loc = turned[0].loc
    return keys.result


@rule(MatMul)
def attention(rw: Rewriter, op: Op, kind: MatMul) -> Value | None:
    """softmax(q k^T * scale + mask) v -> attention(q, k, v, mask, scale).

    The same of weights that are rounded to bfloat16 before v is multiplied by them.
    """
    rounding = _rounding(op.operand(0))
    softmax = made_by(rounding[-1].operand(0) if rounding else op.operand(0), Softmax)
    if softmax is None or rank(op.result) < 3:
        return None
    n = rank(softmax[0].result)
    found = _scores(softmax[0].operand(0)) if softmax[1].axis % n == n - 1 else None
    if found is None or rank(found.q) != n or rank(found.kt) != n or rank(op.operand(1)) != n:
        return None
    for inner in reversed((*found.ops, softmax[0], *reversed(rounding))):
        if inner.result.use_count != 1:
            raise Miss(f"the {inner.kind.name} inside has other users")
        rw.absorb(inner)
    keys = _keys(rw, found)
    made = Attention(found.scale, bool(rounding))
    return rw.make(made, found.q, keys, op.operand(1), found.mask)


def _rounding(value: Value) -> list[Op]:
    """The casts to bfloat16 and back that a value went through, the last first; else none."""
    wide = made_by(value, Cast)
    half = made_by(wide[0].operand(0), Cast) if wide else None
    if not wide or not half or half[1].to is not DType.bf16:
        return []
    same = wide[1].to is half[0].operand(0).tensor.dtype
    return [wide[0], half[0]] if same else []


@rule(Attention)
def scale_into_attention(rw: Rewriter, op: Op, kind: Attention) -> Value | None:
    """attention(q * a, k * b, v, mask, s) -> attention(q, k, v, mask, s*a*b), a and b numbers."""
    found = Scores(op.operand(0), op.operand(1), kind.scale)
    found.q = _unscaled(found, found.q)
    found.kt = _unscaled(found, found.kt)
    if not found.ops:
        return None
    for inner in reversed(found.ops):
        rw.absorb(inner)
    rest = op.operand(2), op.operands[3]
    return rw.make(replace(kind, scale=found.scale), found.q, found.kt, *rest)


@dataclass(frozen=True)
class Projection:
    """A value as the views of linear(x; w, b) + shift; `ops` are all of them, the last first."""

    linear: Linear
    shift: Data | None
    ops: list[Op]

    def scaled(self, rw: Rewriter, by: float) -> Value:
        """The value times a number, which goes into the weights."""
        p, shift = self.linear, self.shift
        w = lambda: p.scaled(wide(p.w), np.full(p.outputs, by))  # noqa: E731
        y = p.rebuild(rw, p.x, w, None if p.b is None else lambda: p.bias() * by)
        for op in reversed(self.ops):
            if op is p.op:
                made = y.op
            elif shift is not None and isinstance(op.kind, Add):
                made = rw.op(Add(), y, rw.computed(shift, shift.shape, lambda: wide(shift) * by))
            else:
                made = rw.op(op.kind, y)
            assert made is not None
            made.loc, y = op.loc, made.result
        return y


MOVES = (Reshape, Squeeze, Unsqueeze, Transpose)


def _projection(value: Value) -> Projection | None:
    """Read a value as a projection of which nothing else uses any part, nor its weights."""
    ops: list[Op] = []
    shift = None
    while (op := value.op) and value.use_count == 1:
        ops.append(op)
        if isinstance(op.kind, Conv | Gemm | MatMul):
            found = linear(value)
            parts = [v for v in op.operands[1:] if v]
            alone = found is not None and all(v.use_count == 1 for v in parts)
            return Projection(found, shift, ops) if found and alone else None
        if isinstance(op.kind, MOVES):
            value = op.operand(0)
            continue
        terms = [(x, c) for x, c in sides(op) if const(c)] if isinstance(op.kind, Add) else []
        if shift is not None or not terms or not same_shape(op.result, terms[0][0]):
            return None
        value, shift = terms[0][0], constant(terms[0][1])
    return None


@rule(Attention)
def scale_into_projection(rw: Rewriter, op: Op, kind: Attention) -> Value | None:
    """attention(view(x w + b), k, v, mask, s) -> attention(view(x sw + sb), k, v, mask, 1).

    The same for k. A view reshapes or transposes.
    """
    operands = list(op.operands)
    for i in (0, 1) if kind.scale != 1 else ():
        found = _projection(op.operand(i))
        if found:
            operands[i] = found.scaled(rw, kind.scale)
            return rw.make(replace(kind, scale=1.0), *operands)
    return None


RULES: tuple[Rule[Any], ...] = (attention, scale_into_attention, scale_into_projection)
