"""Which choices of a graph's ops are blocked: the minimum of reorders and slower kernels.

A node a choice, on the first side of the cut if it is blocked. A value that its maker writes in one
layout and some users read in the other costs one reorder, however many they are:

    maker -(reorder)-> down, down ties each user;  each user ties up, up -(reorder)-> maker
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from graphopt.ir.core import Graph, Op, Value
from graphopt.ops.elementwise import Elementwise
from graphopt.ops.movement import Reorder
from graphopt.passes.group import is_constant
from graphopt.passes.layout import tags
from graphopt.passes.layout.cut import FIRST, SECOND, Cut
from graphopt.passes.layout.offer import Choice, Offer

BLOCKED, DENSE = FIRST, SECOND
Offers = Mapping[Op, Offer]
Decided = dict[Op, tuple[bool, ...]]


def decide(graph: Graph, offers: Offers, block: int) -> Decided:
    """For each op of `offers`, whether each of its choices is blocked."""
    return _Problem(graph, offers, block).solve()


class _Problem:
    """The network of one graph."""

    def __init__(self, graph: Graph, offers: Offers, block: int) -> None:
        self.graph, self.offers, self.block = graph, offers, block
        self.cut = Cut()
        self.nodes = {op: [self.choice(c) for c in offer.choices] for op, offer in offers.items()}
        for op, offer in offers.items():
            if offer.mixed:
                self.alike(self.nodes[op], offer.mixed)
        for value in _values(graph):
            self.value(value)

    def solve(self) -> Decided:
        """Cut it."""
        blocked = self.cut.first_side()
        return {op: tuple(n in blocked for n in nodes) for op, nodes in self.nodes.items()}

    def choice(self, choice: Choice) -> int:
        """The node of a choice, with what each side of it costs."""
        if choice.dense is None or choice.blocked is None:
            return BLOCKED if choice.dense is None else DENSE
        node = self.cut.node()
        self.cut.edge(BLOCKED, node, choice.dense)
        self.cut.edge(node, DENSE, choice.blocked)
        return node

    def alike(self, nodes: list[int], cost: int) -> None:
        """It costs something unless all nodes are on one side."""
        some_blocked, some_dense = self.cut.node(), self.cut.node()
        for n in nodes:
            self.cut.tie(n, some_blocked)
            self.cut.tie(some_dense, n)
        self.cut.edge(some_blocked, some_dense, cost)

    def value(self, value: Value) -> None:
        """The reorders that the users of a value may need."""
        maker = self.maker(value)
        down = dict.fromkeys(node for node, _ in self.users(value))
        up = dict.fromkeys(node for node, loose in self.users(value) if not loose)
        cost = self.reorder(value)
        if len(down) == 1:
            self.cut.edge(maker, next(iter(down)), cost)
        elif down:
            some_dense = self.cut.node()
            self.cut.edge(maker, some_dense, cost)
            for node in down:
                self.cut.tie(some_dense, node)
        if len(up) == 1:
            self.cut.edge(next(iter(up)), maker, cost)
        elif up:
            some_blocked = self.cut.node()
            self.cut.edge(some_blocked, maker, cost)
            for node in up:
                self.cut.tie(node, some_blocked)

    def reorder(self, value: Value) -> int:
        """What changing the layout of a value costs.

        More where it parts an element-wise op from the kernel that would compute it on the way: it
        is then done in the reorder's, which isn't vectorized.
        """
        cost = tags.moved(value, self.block)
        parts = value.op and value.use_count == 1 and isinstance(value.uses[0].op.kind, Elementwise)
        return cost + cost // 4 if parts else cost

    def maker(self, value: Value) -> int:
        """The node that says how a value is stored."""
        op = value.op
        if op is None or op not in self.offers:
            return BLOCKED if is_blocked(value, self.block) else DENSE
        return self.nodes[op][self.offers[op].results[value.index]]

    def users(self, value: Value) -> Iterator[tuple[int, bool]]:
        """The nodes that say how a value is read; whether a dense one may be read for a blocked."""
        for use in value.uses:
            op = use.op
            if isinstance(op.kind, Reorder):
                yield BLOCKED if is_blocked(value, self.block) else DENSE, False
            elif op in self.offers:
                choice = self.offers[op].operands[use.index]
                node = DENSE if choice is None else self.nodes[op][choice]
                yield node, use.index in self.offers[op].loose
            else:  # in a region
                yield DENSE, False


def _values(graph: Graph) -> Iterator[Value]:
    """The values that may be stored in blocks somewhere; constants are packed for nothing."""
    results = (r for op in graph for r in op.results)
    yield from (v for v in (*graph.args, *results) if tags.may_be_blocked(v) and not is_constant(v))


def is_blocked(value: Value, block: int) -> bool:
    """Whether a value is stored in blocks of channels now."""
    return value.tensor.layout == tags.blocked(len(tags.dims(value)), block)
