# pyright: basic
# TVM ships no types.
"""Padded copies of rows in three parts: what lies before a row, the row, what lies after.

    for i: to[4i .. 4i + 3] = inside(row, 4i - left .. , count, border)      count: n, or 0 outside
 -> to[0 .. left - 1] = border; to[left .. left + n - 1] = row; to[left + n ..] = border

Vector by vector it is asked whether all of it is of the row, and half of the instructions are for
the answer (see `rowmath`). Where NEON copies, the row's own words need none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx

from graphopt.targets.tvm import bases
from graphopt.targets.tvm.steps import Copy, OtherError, inlined, stores_of

Expr = Any
INSIDE = "graphopt_inside"
WIDTHS = (16, 8, 4, 2, 1)  # words that are copied together


@dataclass(frozen=True)
class _Row:
    """A row's copy: the buffer and where it begins, words before and of the row, all words.

    What is `known` are variables that the condition and the border read, none of the loop's own.
    """

    buffer: Any
    to: Expr
    source: Any
    first: Expr
    left: int
    count: int
    total: int
    border: Expr
    condition: Expr | None
    known: list[Any]

    def copied(self) -> list[Any]:
        """The copy where the row exists."""
        used = min(self.count, self.total - self.left)

        def moved(at: Expr, width: int) -> Any:
            read = tirx.BufferLoad(self.source, [_ramp(self.first + at, width)])
            return self.store(self.left + at, width, read)

        last = self.left + used
        return [*self.fill(0, self.left), *_parts(used, moved), *self.fill(last, self.total - last)]

    def store(self, at: Expr, width: int, value: Expr) -> Any:
        """A store to the copy."""
        return tirx.BufferStore(self.buffer, value, [_ramp(self.to + at, width)])

    def fill(self, begin: int, count: int) -> list[Any]:
        """Words of the border."""

        def put(at: Expr, width: int) -> Any:
            value = tirx.Broadcast(self.border, width) if width > 1 else self.border
            return self.store(begin + at, width, value)

        return _parts(count, put)


def in_parts(loop: Any) -> Any:
    """A loop that copies a row, in parts; None: it is another loop."""
    try:
        row = _row(loop)
    except OtherError:
        return None
    if row is None:
        return None
    made = bases.sequence(row.copied())
    if row.condition is not None:
        made = tirx.IfThenElse(row.condition, made, bases.sequence(row.fill(0, row.total)))
    return bases.sequence([*row.known, made])


def _row(loop: Any) -> _Row | None:
    if int(loop.kind) != 0 or not bases.is_kind(loop.extent, "IntImm") or int(loop.min) != 0:
        return None
    stores, bound = stores_of(loop.body)
    if len(stores) != 1 or not _named(stores[0].value) or len(stores[0].indices) != 1:
        return None
    (store,) = stores
    values = [inlined(bound, {loop.loop_var: tirx.const(i, "int32")}) for i in (0, 1)]
    turns = [Copy(known, {}) for known in values]
    simplify: Any = tvm.sym.Analyzer().simplify
    (to, after), (at, beyond) = ([simplify(turn(e).base) for turn in turns]
                                 for e in (store.indices[0], store.value.args[1]))  # fmt: skip
    lanes = int(store.indices[0].lanes)
    load, count, border = store.value.args[0].args[0], store.value.args[2], store.value.args[3]
    first, other = (simplify(turn(load.indices[0])) for turn in turns)
    moved = [simplify(after - to), simplify(beyond - at), simplify(other - first)]
    if not all(bases.is_kind(e, "IntImm") for e in (*moved, at)):
        return None
    if [*map(int, moved)] != [lanes, lanes, 0]:
        return None
    held, border = _scalar(count), _scalar(border)
    known = [tirx.Bind(v, values[0][v]) for v in bound]
    condition = None
    if bases.is_kind(held, "Select") and bases.is_kind(held.false_value, "IntImm"):
        condition, held = held.condition, held.true_value
    if not bases.is_kind(held, "IntImm") or int(at) > 0:
        return None
    return _Row(store.buffer, to, load.source, first, -int(at), int(held),
                lanes * int(loop.extent), border, condition, known)  # fmt: skip


def _named(value: Any) -> bool:
    return bases.is_kind(value, "Call") and getattr(value.op, "name", "").endswith(INSIDE)


def _scalar(e: Any) -> Any:
    return e.value if bases.is_kind(e, "Broadcast") else e


def _ramp(base: Expr, width: int) -> Expr:
    return tirx.Ramp(base, 1, width) if width > 1 else base


def _parts(count: int, make: Any) -> list[Any]:
    """`make(at, width)` for words one after another, as many together as there are."""
    found: list[Any] = []
    done = 0
    for width in WIDTHS:
        turns = (count - done) // width
        if turns > 1:
            var = tirx.Var("part", "int32")
            begin, extent = (tirx.const(i, "int32") for i in (0, turns))
            found.append(
                tirx.For(var, begin, extent, tirx.ForKind.SERIAL, make(var * width + done, width))
            )
        elif turns == 1:
            found.append(make(tirx.const(done, "int32"), width))
        done += turns * width
    return found
