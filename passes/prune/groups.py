"""The groups of a module: channels or heads of which some could go, and why others can't.

A value of which elements were removed must be a full tensor still: what is left is a product of
what is left along each axis. Where units differ along several axes of a value, those along one of
them are merged: along the axis that leaves most units.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.analysis.bind import bind
from graphopt.errors import InputError
from graphopt.ir.builtin import Opaque
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Loc, Module, Op, Value
from graphopt.ir.types import Array, TensorType
from graphopt.ops.linalg import Gemm, MatMul
from graphopt.ops.nn import Conv, ConvTranspose
from graphopt.passes.fuse.weights import Linear
from graphopt.passes.layers.left import INSIDE, UNRULED, regions, stored
from graphopt.passes.prune.rules import Follow, Port, weighted
from graphopt.passes.prune.units import FIXED, Units, components, thin, varying
from graphopt.rewrite import const

ALONE = "nothing would be left of it"
UNKNOWN = "its shapes aren't known before a run"
ROWS = "it hands channels on as the rows that it multiplies"
RUNS = 3  # of channels that a name shows
SIZES = (64, 32, 224, 1)  # tried for sizes that are known in a run only


@dataclass(frozen=True)
class End:
    """Channels that a layer makes or reads: `line` has the unit of each, FIXED if it stays."""

    op: Op
    line: Array
    weighted: bool = True

    def of(self, units: Array) -> Array:
        """The places of channels of some units."""
        return np.flatnonzero(np.isin(self.line, units))


@dataclass(frozen=True)
class Group:
    """Units that are alike: one can go without another. `why` not, if none can.

    `units` are numbers of sets; `makers` and `readers` the layers that have channels of them.
    """

    name: str
    loc: Loc
    units: Array
    makers: tuple[End, ...]
    readers: tuple[End, ...]
    why: str = ""

    @property
    def channels(self) -> int:
        """Channels of the first layer that makes them."""
        return len(self.places)

    @property
    def places(self) -> Array:
        """Which of that layer's they are, in order."""
        return self.makers[0].of(self.units)

    @property
    def each(self) -> int:
        """Channels of a unit; 1 where the first layer that makes them has those of some alone."""
        return max(self.channels // len(self.units), 1)


@dataclass
class Groups:
    """Those of a module. `of` has the units of each value that may lose elements."""

    groups: list[Group] = field(default_factory=list[Group])
    of: dict[Value, Array] = field(default_factory=dict[Value, Array])
    makers: list[End] = field(default_factory=list[End])
    readers: list[End] = field(default_factory=list[End])


def told_apart(found: Sequence[Group]) -> dict[str, str]:
    """By name, of groups whose first layer is another's, too: which channels of it they are.

    As `channels 0-7, 24-31`, numbered from 0.
    """
    shared = Counter(g.makers[0].op for g in found if g.units.size)
    return {g.name: f"channels {_ranges(g.places)}" for g in found
            if g.units.size and shared[g.makers[0].op] > 1}  # fmt: skip


def _ranges(places: Array) -> str:
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    shown = ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs[:RUNS])
    return shown + (", ..." if len(runs) > RUNS else "")


def groups(module: Module, inside: bool = False) -> Groups:
    """Find them in the main graph of a module, which stays as it is.

    `inside`: those of channels inside attention heads, where several heads share a product, instead
    of whole heads.
    """
    graph, twins = module.main, dict[Op, Op]()
    if any(isinstance(v.type, TensorType) and v.tensor.static is None for v in _values(module)):
        bound = _bound(module)
        twins = dict(zip(bound.main, module.main, strict=True))
        graph = bound.main
    follow = Follow(Units(inside=inside))
    for op in graph:
        follow.visit(op)
    _square(follow)
    return _named(follow, twins, module)


def _bound(module: Module) -> Module:
    """A copy of static sizes: which ones doesn't matter to channels, as long as they fit."""
    batch = clone_module(module)
    bind(batch)
    for size in SIZES:
        copy = clone_module(batch)
        shapes = {
            a.hint: tuple(d if isinstance(d, int) else size for d in a.tensor.shape or ())
            for a in copy.main.args
            if isinstance(a.type, TensorType) and a.type.shape and a.type.static is None
        }
        try:
            bind(copy, shapes)
        except InputError:
            continue
        return copy
    return batch


def _values(module: Module) -> Iterator[Value]:
    yield from module.main.args
    for op in module.main:
        yield from op.results


def _square(follow: Follow) -> None:
    """Merge until what is left of each value is always a full tensor, and never empty."""
    units = follow.units
    units.solve()
    todo = {v: a for v, a in follow.of.items() if varying(a)}
    changed = True
    while changed:
        changed = False
        for a in todo.values():
            roots = units.of(a)
            axes = varying(roots)
            if len(axes) > 1:
                best = max(axes, key=lambda i: (_count(roots, i), i))
                units.merge_over(a, [i for i in range(a.ndim) if i != best])
                units.solve()
                changed = True
    for a in follow.of.values():
        one = np.unique(units.roots[thin(a)[0]])
        if len(one) == 1 and one[0] != FIXED:
            units.fix(one, ALONE)
    units.solve()


