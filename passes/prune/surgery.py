"""Cutting units out of a module: every op on what is left of its operands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from graphopt.analysis.price import stand_in
from graphopt.ir.builtin import Const, Return
from graphopt.ir.core import Graph, Module, Op, Value
from graphopt.ir.data import Computed, Data, Inline
from graphopt.ir.types import Array, TensorType
from graphopt.passes.prune.groups import Groups
from graphopt.passes.prune.shrink import Cut, Places, Shrunk, shrink
from graphopt.passes.prune.units import thin
from graphopt.rewrite import const


@dataclass
class Remains:
    """What is left of the values of a module when `gone` units are removed."""

    units: Mapping[Value, Array]
    gone: Array
    known: dict[Value, Places] = field(default_factory=dict[Value, Places])
    stays: Array = field(default_factory=lambda: np.ones(1, np.bool_))

    def __post_init__(self) -> None:
        """Look units up in a table, which is sooner done than in a list."""
        self.stays = np.ones(int(self.gone.max(initial=0)) + 1, np.bool_)
        self.stays[self.gone] = False

    def of(self, value: Value) -> Places:
        """The places of each axis."""
        if value not in self.known:
            self.known[value] = self._find(value)
        return self.known[value]

    def _find(self, value: Value) -> Places:
        a, rank = self.units.get(value), len(value.tensor.shape or ())
        if a is None:
            return (None,) * rank
        (t,) = thin(a)
        there = self.stays[np.where(t < len(self.stays), t, 0)]  # the first stays
        lines = [there.any(axis=tuple(j for j in range(rank) if j != i)) for i in range(rank)]
        return tuple(None if line.all() else np.flatnonzero(line) for line in lines)

    def touched(self, value: Value | None) -> bool:
        """Whether it loses elements."""
        return value is not None and any(p is not None for p in self.of(value))

    def smaller(self, op: Op) -> bool:
        """Whether an op has operands or results that lose elements."""
        return any(self.touched(v) for v in (*op.operands, *op.results)
                   if v and v in self.units)  # fmt: skip


def cut_out(module: Module, found: Groups, gone: Array) -> dict[str, tuple[int, ...]]:
    """Remove units from a module, in place.

    Args:
        module: the one whose groups were `found`.
        found: what may go.
        gone: numbers of units.

    Returns:
        By the name of each value that lost elements along one axis, the places that it still has.
    """
    remains, graph = Remains(found.of, gone), module.main
    kept = dict[str, tuple[int, ...]]()
    swapped = dict[Value, Value]()
    for op in list(graph):
        if op.kind.name in ("const", "return") or not remains.smaller(op):
            continue
        kept.update(_told(op, remains))
        _swap(graph, op, remains, swapped)
    for op in reversed(list(graph)):
        if op.dead():
            graph.erase(op)
    return kept


def _told(op: Op, remains: Remains) -> Iterable[tuple[str, tuple[int, ...]]]:
    for r in op.results:
        lines = [p for p in remains.of(r) if p is not None]
        if len(lines) == 1 and r.hint:
            yield r.hint, tuple(map(int, lines[0]))


def _swap(graph: Graph, op: Op, remains: Remains, swapped: dict[Value, Value]) -> None:
    """Put the smaller op before one, which loses its users as they are swapped, too."""

    def constant(data: Data, hint: str) -> Value:
        return graph.insert(Op(Const(data), hints=[hint]), op).result

    shrunk = shrink(op, remains.of)
    operands = list[Value | None]()
    for i, v in enumerate(op.operands):
        data = const(v)
        if v and data and i in shrunk.cuts:
            operands.append(constant(_computed(data, shrunk.cuts[i]), v.hint))
        else:
            operands.append(swapped.get(v, v) if v else None)
    operands += [constant(Inline(a), "") for a in shrunk.more]
    new = Op(shrunk.kind, operands, loc=op.loc, hints=[r.hint for r in op.results])
    graph.insert(new, op)
    for old, result in zip(op.results, new.results, strict=True):
        swapped[old] = result
        if not remains.touched(old):  # from here on all is as it was
            old.replace_all_uses_with(result)


def _computed(data: Data, part: Cut) -> Data:
    return Computed(data.dtype, part.shape, lambda: part.numbers(data.numpy()))


def graph_left(ops: Iterable[Op], remains: Remains) -> Graph:
    """Some ops of a module, in order, on what is left, to be priced: numbers don't matter."""
    graph, known = Graph(name="priced"), dict[Value, Value]()
    for op in ops:
        shrunk = shrink(op, remains.of) if remains.smaller(op) else Shrunk(op.kind, {})
        operands = [_operand(graph, v, shrunk.cuts.get(i), remains, known) if v else None
                    for i, v in enumerate(op.operands)]  # fmt: skip
        operands += [graph.insert(Op(Const(Inline(a)))).result for a in shrunk.more]
        new = graph.insert(Op(shrunk.kind, operands))
        known.update(zip(op.results, new.results, strict=True))
    graph.insert(Op(Return(), [v for v in known.values() if not v.use_count]))
    return graph


def _operand(
    graph: Graph, value: Value, part: Cut | None, remains: Remains, known: dict[Value, Value]
) -> Value:
    """A value in the graph to be priced: an argument, or any constant of its type."""
    data = const(value)
    if data is None and value in known:
        return known[value]
    if data is not None:
        left: Data = _computed(data, part) if part else data
        if data.dtype.is_float:
            left = stand_in(data.dtype, left.shape, graph)
        return graph.insert(Op(Const(left))).result
    sizes = (d if p is None else len(p)
             for d, p in zip(value.tensor.shape or (), remains.of(value), strict=True))  # fmt: skip
    known[value] = graph.add_arg(TensorType(value.tensor.dtype, tuple(sizes)))
    return known[value]
