"""Types of values as ONNX's own shape inference tells them; run once, and only if asked."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import shape_inference

from graphopt.errors import InputError
from graphopt.ir.types import UnknownType, ValueType
from graphopt.onnx.attrs import GRAPHS
from graphopt.onnx.forked import LostError, forked
from graphopt.onnx.types import read_type

# Functions that have neither an inference of their own nor one that comes from their bodies.
WITHOUT_INFERENCE = {"GroupNormalization", "MeanVarianceNormalization"}
Path = tuple[int, ...]  # of a graph: node, attribute, position in it, and so on inwards


class Inferred:
    """The types of all values of a model, graph by graph."""

    def __init__(self, model: onnx.ModelProto, label: str) -> None:
        """Remember the model; inference runs at the first question."""
        self.model, self.label = model, label
        self.graphs: dict[Path, dict[str, onnx.TypeProto]] | None = None

    def type(self, path: Path, name: str) -> ValueType:
        """The type of a value of the graph at `path`; UnknownType where nothing is known."""
        if self.graphs is None:
            known = _infer(self.model).graph
            self.graphs = {where: _types(one) for where, one in _graphs(known, ())}
        proto = self.graphs.get(path, {}).get(name)
        return UnknownType() if proto is None else read_type(proto, f"{self.label}: {name!r}")


def _infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with types, as far as inference comes; one on which it fails is given back."""
    try:
        return _forked(inferable(model), data_prop=True)
    except (LostError, ValueError):
        return model


def inferable(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose values have the same types, without the ops that ONNX infers nothing for.

    The model itself, if it has none of them; all give what their first operand is.
    """
    if not any(map(_without_inference, _nodes(model.graph))):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in filter(_without_inference, _nodes(copy.graph)):
        node.op_type = "Identity"
        del node.input[1:], node.attribute[:]
    return copy


def _without_inference(node: onnx.NodeProto) -> bool:
    known = node.domain in ("", "ai.onnx") and node.op_type in WITHOUT_INFERENCE
    return known and len(node.input) > 0 and len(node.output) == 1


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Those of a graph and of the graphs in it."""
    return (node for _, one in _graphs(graph, ()) for node in one.node)


def _forked(model: onnx.ModelProto, **options: bool) -> onnx.ModelProto:
    """Run the inference where it may crash: an operand without a type is enough for some ops.

    Raises:
        LostError: it did.
        ValueError: it refuses the model.
    """
    whole = forked(lambda: shape_inference.infer_shapes(model, **options).SerializeToString())
    return onnx.ModelProto.FromString(whole)


def _graphs(graph: onnx.GraphProto, path: Path) -> Iterator[tuple[Path, onnx.GraphProto]]:
    """A graph and the graphs in it, each with where it is."""
    yield path, graph
    for n, node in enumerate(graph.node):
        for a, attribute in enumerate(node.attribute):
            if attribute.type not in GRAPHS:
                continue
            for g, inner in enumerate([attribute.g, *attribute.graphs]):
                yield from _graphs(inner, (*path, n, a, g))


def _types(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    """Of a graph's values, as far as it says them."""
    infos = (*graph.input, *graph.value_info, *graph.output)
    return {i.name: i.type for i in infos if i.HasField("type")}


def check_types(node: onnx.NodeProto, operands: dict[str, onnx.TypeProto], opset: int) -> None:
    """Run ONNX's strict inference on one node.

    Raises:
        InputError: the operands don't fit the op; the message is ONNX's.
    """
    infos = [onnx.ValueInfoProto(name=k, type=v) for k, v in operands.items()]
    outputs = [onnx.ValueInfoProto(name=o) for o in node.output if o]
    graph = onnx.GraphProto(name="node", node=[node], input=infos, output=outputs)
    domains = [onnx.OperatorSetIdProto(domain="", version=opset)]
    model = onnx.ModelProto(ir_version=8, graph=graph, opset_import=domains)
    try:
        _forked(model, strict_mode=True)
    except (LostError, ValueError) as why:
        raise InputError(str(why)) from why
