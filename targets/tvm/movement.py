# pyright: basic
# TVM ships no types.
"""Index maps of the kinds that move elements: where result element `index` comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tvm import tirx

from graphopt.errors import UnsupportedError
from graphopt.ir.core import Op, Value
from graphopt.ops.parts import python_slice
from graphopt.targets.tvm import expr, indexed
from graphopt.targets.tvm.indexed import i32, shape_of

if TYPE_CHECKING:
    from graphopt.targets.tvm.region import Region

Expr = Any
Index = Sequence[Expr]
Rule = Callable[["Region", Op, Value, Index], Expr]


def move(region: Region, op: Op, value: Value, index: Index) -> Expr:
    """The expression of a movement op's result at a logical index.

    Raises:
        UnsupportedError: there is no rule for the kind.
    """
    rule = RULES.get(op.kind.name)
    if rule is None:
        raise UnsupportedError(f"no kernel for {op.kind.name}")
    return rule(region, op, value, index)


def attributes(op: Op) -> Any:
    """An op's kind, whose attributes the rule knows by name."""
    return op.kind


def flat_index(index: Index, shape: Sequence[int]) -> Expr:
    """The row-major position of an index."""
    total: Expr = i32(0)
    for i, d in zip(index, shape, strict=True):
        total = total * i32(d) + i
    return total


def unflat(flat: Expr, shape: Sequence[int]) -> list[Expr]:
    """The index of a row-major position."""
    found: list[Expr] = []
    below = math.prod(shape)
    for d in shape:
        below //= max(d, 1)
        q = tirx.floordiv(flat, i32(below)) if below > 1 else flat
        found.append(tirx.floormod(q, i32(d)) if found else q)
    return found


