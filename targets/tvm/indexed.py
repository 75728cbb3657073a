# pyright: basic
# TVM ships no types.
"""Where result element `index` of the kinds with index operands comes from.

An index that the model computes is wrapped if negative, and kept in range: numpy would raise, a
kernel must not read beyond its operand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tvm import tirx

from graphopt.ir.core import Op, Value
from graphopt.targets.tvm import expr

if TYPE_CHECKING:
    from graphopt.targets.tvm.region import Region

Expr = Any
Index = Sequence[Expr]
Rule = Callable[["Region", Op, Value, Index], Expr]


def i32(value: int) -> Expr:
    """An int32 constant."""
    return tirx.const(value, "int32")


def shape_of(value: Value | None) -> tuple[int, ...]:
    """An operand's shape."""
    assert value is not None and value.tensor.static is not None
    return value.tensor.static


def wrapped(found: Expr, size: int) -> Expr:
    """A computed index as int32 in [0, size)."""
    at = tirx.Cast("int32", found) if expr.of(found) != "int32" else found
    if isinstance(at, tirx.IntImm):
        return i32(int(at.value) % size)
    at = tirx.Select(at < i32(0), at + i32(size), at)
    return tirx.max(tirx.min(at, i32(size - 1)), i32(0))


def gather(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """The indices' element replaces the axis."""
    kind: Any = op.kind
    x, indices = op.operand(0), op.operand(1)
    shape, rank = shape_of(x), len(shape_of(indices))
    axis = kind.axis % len(shape)
    found = r.eager(lambda: r.at(indices, index[axis : axis + rank]))
    return r.at(x, [*index[:axis], wrapped(found, shape[axis]), *index[axis + rank :]])


def gather_elements(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """The indices' element at the same place replaces one index."""
    kind: Any = op.kind
    x = op.operand(0)
    axis = kind.axis % len(index)
    found = r.eager(lambda: r.at(op.operand(1), index))
    return r.at(x, [*index[:axis], wrapped(found, shape_of(x)[axis]), *index[axis + 1 :]])


def gather_nd(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """The indices' last axis gives the index after the common axes."""
    kind: Any = op.kind
    x, indices = op.operand(0), op.operand(1)
    shape, batch, (*outer, depth) = shape_of(x), kind.batch_dims, shape_of(indices)
    where, rest = index[: len(outer)], index[len(outer) :]
    found = [r.eager(lambda d=d: r.at(indices, [*where, i32(d)])) for d in range(depth)]
    at = [wrapped(f, shape[batch + d]) for d, f in enumerate(found)]
    return r.at(x, [*index[:batch], *at, *rest])


def one_hot(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """values[1] where the new axis's index is the wrapped one."""
    kind: Any = op.kind
    axis = kind.axis % len(index)
    found = r.at(op.operand(0), [*index[:axis], *index[axis + 1 :]])

    def hot(v: Expr) -> Expr:
        place = tirx.Cast(expr.of(v), index[axis])
        return tirx.any(v == place, v + expr.like(v, kind.depth) == place)

    off, on = (r.at(op.operand(1), [i32(i)]) for i in (0, 1))
    return expr.select(expr.let(found, hot), on, off)


def trilu(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """x on the diagonal `k` and on one side of it, else zero."""
    kind: Any = op.kind
    x, above = r.at(op.operand(0), index), index[-1] - index[-2]
    inside = above >= i32(kind.k) if kind.upper else above <= i32(kind.k)
    return expr.select(inside, x, expr.like(x, 0))


def reverse_sequence(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """Time t below the length comes from length - 1 - t."""
    kind: Any = op.kind
    at, t = list(index), index[kind.time_axis]
    found = r.eager(lambda: r.at(op.operand(1), [index[kind.batch_axis]]))
    length = tirx.Cast("int32", found)
    size = shape_of(op.operand(0))[kind.time_axis]
    source = tirx.Select(t < length, length - i32(1) - t, t)
    at[kind.time_axis] = tirx.max(tirx.min(source, i32(size - 1)), i32(0))
    return r.at(op.operand(0), at)


RULES: dict[str, Rule] = {
    "gather": gather,
    "gather_elements": gather_elements,
    "gather_nd": gather_nd,
    "one_hot": one_hot,
    "trilu": trilu,
    "reverse_sequence": reverse_sequence,
}