def _count(roots: Array, axis: int) -> int:
    """How many units there would be if those along the other axes were merged."""
    (t,) = thin(roots)
    lines = np.moveaxis(t, axis, 0).reshape(t.shape[axis], -1)
    names, at = np.unique(lines, return_inverse=True)
    n, rows = len(names), np.repeat(np.arange(len(lines)), lines.shape[1])
    number, _ = components(rows + n, at.reshape(-1), n + len(lines))
    return number - (1 if len(names) and names[0] == FIXED else 0)


def _named(follow: Follow, twins: dict[Op, Op], module: Module) -> Groups:
    """Sort units by the values that they are in."""
    units = follow.units
    random = np.random.default_rng(0).integers(1, 2**63, len(follow.of) + 1, np.uint64)
    marks = np.zeros(units.count, np.uint64)
    for a, mark in zip(follow.of.values(), random, strict=False):
        marks[np.unique(units.roots[thin(a)[0]])] ^= mark
    makers, readers = ([_end(p, units.roots, twins) for p in ports]
                       for ports in (follow.makers, follow.readers))  # fmt: skip
    found = Groups(makers=makers, readers=readers)
    for value, a in follow.of.items():
        roots = units.of(a)
        if thin(roots)[0].any():
            found.of[_twin(value, twins)] = roots
    _sort(found, follow, marks)
    _list_others(found, module)
    return found


def _list_others(found: Groups, module: Module) -> None:
    """Layers of unknown sizes, of rows that are channels of others, and those without a rule."""
    listed = {e.op for e in found.makers}
    for op in module.main:
        layer = weighted(op) if op not in listed else None
        if layer:
            why = ROWS if op.result in found.of else UNKNOWN
        else:
            why = _unruled(op) if op not in listed else ""
        if why:
            _add(found, op, why, layer)
    for region in regions(module.main):
        for op in region:
            layer = weighted(op)
            if why := INSIDE if layer else _unruled(op):
                _add(found, op, why, layer)


def _add(found: Groups, op: Op, why: str, layer: Linear | None) -> None:
    """List a layer as a group without units."""
    line = np.zeros(layer.outputs if layer else 1, np.int32)
    ends = (End(op, line, layer is not None),)
    found.groups.append(Group(_unique(found, _name(op)), op.loc, line[:0], ends, (), why))


def _unruled(op: Op) -> str:
    """Why what a layer makes stays, whose constant factor is none that prune cuts; "": it is none.

    Masks and tables, which aren't factors, are no layers.
    """
    name = getattr(op.kind, "op_type", op.kind.name)
    if isinstance(op.kind, MatMul | Gemm):
        if const(op.operand(0)) is None and (few := stored(op)):
            return few
        factors = op.operands[:2]
        right = isinstance(op.kind, Gemm) and not op.kind.trans_a and const(op.operand(1))
        why = ("its bias is neither one number nor a row" if right else
               "its constant factor isn't a matrix on the right of a product")  # fmt: skip
    elif isinstance(op.kind, Conv | ConvTranspose):
        return stored(op)
    elif isinstance(op.kind, Opaque) and name in UNRULED:
        factors, why = op.operands, f"{name} has no rule"
    else:
        return ""
    found = [const(v) for v in factors if v]
    return why if any(d and len(d.shape) > 1 and d.dtype.is_float for d in found) else ""


def _twin(value: Value, twins: dict[Op, Op]) -> Value:
    """The same value of the module that was asked about."""
    return twins[value.op].results[value.index] if twins and value.op else value


def _end(port: Port, roots: Array, twins: dict[Op, Op]) -> End:
    return End(twins.get(port.op, port.op), roots[port.line], port.linear is not None)


def _sort(found: Groups, follow: Follow, marks: Array) -> None:
    """A group for each mark, in the order of the layers that make them first."""
    makers, readers = _index(found.makers), _index(found.readers)
    seen = set[int]()
    for port, maker in zip(follow.makers, found.makers, strict=True):
        line = np.unique(maker.line)
        line = line[line != FIXED]
        if not line.size:
            why = follow.units.why(port.line)
            found.groups.append(
                Group(_unique(found, _name(maker.op)), maker.op.loc, line, (maker,), (), why)
            )
        for mark in dict.fromkeys(marks[line].tolist()):
            if mark in seen:
                continue
            seen.add(mark)
            of = line[marks[line] == mark]
            made, read = makers[int(of[0])], readers.get(int(of[0]), [])
            why = "" if len(of) > 1 else "its channels go together or not at all"
            found.groups.append(Group(_unique(found, _name(maker.op)), maker.op.loc, of,
                                      tuple(made), tuple(read), why))  # fmt: skip


def _index(ends: list[End]) -> dict[int, list[End]]:
    """The layers that have channels of each unit."""
    found: dict[int, list[End]] = {}
    for end in ends:
        for unit in np.unique(end.line).tolist():
            found.setdefault(unit, []).append(end)
    return found


def _name(op: Op) -> str:
    """What users call a layer."""
    return op.loc.nodes[0] if op.loc.nodes else op.results[0].hint or op.kind.name


def _unique(found: Groups, name: str) -> str:
    """A name that no group has yet."""
    taken = {g.name for g in found.groups}
    if name not in taken:
        return name
    return next(n for i in range(2, len(taken) + 3) if (n := f"{name} ({i})") not in taken)
