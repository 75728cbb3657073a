"""Transposes move down the graph until they meet their inverse and cancel.

A model trained in NHWC and exported to NCHW has a pair of transposes around every layer. Each rule
moves one transpose below one op; `transpose_twice` cancels those that meet. No rule makes more ops
than it removes: the transposes it moves must have no other user.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from graphopt.ir.core import Loc, Op, Value
from graphopt.ir.data import Data, Splat, size
from graphopt.ir.types import Array, same
from graphopt.ops.elementwise import Binary, Unary, Where
from graphopt.ops.movement import Concat, Pad, Reshape, Slice, Split, Transpose
from graphopt.ops.nn import LogSoftmax, Softmax
from graphopt.ops.reduce import Reduce, ReduceMax, ReduceMin
from graphopt.passes.shapes import view
from graphopt.rewrite import Miss, Rewriter, Rule, const, made_by, rule

Perm = tuple[int, ...]


def _inverse(perm: Perm) -> Perm:
    return tuple(int(i) for i in np.argsort(perm))


def _moved(op: Op) -> tuple[Value, Perm, Loc] | None:
    """x, p and the location where the op's operand is transpose(x, p), used nowhere else."""
    inner = made_by(op.operand(0), Transpose)
    if inner is None or op.operand(0).use_count != 1:
        return None
    return inner[0].operand(0), inner[1].perm, inner[0].loc


def _transpose(rw: Rewriter, perm: Perm, x: Value, loc: Loc) -> Value:
    """transpose(x, perm) in place of the result; x takes its name."""
    x.hint = x.hint or rw.at.results[0].hint
    moved = rw.op(Transpose(perm), x)
    moved.loc = loc
    return moved.result


@rule(Unary)
def transpose_below_unary(rw: Rewriter, op: Op, kind: Unary) -> Value | None:
    """f(transpose(x)) -> transpose(f(x)), f element by element."""
    found = _moved(op)
    return _transpose(rw, found[1], rw.make(kind, found[0]), found[2]) if found else None


def _perm_of(values: list[Value]) -> Perm | None:
    """The permutation that all transposed operands share, if one of them has no other user."""
    found = [(v, t[1].perm) for v in values if (t := made_by(v, Transpose))]
    if not found or not any(len({u.op for u in v.uses}) == 1 for v, _ in found):
        return None
    return found[0][1] if all(perm == found[0][1] for _, perm in found) else None


def _untransposed(rw: Rewriter, value: Value, perm: Perm) -> Value:
    """The value before `transpose(_, perm)`: the operand of one, or a constant permuted back."""
    inner = made_by(value, Transpose)
    if inner:
        return inner[0].operand(0)
    data = const(value)
    if data is None:
        raise Miss(f"%{value.hint} is neither transposed nor constant")
    if size(data) == 1 and len(data.shape) <= 1:
        return value
    padded = (1,) * (len(perm) - len(data.shape)) + data.shape
    if len(padded) != len(perm):
        raise Miss(f"%{value.hint} has a higher rank than the transpose")
    back = _inverse(perm)
    shape = tuple(padded[i] for i in back)
    if isinstance(data, Splat):
        return rw.const(Splat(data.dtype, shape, data.value))
    return rw.computed(data, shape, lambda: _permuted(data, padded, back))


def _permuted(data: Data, shape: tuple[int, ...], perm: Perm) -> Array:
    return data.numpy().reshape(shape).transpose(perm)


def _locs(values: list[Value]) -> Loc:
    """Where the transposes among the makers of values come from."""
    loc = Loc()
    for v in values:
        inner = made_by(v, Transpose)
        loc = loc | inner[0].loc if inner else loc
    return loc


def _below(rw: Rewriter, op: Op) -> Value | None:
    values = [v for v in op.operands if v]
    perm = _perm_of(values)
    if perm is None or len(perm) != op.result.tensor.rank:
        return None
    moved = [_untransposed(rw, v, perm) for v in values]
    return _transpose(rw, perm, rw.make(op.kind, *moved), _locs(values))


@rule(Binary)
def transpose_below_binary(rw: Rewriter, op: Op, kind: Binary) -> Value | None:
    """f(transpose(x), transpose(y) or constant) -> transpose(f(x, y))."""
    return _below(rw, op)


@rule(Where)
def transpose_below_where(rw: Rewriter, op: Op, kind: Where) -> Value | None:
    """where(c, transpose(x), transpose(y) or constant) -> transpose(where(c, x, y))."""
    return _below(rw, op)


@rule(Concat)
def transpose_below_concat(rw: Rewriter, op: Op, kind: Concat) -> Value | None:
    """concat(transpose(x), transpose(y), axis) -> transpose(concat(x, y, p[axis]))."""
    values = [v for v in op.operands if v]
    perm = _perm_of(values)
    if perm is None:
        return None
    moved = [_untransposed(rw, v, perm) for v in values]
    if any(v.tensor.rank != len(perm) for v in moved):
        return None
    return _transpose(rw, perm, rw.make(Concat(perm[kind.axis]), *moved), _locs(values))


