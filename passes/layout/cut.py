"""Minimum cut: which of two sides each node belongs to, at the least cost of what is cut.

    minimise the capacities of edges from a node of the first side to one of the second

Nodes that infinite edges tie to an end are decided first; what is left falls apart into small
regions. Where an end doesn't outweigh all other edges of each node in turn, a region is a flow
problem (Boykov, Kolmogorov: An Experimental Comparison of Min-Cut/Max-Flow Algorithms, PAMI 26(9),
2004, in networkx). Capacities are integers, and of several
minimum cuts the one with the largest first side is taken, so the answer is the same in every run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from graphopt.lazy import Lazy

nx: Any = Lazy("networkx")
FIRST, SECOND = 0, 1  # the nodes that stand for the two sides
Ends = dict[int, dict[int, int]]


class Cut:
    """A network in the making."""

    def __init__(self) -> None:
        """The two ends, no edges."""
        self.count = 2
        self.tied: list[tuple[int, int]] = []
        self.out: Ends = {}

    def node(self) -> int:
        """A new node."""
        self.count += 1
        return self.count - 1

    def edge(self, a: int, b: int, capacity: int) -> None:
        """It costs `capacity` if `a` is on the first side and `b` on the second."""
        if a != b and capacity > 0:
            ends = self.out.setdefault(a, {})
            ends[b] = ends.get(b, 0) + capacity

    def tie(self, a: int, b: int) -> None:
        """If `a` is on the first side, so is `b`."""
        self.tied.append((a, b))

    def first_side(self) -> set[int]:
        """The nodes of the first side of the minimum cut."""
        first = _reached([FIRST], self.tied)
        second = _reached([SECOND], [(b, a) for a, b in self.tied])
        side = {n: FIRST for n in first} | {n: SECOND for n in second}
        edges, ties = self._open(side)
        for region in _regions(self.count, side, edges, ties):
            first |= _divide(region, edges, ties)
        return first

    def _open(self, side: dict[int, int]) -> tuple[Ends, dict[int, list[int]]]:
        """The edges and ties of the nodes that are undecided; decided ones are their side's end."""
        edges: Ends = {}
        for a, ends in self.out.items():
            start = side.get(a, a)
            for b, capacity in ends.items():
                end = side.get(b, b)
                if start != end and start != SECOND and end != FIRST and {start, end} != {0, 1}:
                    found = edges.setdefault(start, {})
                    found[end] = found.get(end, 0) + capacity
        ties: dict[int, list[int]] = {}
        for a, b in self.tied:
            if a not in side and b not in side:
                ties.setdefault(a, []).append(b)
        return edges, ties


def _reached(start: list[int], steps: Iterable[tuple[int, int]]) -> set[int]:
    """The nodes that steps lead to."""
    ways: dict[int, list[int]] = {}
    for a, b in steps:
        ways.setdefault(a, []).append(b)
    found, queue = set(start), deque(start)
    while queue:
        new = [n for n in ways.get(queue.popleft(), []) if n not in found]
        found.update(new)
        queue.extend(new)
    return found


def _regions(
    count: int, side: dict[int, int], edges: Ends, ties: dict[int, list[int]]
) -> Iterator[list[int]]:
    """Sets of undecided nodes that edges connect, in order of their first node."""
    near: dict[int, list[int]] = {n: [] for n in range(2, count) if n not in side}
    for a, ends in [*edges.items(), *ties.items()]:
        for b in ends:
            if a in near and b in near:
                near[a].append(b)
                near[b].append(a)
    seen: set[int] = set()
    for n in near:
        if n not in seen:
            region = _reached_in(near, n)
            seen |= region
            yield sorted(region)


def _reached_in(near: dict[int, list[int]], start: int) -> set[int]:
    found, queue = {start}, deque([start])
    while queue:
        new = {n for n in near[queue.popleft()] if n not in found}
        found |= new
        queue.extend(sorted(new))
    return found


def _divide(region: list[int], edges: Ends, ties: dict[int, list[int]]) -> set[int]:
    """The part of a region that is on the first side."""
    inside = set(region)
    pulled = {n: c for n, c in edges.get(FIRST, {}).items() if n in inside}
    if not pulled:
        return set()
    if not any(SECOND in edges.get(a, {}) for a in region):
        return inside
    out = _arrows(region, pulled, edges, ties)
    side = _outweighed(region, out)
    if len(side) == len(region):
        return {n for n in region if side[n] == FIRST}
    graph = nx.DiGraph()
    graph.add_nodes_from([FIRST, SECOND, *region])
    for a, ends in out.items():
        graph.add_edges_from((a, b, {"capacity": capacity}) for b, capacity in ends.items())
    residual = nx.algorithms.flow.boykov_kolmogorov(graph, FIRST, SECOND)
    return inside - _reaching_second(residual)


def _arrows(
    region: list[int], pulled: dict[int, int], edges: Ends, ties: dict[int, list[int]]
) -> Ends:
    """The edges of a region, those to the ends included; ties cost more than all others do."""
    out = {FIRST: dict(pulled)} | {a: dict(edges.get(a, {})) for a in region}
    tie = 1 + sum(sum(ends.values()) for ends in out.values())
    for a in region:
        out[a] |= dict.fromkeys(ties.get(a, []), tie)
    return out


def _outweighed(region: list[int], out: Ends) -> dict[int, int]:
    """The side of the nodes that one end pulls at least as hard as everything else could.

    Whatever the others' sides are, such a node costs no more on that one. The first side has it
    where both cost the same, as in the cut that is looked for.
    """
    into: Ends = {n: {} for n in region}
    for a, ends in out.items():
        for b, capacity in ends.items():
            if b != SECOND:
                into[b][a] = capacity
    side: dict[int, int] = {}
    queue = deque(region)
    while queue:
        n = queue.popleft()
        if n in side:
            continue
        first = sum(c for a, c in into[n].items() if side.get(a, a) == FIRST)
        second = sum(c for b, c in out[n].items() if side.get(b, b) == SECOND)
        if first >= sum(c for b, c in out[n].items() if side.get(b, b) != FIRST):
            side[n] = FIRST
        elif second > sum(c for a, c in into[n].items() if side.get(a, a) != SECOND):
            side[n] = SECOND
        else:
            continue
        queue.extend(m for m in {**into[n], **out[n]} if m not in (FIRST, SECOND))
    return side


def _reaching_second(residual: Any) -> set[int]:
    """The nodes from which more could flow to the second end: the least second side there is."""
    found, queue = {SECOND}, deque([SECOND])
    while queue:
        n = queue.popleft()
        for m, edge in residual.pred[n].items():
            if m not in found and edge["flow"] < edge["capacity"]:
                found.add(m)
                queue.append(m)
    return found
