# pyright: basic
# Mutations put anything anywhere: the point is that types do not hold.
"""What the mutations share: places in a model, and numbers that break things."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import onnx

Edit = Callable[[random.Random, onnx.ModelProto], str]

NASTY = (
    0, 1, -1, 2, -2, 3, 7, 64, 255, 65536, 2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 10**12, 10**15,
    2**62, 2**63 - 1, -(2**63),
)  # fmt: skip


def nasty(rng: random.Random) -> int:
    """A number that something may choke on."""
    return rng.choice(NASTY)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those in it."""
    yield graph
    for node in graph.node:
        for a in node.attribute:
            for inner in ([a.g] if a.HasField("g") else []) + list(a.graphs):
                yield from graphs(inner)


def any_graph(rng: random.Random, model: onnx.ModelProto) -> onnx.GraphProto:
    """A graph of the model, most often the main one."""
    return rng.choice([model.graph, *graphs(model.graph)])


def any_node(rng: random.Random, model: onnx.ModelProto) -> onnx.NodeProto:
    """A node of any graph or function."""
    every = [n for g in graphs(model.graph) for n in g.node]
    return rng.choice(every + [n for f in model.functions for n in f.node])


def any_name(rng: random.Random, model: onnx.ModelProto) -> str:
    """A name that some value has."""
    names = [o for g in graphs(model.graph) for n in g.node for o in n.output]
    names += [t.name for t in model.graph.initializer] + [i.name for i in model.graph.input]
    return rng.choice(names)


def tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Every tensor of the graphs: initializers and attributes."""
    found: list[onnx.TensorProto] = []
    for graph in graphs(model.graph):
        found += graph.initializer
        for node in graph.node:
            for a in node.attribute:
                found += [a.t] if a.HasField("t") else []
                found += a.tensors
                if a.HasField("sparse_tensor"):
                    found += [a.sparse_tensor.values, a.sparse_tensor.indices]
    return found
