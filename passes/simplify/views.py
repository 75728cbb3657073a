"""Reshape, squeeze, unsqueeze: other names for the same dense memory."""

from __future__ import annotations

from typing import Any

from graphopt.ir.core import Op, Value
from graphopt.ir.types import UNKNOWN, Dim, TensorType, mul, same
from graphopt.ops.movement import Expand, Reshape, Squeeze, Transpose, Unsqueeze
from graphopt.passes.shapes import same_shape, view
from graphopt.rewrite import Rewriter, Rule, made_by, rule

View = Reshape | Squeeze | Unsqueeze


def _source(value: Value) -> Value | None:
    """What a value made by a view is a view of."""
    op = value.op
    return op.operand(0) if op and isinstance(op.kind, View) else None


def _view_of_view(rw: Rewriter, op: Op) -> Value | None:
    source = _source(op.operand(0))
    return view(rw, source, op.result.tensor.shape) if source else None


@rule(Reshape)
def reshape_same(rw: Rewriter, op: Op, kind: Reshape) -> Value | None:
    """reshape(x) to its own shape -> x."""
    kept = all(d == 0 for d in kind.shape) and len(kind.shape) == op.operand(0).tensor.rank
    return op.operand(0) if kept or same_shape(op.result, op.operand(0)) else None


@rule(Reshape)
def reshape_view(rw: Rewriter, op: Op, kind: Reshape) -> Value | None:
    """reshape(view(x)) -> reshape(x), or x where the shape is its own."""
    return _view_of_view(rw, op)


@rule(Squeeze)
def squeeze_view(rw: Rewriter, op: Op, kind: Squeeze) -> Value | None:
    """squeeze(view(x)) -> reshape(x), or x where the shape is its own."""
    return _view_of_view(rw, op) if kind.axes else op.operand(0)


@rule(Unsqueeze)
def unsqueeze_view(rw: Rewriter, op: Op, kind: Unsqueeze) -> Value | None:
    """unsqueeze(view(x)) -> reshape(x), or x where the shape is its own."""
    return _view_of_view(rw, op) if kind.axes else op.operand(0)


@rule(Transpose)
def transpose_of_ones(rw: Rewriter, op: Op, kind: Transpose) -> Value | None:
    """transpose(x) that moves axes of size 1 only -> reshape(x)."""
    shape = op.operand(0).tensor.shape
    if shape is None:
        return None
    moved = [p for p in kind.perm if not _one(shape[p])]
    return view(rw, op.operand(0), op.result.tensor.shape) if moved == sorted(moved) else None


def _one(d: Dim) -> bool:
    return isinstance(d, int) and d == 1


@rule(Expand)
def expand_ones(rw: Rewriter, op: Op, kind: Expand) -> Value | None:
    """expand(x) that only adds axes of size 1 -> reshape(x)."""
    have, want = op.operand(0).tensor.shape, op.result.tensor.shape
    if have is None or want is None or len(have) == len(want):
        return None
    extra = len(want) - len(have)
    if any(not _one(d) for d in want[:extra]) or tuple(want[extra:]) != tuple(have):
        return None
    return view(rw, op.operand(0), want)


@rule(Expand)
def expand_twice(rw: Rewriter, op: Op, kind: Expand) -> Value | None:
    """expand(expand(x, s), t) -> expand(x, s and t broadcast)."""
    inner = made_by(op.operand(0), Expand)
    if inner is None:
        return None
    rank = max(len(inner[1].shape), len(kind.shape))
    a, b = ((1,) * (rank - len(s)) + s for s in (inner[1].shape, kind.shape))
    sizes = tuple(q if p == 1 else p for p, q in zip(a, b, strict=True))
    return rw.make(Expand(sizes), inner[0].operand(0))


@rule(Reshape)
def reshape_transposed(rw: Rewriter, op: Op, kind: Reshape) -> Value | None:
    """reshape(transpose(reshape(x))) -> transpose(x), where axes are merged, moved, split."""
    turned = made_by(op.operand(0), Transpose)
    source = _source(turned[0].operand(0)) if turned else None
    if turned is None or source is None or op.operand(0).use_count != 1:
        return None
    shape = source.tensor.shape
    groups = _groups(shape, turned[0].operand(0).tensor.shape)
    if groups is None or shape is None:
        return None
    perm = tuple(axis for p in turned[1].perm for axis in groups[p])
    want = TensorType(op.result.tensor.dtype, tuple(shape[axis] for axis in perm))
    if want != op.result.type or UNKNOWN in (want.shape or ()):
        return None
    rw.absorb(turned[0])
    return rw.make(Transpose(perm), source)


def _groups(
    have: tuple[Dim, ...] | None, merged: tuple[Dim, ...] | None
) -> list[tuple[int, ...]] | None:
    """The axes of `have` that make up each axis of `merged`; None where they don't."""
    if have is None or merged is None:
        return None
    groups, at = list[tuple[int, ...]](), 0
    for size in merged:
        start, total = at, have[at] if at < len(have) else UNKNOWN
        while total != size and at + 1 < len(have):
            at += 1
            total = mul(total, have[at])
        if not same(total, size):
            return None
        at += 1
        groups.append(tuple(range(start, at)))
    return groups if at == len(have) else None


RULES: tuple[Rule[Any], ...] = (
    reshape_same, reshape_view, squeeze_view, unsqueeze_view, transpose_of_ones, expand_ones,
    expand_twice, reshape_transposed,
)  # fmt: skip
