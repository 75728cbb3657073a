"""Scaled dot-product attention, taken apart by exporters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from graphopt.ir.core import Op, Value
from graphopt.ops.elementwise import Add
from graphopt.ops.linalg import Attention, MatMul
from graphopt.ops.movement import Transpose
from graphopt.ops.nn import Softmax
from graphopt.passes.fuse.products import product
from graphopt.passes.shapes import rank, same_shape
from graphopt.rewrite import Miss, Rewriter, Rule, made_by, rule, sides


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
    """softmax(q k^T * scale + mask) v -> attention(q, k, v, mask, scale)."""
    softmax = made_by(op.operand(0), Softmax)
    if softmax is None or rank(op.result) < 3:
        return None
    n = rank(softmax[0].result)
    found = _scores(softmax[0].operand(0)) if softmax[1].axis % n == n - 1 else None
    if found is None or rank(found.q) != n or rank(found.kt) != n or rank(op.operand(1)) != n:
        return None
    for inner in reversed((*found.ops, softmax[0])):
        if inner.result.use_count != 1:
            raise Miss(f"the {inner.kind.name} inside has other users")
        rw.absorb(inner)
    keys = _keys(rw, found)
    return rw.make(Attention(found.scale), found.q, keys, op.operand(1), found.mask)


RULES: tuple[Rule[Any], ...] = (attention,)
