"""The function by which ONNX itself defines an op (LayerNormalization, Attention, ...)."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import defs

from graphopt.errors import GraphoptError
from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Module, Op, Value
from graphopt.onnx.checks import MAX_OPSET, schema
from graphopt.onnx.forked import LostError, forked
from graphopt.onnx.read import load
from graphopt.onnx.single import single
from graphopt.onnx.types import write_type

LARGEST = 1 << 20  # bytes of a function: more is no definition but an unrolled loop
DOMAIN = "graphopt.definition"


def defined(kind: Opaque) -> bool:
    """Whether ONNX defines an op by a function."""
    found: Any = schema(kind.op_type, kind.version, kind.domain)  # onnx's annotations lack these
    return found is not None and (found.has_function or found.has_context_dependent_function)


def definition(op: Op) -> tuple[Module, list[Value]] | None:
    """The defining function of an opaque op, for its attributes and operands.

    Args:
        op: an op without regions, whose operands have known types.

    Returns:
        A module and the operands of `op` that its inputs stand for. The module's outputs are the
        results of `op` but those it leaves unnamed. None: ONNX has no function for it.
    """
    kind = op.kind
    if not isinstance(kind, Opaque) or op.regions or not defined(kind):
        return None
    model, inputs, _ = single(op, kind)
    (node,) = model.graph.node
    found: Any = schema(kind.op_type, kind.version, kind.domain)
    _complete(node, found)
    types = [write_type(v.type) if v else onnx.TypeProto() for v in op.operands]
    try:
        text = forked(lambda: _function(found, node, types))
        function = onnx.FunctionProto.FromString(text)
        if not text or len(text) > LARGEST:
            return None
        _call(model, function)
        module = load(model, name=f"the definition of {kind.op_type}")
    except (LostError, GraphoptError, ValueError):
        return None
    return module, [inputs[a.hint] for a in module.main.args]


def _complete(node: onnx.NodeProto, found: defs.OpSchema) -> None:
    """Write out the attributes that the node leaves to their defaults: functions refer to them."""
    given = {a.name for a in node.attribute}
    for name, attribute in found.attributes.items():
        if name not in given and attribute.default_value.type:
            node.attribute.append(attribute.default_value)


def _function(found: Any, node: onnx.NodeProto, types: list[onnx.TypeProto]) -> bytes:
    """The newest form of the function that the op's version has; it may depend on types."""
    fixed, typed = found.function_opset_versions, found.context_dependent_function_opset_versions
    if fixed:
        return found.get_function_with_opset_version(max(fixed))
    return found.get_context_dependent_function_with_opset_version(
        max(typed), node.SerializeToString(), [t.SerializeToString() for t in types]
    )


def _call(model: onnx.ModelProto, function: onnx.FunctionProto) -> None:
    """Make the model's one node call the function, under a name of its own."""
    (node,) = model.graph.node
    node.domain = function.domain = DOMAIN
    node.op_type = function.name
    del model.opset_import[:]  # the function's own, or it isn't inlined
    model.opset_import.extend(function.opset_import)
    model.opset_import.add(domain=DOMAIN, version=1)
    if not any(o.domain == "" for o in model.opset_import):
        model.opset_import.add(version=MAX_OPSET)
    model.functions.append(function)
