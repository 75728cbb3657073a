"""The order of nodes: ONNX demands a topological one; files that break it are sorted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush

import onnx

from graphopt.errors import InputError
from graphopt.onnx.attrs import GRAPHS
from graphopt.onnx.wire import MAX_DEPTH


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    for a in node.attribute:
        if a.type in GRAPHS:
            yield from ([a.g] if a.HasField("g") else [])
            yield from a.graphs


def captured(graph: onnx.GraphProto, depth: int = 0) -> set[str]:
    """The names that a subgraph takes from the graphs around it."""
    if depth > MAX_DEPTH:
        raise InputError(f"subgraphs are nested deeper than {MAX_DEPTH} levels")
    free = {o.name for o in graph.output}
    made = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    made |= {s.values.name for s in graph.sparse_initializer}
    for node in graph.node:
        free.update(needs(node, depth))
        made.update(node.output)
    return free - made


def needs(node: onnx.NodeProto, depth: int = 0) -> list[str]:
    """The names a node reads, those that its subgraphs capture included."""
    names = [n for n in node.input if n]
    for graph in subgraphs(node):
        names += captured(graph, depth + 1)
    return names


def ordered(nodes: Sequence[onnx.NodeProto], given: set[str], label: str) -> list[int]:
    """The indices of the nodes in an order in which each follows what it reads.

    Args:
        nodes: the graph's nodes; their own order is kept where it is a right one.
        given: the names that exist before the first node.
        label: the graph, for messages.

    Raises:
        InputError: the nodes form a cycle; the message names some of them.
    """
    reads = [needs(node) for node in nodes]
    maker = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    waits = [{maker[n] for n in names if n in maker and n not in given} for names in reads]
    if all(j < i for i, others in enumerate(waits) for j in others):
        return list(range(len(nodes)))
    followers: list[list[int]] = [[] for _ in nodes]
    for i, others in enumerate(waits):
        for j in others:
            followers[j].append(i)
    left = [len(others) for others in waits]
    ready = [i for i, count in enumerate(left) if count == 0]
    heapify(ready)
    order: list[int] = []
    while ready:
        i = heappop(ready)
        order.append(i)
        for j in followers[i]:
            left[j] -= 1
            if left[j] == 0:
                heappush(ready, j)
    if len(order) < len(nodes):
        raise InputError(f"{label}: the nodes {_cycle(nodes, waits, left)} form a cycle")
    return order


def _cycle(nodes: Sequence[onnx.NodeProto], waits: list[set[int]], left: list[int]) -> str:
    """Some nodes of a cycle, by walking backwards until one repeats."""
    at = next(i for i, count in enumerate(left) if count)
    path: list[int] = []
    while at not in path and len(path) < 1000:
        path.append(at)
        at = min(j for j in waits[at] if left[j])
    loop = path[path.index(at) :] if at in path else path
    names = [nodes[i].name or f"{nodes[i].op_type}_{i}" for i in reversed(loop)]
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(map(repr, names[:6])) + more