@rule(Pad)
def transpose_below_pad(rw: Rewriter, op: Op, kind: Pad) -> Value | None:
    """pad(transpose(x, p), w) -> transpose(pad(x, w permuted back), p)."""
    found = _moved(op)
    if found is None:
        return None
    n, back = len(found[1]), _inverse(found[1])
    pads = tuple(kind.pads[half * n + i] for half in (0, 1) for i in back)
    return _transpose(rw, found[1], rw.make(replace(kind, pads=pads), found[0]), found[2])


@rule(Slice)
def transpose_below_slice(rw: Rewriter, op: Op, kind: Slice) -> Value | None:
    """slice(transpose(x, p), axes) -> transpose(slice(x, p[axes]), p)."""
    found = _moved(op)
    if found is None:
        return None
    axes = tuple(found[1][a] for a in kind.axes)
    return _transpose(rw, found[1], rw.make(replace(kind, axes=axes), found[0]), found[2])


@rule(Split)
def transpose_below_split(rw: Rewriter, op: Op, kind: Split) -> tuple[Value, ...] | None:
    """split(transpose(x, p), axis) -> transposes of split(x, p[axis]), if users transpose them."""
    found = _moved(op)
    if found is None:
        return None
    back = _inverse(found[1])
    if not all(u.op.kind == Transpose(back) for r in op.results for u in r.uses):
        return None  # one transpose would become several
    parts = rw.op(Split(found[1][kind.axis], kind.sizes), found[0])
    return tuple(_transpose(rw, found[1], r, found[2]) for r in parts.results)


def _along(rw: Rewriter, op: Op, kind: Softmax | LogSoftmax) -> Value | None:
    found = _moved(op)
    if found is None:
        return None
    moved = rw.make(type(kind)(found[1][kind.axis]), found[0])
    return _transpose(rw, found[1], moved, found[2])


@rule(Softmax)
def transpose_below_softmax(rw: Rewriter, op: Op, kind: Softmax) -> Value | None:
    """softmax(transpose(x, p), axis) -> transpose(softmax(x, p[axis]), p)."""
    return _along(rw, op, kind)


@rule(LogSoftmax)
def transpose_below_log_softmax(rw: Rewriter, op: Op, kind: LogSoftmax) -> Value | None:
    """log_softmax(transpose(x, p), axis) -> transpose(log_softmax(x, p[axis]), p)."""
    return _along(rw, op, kind)


@rule(ReduceMax)
def transpose_below_max(rw: Rewriter, op: Op, kind: ReduceMax) -> Value | None:
    """reduce_max(transpose(x, p), axes) -> transpose(reduce_max(x, p[axes])) of the axes left."""
    return _reduced(rw, op, kind)


@rule(ReduceMin)
def transpose_below_min(rw: Rewriter, op: Op, kind: ReduceMin) -> Value | None:
    """reduce_min(transpose(x, p), axes) -> transpose(reduce_min(x, p[axes])) of the axes left."""
    return _reduced(rw, op, kind)


@rule(Reduce)
def transpose_below_reduce(rw: Rewriter, op: Op, kind: Reduce) -> Value | None:
    """reduce(transpose(x, p), axes) -> transpose(reduce(x, p[axes])), of the axes that are left."""
    return _reduced(rw, op, kind)


def _reduced(rw: Rewriter, op: Op, kind: Reduce) -> Value | None:
    found = _moved(op)
    if found is None:
        return None
    x, perm, loc = found
    axes = tuple(sorted(perm[a] for a in kind.axes))
    changed: Any = type(kind)
    y = rw.make(changed(axes=axes, keepdims=kind.keepdims), x)
    left = perm if kind.keepdims else tuple(p for p in perm if p not in axes)
    order = tuple(sorted(left).index(p) for p in left)
    return y if order == tuple(range(len(order))) else _transpose(rw, order, y, loc)


@rule(Transpose)
def exchange_twice(rw: Rewriter, op: Op, kind: Transpose) -> Value | None:
    """t(reshape(t(x))) -> reshape(x), t exchanges the last two axes and the reshape keeps them."""
    reshape = made_by(op.operand(0), Reshape)
    inner = made_by(reshape[0].operand(0), Transpose) if reshape else None
    if inner is None or not (_exchanges(kind.perm) and _exchanges(inner[1].perm)):
        return None
    outer, kept = op.operand(0).tensor.shape, inner[0].result.tensor.shape
    if outer is None or kept is None:
        return None
    if not all(same(a, b) for a, b in zip(outer[-2:], kept[-2:], strict=True)):
        return None
    return view(rw, inner[0].operand(0), op.result.tensor.shape)


def _exchanges(perm: Perm) -> bool:
    n = len(perm)
    return n > 1 and perm == (*range(n - 2), n - 1, n - 2)


RULES: tuple[Rule[Any], ...] = (
    exchange_twice, transpose_below_unary, transpose_below_binary, transpose_below_where,
    transpose_below_concat, transpose_below_pad, transpose_below_slice, transpose_below_split,
    transpose_below_max, transpose_below_min,
)  # fmt: skip
# These sum, in another order where the axes stand otherwise in memory: so they are for `fuse`.
SUMS: tuple[Rule[Any], ...] = (
    transpose_below_softmax,
    transpose_below_log_softmax,
    transpose_below_reduce,
)
