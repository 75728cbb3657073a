"""Scales by channel that go into what makes values and out of all that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from graphopt.ir.builtin import Const
from graphopt.ir.core import Graph, Loc, Op, Use, Value
from graphopt.ir.data import Computed
from graphopt.ir.types import Array
from graphopt.ops.linalg import Gemm
from graphopt.passes.fuse.weights import Linear, wide
from graphopt.passes.quantize.calibrate import erase_notes
from graphopt.passes.quantize.channels import FIXED, Channels, Maker, Reader, channels
from graphopt.passes.quantize.equivariant import thin
from graphopt.rewrite import const

K = TypeVar("K")


@dataclass(frozen=True)
class Chain:
    """Channels that are scaled in one decision: all that layers whose results meet make.

    There are `count` of them; the classes of makers, readers and added constants are numbers below
    that, or -1 for what isn't of this chain. `values` are those that have such channels.
    """

    count: int
    makers: tuple[Maker, ...]
    readers: tuple[Reader, ...]
    added: tuple[tuple[Use, Array], ...] = ()
    values: tuple[Value, ...] = ()

    @property
    def loc(self) -> Loc:
        """Where the channels are made."""
        loc = Loc()
        for maker in self.makers:
            loc |= maker.op.loc
        return loc

    def most(self, numbers: Array, classes: Array) -> Array:
        """The largest of some numbers for each channel, 0 where there are none."""
        found = np.zeros(self.count)
        own = classes >= 0
        np.maximum.at(found, classes[own], numbers[own])
        return found


def spread_over(by: Array, classes: Array) -> Array:
    """The factor of each element, 1 for those that aren't of the chain."""
    return np.append(by, 1.0)[classes]


def chains(graph: Graph) -> list[Chain]:
    """All chains of a graph that layers read, in the order of their first makers."""
    found = channels(graph)
    groups = _Groups(found)
    made = [groups.chain(key) for key in groups.members]
    return [c for c in made if c.readers]


class _Groups:
    """Classes by the makers that they have in common."""

    def __init__(self, found: Channels) -> None:
        """Merge the classes of each maker."""
        roots = found.classes.roots
        self.total = len(found.classes.parent)
        self.makers = [replace(m, classes=roots(m.classes)) for m in found.makers]
        self.readers = [replace(r, classes=roots(r.classes)) for r in found.readers]
        self.added = [(use, roots(classes)) for use, classes in found.added]
        self.group: dict[int, int] = {}
        for maker in self.makers:
            own = [int(r) for r in np.unique(maker.classes) if r != FIXED]
            for r in own:
                self._join(own[0], r)
        self.members: dict[int, list[int]] = {}
        for r in sorted(self.group):
            self.members.setdefault(self._find(r), []).append(r)
        self.values = {
            v: {self._find(int(r)) for r in np.unique(roots(thin(c))) if r in self.group}
            for v, c in found.of.items()
        }

    def _find(self, root: int) -> int:
        self.group.setdefault(root, root)
        while self.group[root] != root:
            root = self.group[root]
        return root

    def _join(self, a: int, b: int) -> None:
        a, b = sorted((self._find(a), self._find(b)))
        self.group[b] = a

    def chain(self, key: int) -> Chain:
        """One group as a chain."""
        own = self.members[key]
        place = np.full(self.total, -1, np.int64)
        place[own] = np.arange(len(own))
        makers = (replace(m, classes=place[m.classes]) for m in self.makers)
        readers = (replace(r, classes=place[r.classes]) for r in self.readers)
        added = ((use, place[classes]) for use, classes in self.added)
        return Chain(
            len(own),
            tuple(m for m in makers if (m.classes >= 0).any()),
            tuple(r for r in readers if (r.classes >= 0).any()),
            tuple((u, c) for u, c in added if (c >= 0).any()),
            tuple(v for v, keys in self.values.items() if key in keys),
        )


def scale(graph: Graph, scales: Sequence[tuple[Chain, Array]]) -> None:
    """Multiply the channels of each chain by its scales (float64 [count]).

    New constants are computed in float64 and rounded once, also those of a layer that reads one
    chain and makes another. Values that change get other names: equal names mean equal numbers.
    Notes of an earlier calibration go.
    """
    layers: dict[Op, Linear] = {}
    into, out = dict[Op, Array](), dict[Op, Array]()
    added: dict[Use, Array] = {}
    for chain, by in scales:
        for r in chain.readers:
            layers[r.linear.op] = r.linear
            _gather(into, r.linear.op, 1 / spread_over(by, r.classes))
        for m in chain.makers:
            if m.linear:
                layers[m.op] = m.linear
            _gather(out, m.op, spread_over(by, m.classes))
        for use, classes in chain.added:
            _gather(added, use, spread_over(by, classes))
        for value in chain.values:
            value.hint = f"{value.hint}_scaled" if value.hint else ""
    if scales:
        erase_notes(graph)
    for op, at in layers.items():
        _rescale(graph, at, into.get(op), out.get(op))
    for op, by in out.items():
        if op not in layers:
            for index in range(1, len(op.operands)):
                _multiply(graph, Use(op, index), by)
    for use, by in added.items():
        _multiply(graph, use, by)


def _gather(found: dict[K, Array], key: K, by: Array) -> None:
    """A layer may belong to several chains, each with some of its channels."""
    found[key] = found[key] * by if key in found else by


def _rescale(graph: Graph, at: Linear, into: Array | None, out: Array | None) -> None:
    """Scale the inputs and the outputs of a layer."""

    def weight() -> Array:
        w = wide(at.w)
        w = w if into is None else at.input_scaled(w, into)
        return w if out is None else at.scaled(w, out)

    _put(graph, Use(at.op, 1), Computed(at.w.dtype, tuple(at.w.shape), weight))
    if out is not None and at.b is not None:
        numbers = Computed(at.b.dtype, (at.outputs,), lambda: at.bias() * out)
        _put(graph, Use(at.op, 2), numbers)
        if isinstance(at.op.kind, Gemm):
            at.op.kind = replace(at.op.kind, beta=1.0)


def _multiply(graph: Graph, use: Use, by: Array) -> None:
    """Multiply a constant operand, if it is there."""
    data = const(use.op.operands[use.index])
    if data is not None:
        numbers = Computed(data.dtype, tuple(data.shape), lambda: wide(data) * by)
        _put(graph, use, numbers)


def _put(graph: Graph, use: Use, data: Computed) -> None:
    """Let an op read another constant."""
    old = use.op.operand(use.index)
    name = f"{old.hint}_scaled" if old.hint else ""
    made = Op(Const(data), loc=old.op.loc if old.op else use.op.loc, hints=[name])
    graph.insert(made, old.op.next if old.op and old.op.graph is graph else graph.first)
    use.op.set_operand(use.index, made.result)
    if old.op and old.op.dead() and old.op.graph:
        old.op.graph.erase(old.op)
