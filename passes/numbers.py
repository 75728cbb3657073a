"""What is known of small integer tensors (shapes, mostly) before the model runs.

A fact is a numpy array of objects: Python ints, bools, or dimensions (`Sym`). So the movement kinds
evaluate on it as they are, and `shape -> gather -> mul -> concat` is followed symbolically.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Op, Value
from graphopt.ir.types import UNKNOWN, Array, Dim, Sym, TensorType, add, floordiv, mul, same
from graphopt.ops import elementwise as ew
from graphopt.ops import movement as mv
from graphopt.ops import reduce
from graphopt.rewrite import const

LIMIT = 64  # elements; shapes are shorter

Fact = Array  # of objects: int, bool or Sym


class Unknown(Exception):  # noqa: N818  (it is caught here)
    """Nothing can be said of a value."""


def known(fact: Fact) -> bool:
    """Whether every element is a number."""
    return all(isinstance(d, int) for d in fact.reshape(-1))


class Numbers:
    """Facts by value, computed when asked for and kept. Nothing is ever guessed."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.facts: dict[Value, Fact | None] = {}
        self.unknown: dict[tuple[Value, int], Sym] = {}

    def dims(self, value: Value) -> tuple[Dim, ...] | None:
        """The shape of a value, each unknown dimension under a name of its own (`?3`)."""
        if not isinstance(value.type, TensorType) or value.type.shape is None:
            return None
        return tuple(self._dim(value, i, d) for i, d in enumerate(value.type.shape))

    def _dim(self, value: Value, axis: int, dim: Dim) -> Dim:
        if dim != UNKNOWN:
            return dim
        return self.unknown.setdefault((value, axis), Sym(f"?{len(self.unknown)}"))

    def of(self, value: Value) -> Fact | None:
        """What is known of a value; iterative, because chains can be longer than Python's stack."""
        stack = [value]
        while stack:
            top = stack[-1]
            missing = [] if top in self.facts else self._missing(top)
            if missing:
                stack += missing
                continue
            if top not in self.facts:
                self.facts[top] = self._compute(top)
            stack.pop()
        return self.facts[value]

    def _missing(self, value: Value) -> list[Value]:
        """The operands to look at first."""
        op = value.op
        if op is None or not _small(value) or type(op.kind) not in _MEANINGS:
            return []
        return [v for v in op.operands if v and v not in self.facts]

    def _compute(self, value: Value) -> Fact | None:
        data, op = const(value), value.op
        if op is None or not _small(value):
            return None
        if data is not None:
            return data.numpy().astype(object)
        if type(op.kind) in _SIZES:
            return self._sizes(op)
        if type(op.kind) not in _MEANINGS:
            return None
        found = [v and self.facts[v] for v in op.operands]
        try:
            return np.asarray(_MEANINGS[type(op.kind)](op.kind, *found), object)
        except (Unknown, ValueError, IndexError):
            return None  # an ill-formed index is for the op itself to report

    def _sizes(self, op: Op) -> Fact | None:
        """Shape and Size look at the type of their operand, not at its numbers."""
        dims = self.dims(op.operands[0]) if op.operands and op.operands[0] else None
        if dims is None:
            return None
        if isinstance(op.kind, mv.Shape):
            return _objects(dims[op.kind.start : op.kind.end])
        if isinstance(op.kind, Opaque) and (op.kind.domain, op.kind.op_type) == ("", "Size"):
            return np.asarray(_product(dims), object)
        return None


def _small(value: Value) -> bool:
    type_ = value.type
    if not isinstance(type_, TensorType) or type_.size is None or type_.size > LIMIT:
        return False
    return type_.dtype.name in ("i64", "i32", "bool_")


def _objects(dims: tuple[Dim, ...]) -> Fact:
    fact = np.empty(len(dims), object)
    fact[:] = dims
    return fact


def _product(dims: tuple[Dim, ...]) -> Dim:
    total: Dim = 1
    for d in dims:
        total = mul(total, d)
    return total


def _moved(kind: Any, *facts: Fact | None) -> Fact:
    """Movement kinds evaluate on objects as on numbers."""
    if any(f is None for f in facts):
        raise Unknown
    return kind.evaluate(*facts)[0]


def _gather(kind: mv.Gather, x: Fact | None, at: Fact | None) -> Fact:
    if x is None or at is None or not known(at):
        raise Unknown
    return np.asarray(np.take(x, at.astype(np.int64), kind.axis), object)


def _cast(kind: ew.Cast, x: Fact | None) -> Fact:
    if x is None or kind.to.name not in ("i64", "i32"):  # sizes fit both
        raise Unknown
    return x


def _neg(kind: ew.Neg, x: Fact | None) -> Fact:
    return _each(mul, x, np.asarray(-1, object))


def _prod(kind: reduce.ReduceProd, x: Fact | None) -> Fact:
    if x is None or x.ndim != 1:
        raise Unknown
    return np.asarray([_product(tuple(x))] if kind.keepdims else _product(tuple(x)), object)


def _each(fn: Callable[[Dim, Dim], Dim], a: Fact | None, b: Fact | None) -> Fact:
    if a is None or b is None:
        raise Unknown
    left, right = (cast("Any", x) for x in np.broadcast_arrays(a, b))
    out = np.empty(left.shape, object)
    for i in np.ndindex(left.shape):
        out[i] = fn(left[i], right[i])
    return out


def _binary(fn: Callable[[Dim, Dim], Dim]) -> Callable[..., Fact]:
    def meaning(kind: Any, a: Fact | None, b: Fact | None) -> Fact:
        return _each(fn, a, b)

    return meaning


def _positive(d: Dim) -> bool:
    """Whether a dimension's formula can't be negative (sizes themselves never are)."""
    return d >= 0 if isinstance(d, int) else d.mul >= 0 and d.add >= 0


def _divided(a: Dim, b: Dim) -> Dim:
    """Integer division truncates; of what isn't negative, that is flooring."""
    if not isinstance(b, int) or b <= 0 or not _positive(a):
        raise Unknown
    return floordiv(a, b)


def _equal(a: Dim, b: Dim) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if same(a, b):
        return True
    for x, y in ((a, b), (b, a)):
        if isinstance(y, int) and y < 0 and _positive(x):
            return False  # PyTorch's expand compares sizes with -1
    raise Unknown


def _where(kind: ew.Where, cond: Fact | None, a: Fact | None, b: Fact | None) -> Fact:
    if cond is None or a is None or b is None or not known(cond):
        raise Unknown
    return np.where(cond.astype(bool), a, b)


_SIZES = (mv.Shape, Opaque)
_MEANINGS: dict[type[Any], Callable[..., Fact]] = {
    ew.Identity: _moved, mv.Concat: _moved, mv.Slice: _moved, mv.Squeeze: _moved,
    mv.Unsqueeze: _moved, mv.Reshape: _moved, mv.Transpose: _moved, mv.Expand: _moved,
    mv.Tile: _moved, mv.Gather: _gather, ew.Cast: _cast, ew.Neg: _neg, ew.Add: _binary(add),
    ew.Sub: _binary(lambda a, b: add(a, mul(b, -1))), ew.Mul: _binary(mul),
    ew.Div: _binary(_divided), ew.Equal: _binary(_equal), ew.Where: _where,
    reduce.ReduceProd: _prod,
}  # fmt: skip
