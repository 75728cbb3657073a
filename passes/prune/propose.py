"""Choices of how many channels each group keeps: what that saves, and what it loses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.choices import Choice
from graphopt.ir.core import Graph, Module, Op, Value
from graphopt.ir.types import Array
from graphopt.ops.linalg import Attention
from graphopt.passes.layers.gain import Aim, gain
from graphopt.passes.prune.eliminate import Order
from graphopt.passes.prune.groups import Group, Groups, groups, told_apart
from graphopt.passes.prune.repair import Repair, repair
from graphopt.passes.prune.scores import Inputs, columns
from graphopt.passes.prune.surgery import Remains, cut_out, graph_left
from graphopt.passes.prune.units import thin
from graphopt.pipeline import Context

LEVELS = 16  # numbers of channels that are tried of a group, at most


@dataclass
class Plan:
    """The groups of a module, what of them may go in which order, and what the layers read.

    `module` stays as it is: `apply` changes it or a copy. `orders` are by the names of groups, and
    so are `parts`, which tell those of one layer apart.
    """

    module: Module
    found: Groups
    aim: Aim
    multiple: int
    orders: dict[str, Order] = field(default_factory=dict[str, Order])
    inputs: Mapping[Op, Inputs] = field(default_factory=dict[Op, Inputs])
    touched: dict[str, list[Op]] = field(default_factory=dict[str, list[Op]])
    whole: dict[str, Graph] = field(default_factory=dict[str, Graph])
    inside: bool = False
    parts: dict[str, str] = field(default_factory=dict[str, str])

    @staticmethod
    def of(module: Module, aim: Aim, multiple: int, inside: bool = False) -> Plan:
        """One without orders yet; `inside`: see `groups`."""
        plan = Plan(module, groups(module, inside), aim, multiple, inside=inside)
        plan.parts = told_apart(plan.found.groups)
        plan.touched = _touched(module.main, plan.found)
        return plan

    def choices(self, group: Group, ctx: Context) -> list[Choice]:
        """Of how many channels stay, the most first."""
        order, many = self.orders[group.name], self._levels(group)
        return [self._choice(group, n, float(order.losses[n]), ctx) for n in many]

    def most(self, group: Group) -> int:
        """The most that could go of a group."""
        return max(self._levels(group), default=0)

    def _levels(self, group: Group) -> list[int]:
        """How many units may go: those left are whole vectors, or whole blocks of channels."""
        count = len(group.units)
        step = self.multiple // math.gcd(self.multiple, group.each)
        left = range(step, count, step)
        picked = np.unique(np.linspace(0, len(left) - 1, min(LEVELS, len(left))).round())
        return sorted(count - left[int(i)] for i in picked)

    def _choice(self, group: Group, number: int, error: float, ctx: Context) -> Choice:
        gone = group.units[self.orders[group.name].units[:number]]
        before, after = self._whole(group), self._left(self.touched[group.name], gone)
        static = all(v.tensor.static for v in before.args)
        gained, unit = gain(before, after, ctx.costs if static else None, self.aim)
        saves = gain(before, after, None, self._counted)[0]
        return Choice(group.name, group.loc, self._told(group, number), gained, error, unit,
                      saves=saves)  # fmt: skip

    def _told(self, group: Group, number: int) -> str:
        count, what = len(group.units), self._what(group)
        each = group.each if what == "channels" else 1
        return f"pruned: {(count - number) * each} of {count * each} {what}{self.part(group)}"

    def part(self, group: Group) -> str:
        """What tells it from others of its layer, in brackets; "" where there are none."""
        return f" ({self.parts[group.name]})" if group.name in self.parts else ""

    def _what(self, group: Group) -> str:
        """What a unit is: an attention head, a channel that each head has, or channels."""
        attended = (op for op in self.touched[group.name] if isinstance(op.kind, Attention))
        heads = [shape[-3] for op in attended if len(shape := op.operand(0).tensor.shape or ()) > 3]
        if self.inside:
            return "channels of each head" if any(h != 1 for h in heads) else "channels"
        return "heads" if len(group.units) in heads else "channels"

    @property
    def _counted(self) -> Aim:
        """What a goal counts: bytes of weights, if they are the aim, else multiply-adds."""
        return "size" if self.aim == "size" else "macs"

    def _whole(self, group: Group) -> Graph:
        """The ops that touch a group, as they are."""
        if group.name not in self.whole:
            self.whole[group.name] = self._left(self.touched[group.name], group.units[:0])
        return self.whole[group.name]

    def _left(self, ops: Sequence[Op], gone: Array) -> Graph:
        """Ops on what is left without some units."""
        return graph_left(ops, Remains(self.found.of, gone))

    def together(self, made: Sequence[Choice]) -> float:
        """What choices save together: less than the sum where a layer loses inputs and outputs."""
        names = {c.layer for c in made}
        ops = {op for name in names for op in self.touched[name]}
        touched, gone = [op for op in self.module.main if op in ops], self.gone(made)
        before, after = (self._left(touched, g) for g in (gone[:0], gone))
        return gain(before, after, None, self._counted)[0]

    def gone(self, made: Sequence[Choice]) -> Array:
        """The units that go."""
        by_name = {g.name: g for g in self.found.groups}
        parts = [np.zeros(0, np.int32)]
        for choice in made:
            group = by_name[choice.layer]
            many = {self._told(group, n): n for n in self._levels(group)}
            parts.append(group.units[self.orders[group.name].units[: many[choice.rewrite]]])
        return np.concatenate(parts)

    def apply(self, module: Module, made: Sequence[Choice]) -> dict[str, tuple[int, ...]]:
        """Make choices in the module, or in a copy of it.

        Returns:
            The places that values still have along the axis of which elements went, by name.
        """
        gone = self.gone(made)
        ops = dict(zip(self.module.main, module.main, strict=True))
        for end in self.found.readers:
            if end.weighted and end.op in self.inputs and np.isin(end.line, gone).any():
                parts = columns(end, np.unique(end.line[np.isin(end.line, gone)]))
                length = self.inputs[end.op].mean.shape[1]
                there = np.ones((len(parts), length), np.bool_)
                for row, places in zip(there, parts, strict=True):
                    row[np.concatenate(places)] = False
                repair(ops[end.op], Repair(self.inputs[end.op], there))
        return cut_out(module, _moved(self.found, ops), gone)


def _moved(found: Groups, ops: Mapping[Op, Op]) -> Groups:
    """The same of a copy."""
    of = {ops[v.op].results[v.index] if v.op else v: a for v, a in found.of.items()}
    return Groups(found.groups, of)


def _touched(graph: Graph, found: Groups) -> dict[str, list[Op]]:
    """The ops that read or make elements of each group, in order, by its name."""
    at = np.full(max((int(g.units.max()) for g in found.groups if g.units.size), default=0) + 1, -1)
    for i, g in enumerate(found.groups):
        at[g.units] = i
    values: dict[Value, set[int]] = {}
    for value, a in found.of.items():
        units = np.unique(thin(a)[0])
        values[value] = set(at[units[units < len(at)]].tolist()) - {-1}
    ops: dict[str, list[Op]] = {g.name: [] for g in found.groups}
    for op in graph:
        if op.kind.name in ("const", "return"):
            continue
        near = {i for v in (*op.operands, *op.results) if v for i in values.get(v, ())}
        for i in sorted(near):
            ops[found.groups[i].name].append(op)
    return ops
