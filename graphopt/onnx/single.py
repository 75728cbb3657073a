"""One opaque op as an ONNX model, for what ONNX itself knows of it: types, a defining function."""

from __future__ import annotations

import onnx

from graphopt.ir.builtin import Const, Opaque
from graphopt.ir.core import Op, Value
from graphopt.ir.data import nbytes
from graphopt.onnx.attrs import write_attribute
from graphopt.onnx.opset import ir_version
from graphopt.onnx.tensors import write_tensor
from graphopt.onnx.types import value_info

SMALL = 1 << 12  # bytes: larger constants are no parameters that ONNX would look at


def single(op: Op, kind: Opaque) -> tuple[onnx.ModelProto, dict[str, Value], list[str]]:
    """A model of an opaque op without regions.

    Returns:
        The model; the operands that are its inputs, by name (a small constant is an initializer);
        the name of each result, empty for one that the op leaves unnamed.
    """
    names = [f"x{i}" if v else "" for i, v in enumerate(op.operands)]
    outputs = ["" if i in kind.missing else f"y{i}" for i in range(len(op.results))]
    node = onnx.NodeProto(op_type=kind.op_type, domain=kind.domain, input=names, output=outputs)
    node.attribute.extend(write_attribute(k, v) for k, v in kind.attrs)
    graph, inputs = onnx.GraphProto(name="node", node=[node]), dict[str, Value]()
    for name, value in zip(names, op.operands, strict=True):
        if value and not _parameter(graph, name, value):
            inputs[name] = value
            graph.input.append(value_info(name, value.type))
    graph.output.extend(onnx.ValueInfoProto(name=o) for o in outputs if o)
    domains = {kind.domain: kind.version}
    model = onnx.ModelProto(graph=graph, ir_version=max(ir_version(domains, set()), 10))
    model.opset_import.add(domain=kind.domain, version=kind.version)
    return model, inputs, outputs


def _parameter(graph: onnx.GraphProto, name: str, value: Value) -> bool:
    """Make a small constant an initializer of the graph; tell whether it is one."""
    data = value.op.kind.data if value.op and isinstance(value.op.kind, Const) else None
    if data is None or nbytes(data) > SMALL:
        return False
    graph.initializer.append(write_tensor(data, name))
    return True