def groups(a: Sequence[int], b: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Cut two shapes of one size into the smallest runs of equal products: (a0, a1, b0, b1)."""
    found, i, j = list[tuple[int, int, int, int]](), 0, 0
    while i < len(a) or j < len(b):
        i0, j0, left, right = i, j, 1, 1
        if i < len(a):
            left, i = a[i], i + 1
        if j < len(b):
            right, j = b[j], j + 1
        while left != right:
            if (left < right and i < len(a)) or j >= len(b):
                left, i = left * a[i], i + 1
            else:
                right, j = right * b[j], j + 1
        found.append((i0, i, j0, j))
    return found


def reshape(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """The same row-major position, worked out within runs of axes of equal size."""
    x = op.operand(0)
    source, result = shape_of(x), shape_of(value)
    at: list[Expr] = [i32(0)] * len(source)
    for s0, s1, r0, r1 in groups(source, result):
        if s1 - s0 == 1 and r1 - r0 == 1:
            at[s0] = index[r0]
            continue
        flat = r.analyzer.simplify(flat_index(index[r0:r1], result[r0:r1]))
        at[s0:s1] = map(r.analyzer.simplify, unflat(flat, source[s0:s1]))
    return r.at(x, at)


def transpose(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """Result axis i is operand axis perm[i]."""
    at: list[Expr] = [None] * len(index)
    kind: Any = op.kind
    for i, p in enumerate(kind.perm):
        at[p] = index[i]
    return r.at(op.operand(0), at)


def squeeze(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """Zeros at the dropped axes."""
    rank = len(shape_of(op.operand(0)))
    gone = {a % rank for a in attributes(op).axes}
    rest = iter(index)
    return r.at(op.operand(0), [i32(0) if a in gone else next(rest) for a in range(rank)])


def unsqueeze(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """The index without the added axes."""
    added = {a % len(index) for a in attributes(op).axes}
    return r.at(op.operand(0), [i for a, i in enumerate(index) if a not in added])


def expand(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """Zero along the axes of size 1."""
    shape = shape_of(op.operand(0))
    tail = index[len(index) - len(shape) :]
    return r.at(op.operand(0), [i32(0) if d == 1 else i for i, d in zip(tail, shape, strict=True)])


def slice_(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """start + step * i along the sliced axes."""
    at, shape, kind = list(index), shape_of(op.operand(0)), attributes(op)
    for start, end, axis, step in zip(kind.starts, kind.ends, kind.axes, kind.steps, strict=True):
        axis %= len(shape)
        begin = python_slice(shape[axis], start, end, step).start
        at[axis] = at[axis] * i32(step) + i32(begin)
    return r.at(op.operand(0), at)


def split(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """The result's offset added along the axis."""
    at = list(index)
    axis = attributes(op).axis % len(at)
    at[axis] = at[axis] + i32(sum(attributes(op).sizes[: value.index]))
    return r.at(op.operand(0), at)


def concat(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """A choice of the operand by the position along the axis; only that one is read."""
    axis = attributes(op).axis % len(index)
    parts, begin = list[tuple[int, Value]](), 0
    for v in op.operands:
        assert v is not None
        parts.append((begin, v))
        begin += shape_of(v)[axis]

    def read(begin: int, v: Value) -> Expr:
        at = list(index)
        at[axis] = at[axis] - i32(begin)
        return r.branch(lambda: r.at(v, at))

    found = read(*parts[-1])
    for (begin, v), (end, _) in zip(parts[-2::-1], parts[:0:-1], strict=True):
        found = tirx.if_then_else(index[axis] < i32(end), read(begin, v), found)
    return found


def pad(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """The operand where the index falls inside, else the value or a reflected, ... element."""
    x, kind = op.operand(0), attributes(op)
    shape, begins = shape_of(x), kind.pads[: len(index)]
    at = [i - i32(p) if p else i for i, p in zip(index, begins, strict=True)]
    touched = [a for a, d in enumerate(shape) if begins[a] or shape_of(value)[a] != d]
    if kind.mode != "constant":
        return r.at(x, [_wrapped(kind, a, i, shape, touched) for a, i in enumerate(at)])
    ends = kind.pads[len(index) :]
    checks = [c for a in touched for c in _inside(at[a], shape[a], begins[a], ends[a])]
    if not checks:
        return r.at(x, at)
    inner = r.branch(lambda: r.at(x, at))
    return tirx.if_then_else(tirx.all(*checks), inner, expr.like(inner, kind.value))


def _inside(i: Expr, size: int, begin: int, end: int) -> list[Expr]:
    return ([i >= i32(0)] if begin > 0 else []) + ([i < i32(size)] if end > 0 else [])


def _wrapped(kind: Any, axis: int, i: Expr, shape: Sequence[int], touched: list[int]) -> Expr:
    """The index inside a non-constant padding; `shape` is before cropping, which must not occur."""
    if axis not in touched:
        return i
    size = shape[axis]
    if kind.mode == "edge":
        return tirx.max(tirx.min(i, i32(size - 1)), i32(0))
    if kind.mode == "wrap":
        return tirx.floormod(i, i32(size))
    period = max(2 * size - 2, 1)  # reflect: a walk to the end and back
    m = tirx.floormod(i, i32(period))
    return tirx.min(m, i32(period) - m) if size > 1 else i32(0)


def tile(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """The index modulo the size."""
    shape = shape_of(op.operand(0))
    at = [tirx.floormod(i, i32(d)) if n > 1 else i
          for i, d, n in zip(index, shape, attributes(op).repeats, strict=True)]  # fmt: skip
    return r.at(op.operand(0), [r.analyzer.simplify(i) for i in at])


def depth_to_space(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """Row and column parity choose the channel."""
    n, c, h, w = index
    b, depth = attributes(op).block, shape_of(value)[1]
    part = tirx.floormod(h, i32(b)) * i32(b) + tirx.floormod(w, i32(b))
    channel = part * i32(depth) + c if attributes(op).mode == "DCR" else c * i32(b * b) + part
    at = [n, channel, tirx.floordiv(h, i32(b)), tirx.floordiv(w, i32(b))]
    return r.at(op.operand(0), [r.analyzer.simplify(i) for i in at])


def space_to_depth(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """The channel's upper part is the position in the block."""
    n, c, h, w = index
    b, depth = attributes(op).block, shape_of(op.operand(0))[1]
    part = tirx.floordiv(c, i32(depth))
    row, column = tirx.floordiv(part, i32(b)), tirx.floormod(part, i32(b))
    at = [n, tirx.floormod(c, i32(depth)), h * i32(b) + row, w * i32(b) + column]
    return r.at(op.operand(0), [r.analyzer.simplify(i) for i in at])


def reorder(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """The same logical element."""
    return r.at(op.operand(0), index)


def resize(r: Region, op: Op, value: Value, index: Index) -> Expr:
    """One element, or a blend of four."""
    from graphopt.targets.tvm import resize as rule

    return rule.resize(r, op, index)


RULES: dict[str, Rule] = {
    "reshape": reshape,
    "transpose": transpose,
    "squeeze": squeeze,
    "unsqueeze": unsqueeze,
    "expand": expand,
    "slice": slice_,
    "split": split,
    "concat": concat,
    "pad": pad,
    "tile": tile,
    "depth_to_space": depth_to_space,
    "space_to_depth": space_to_depth,
    "reorder": reorder,
    "resize": resize,
    **indexed.RULES,
}
