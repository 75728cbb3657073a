"""Model-local functions, inlined."""

from __future__ import annotations

import onnx
from onnx import inliner

from graphopt.errors import InputError, UnsupportedError
from graphopt.onnx.forked import LostError, forked
from graphopt.onnx.order import subgraphs

MAX_NODES = 5_000_000  # after inlining; functions calling functions multiply
Key = tuple[str, str, str]


def inline(model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    """Replace the calls of the model's own functions by their bodies.

    Raises:
        InputError: a function calls itself, or ONNX's inliner refuses the model.
        UnsupportedError: the result would have millions of nodes.
    """
    if not model.functions:
        return model
    bodies = {(f.domain, f.name, f.overload): f for f in model.functions}
    sizes: dict[Key, int] = {}
    total = sum(_cost(n, bodies, sizes, (), label) for n in model.graph.node)
    if total > MAX_NODES:
        raise UnsupportedError(f"{label}: has over {MAX_NODES} nodes once functions are inlined")
    try:
        whole = forked(lambda: inliner.inline_local_functions(model).SerializeToString())
        return onnx.ModelProto.FromString(whole)
    except (LostError, ValueError) as why:
        raise InputError(f"{label}: its functions can't be inlined: {why}") from why


def _cost(
    node: onnx.NodeProto,
    bodies: dict[Key, onnx.FunctionProto],
    sizes: dict[Key, int],
    calling: tuple[Key, ...],
    label: str,
) -> int:
    """The nodes that a node becomes."""
    total = 1
    for graph in subgraphs(node):
        total += sum(_cost(n, bodies, sizes, calling, label) for n in graph.node)
    key = (node.domain, node.op_type, node.overload)
    if key not in bodies:
        return total
    if key in calling or len(calling) > 100:
        raise InputError(f"{label}: the function {node.op_type!r} calls itself")
    if key not in sizes:
        inner = bodies[key].node
        sizes[key] = sum(_cost(n, bodies, sizes, (*calling, key), label) for n in inner)
    return total + sizes[key]
