"""Types of an opaque op's results, once more is known of its operands than when it was read."""

from __future__ import annotations

import onnx
from onnx import shape_inference

from graphopt.errors import GraphoptError
from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Op, Value
from graphopt.ir.types import TensorType, ValueType
from graphopt.onnx.inferred import inferable
from graphopt.onnx.single import single
from graphopt.onnx.types import read_type


def reinfer(op: Op) -> tuple[ValueType, ...] | None:
    """The result types of an opaque op by ONNX's inference on that node alone.

    None: the op has regions, its operands aren't all of static shape, or ONNX knows no more.
    """
    kind = op.kind
    if not isinstance(kind, Opaque) or op.regions or not all(map(_static, op.operands)):
        return None
    if all(isinstance(r.type, TensorType) and r.type.static is not None for r in op.results):
        return None
    model, _, outputs = single(op, kind)
    return _types(model, op, outputs)


def _static(value: Value | None) -> bool:
    return value is None or (isinstance(value.type, TensorType) and value.type.static is not None)


def _types(model: onnx.ModelProto, op: Op, names: list[str]) -> tuple[ValueType, ...] | None:
    """What inference says of each result, where that is more; else what the result has."""
    try:
        found = shape_inference.infer_shapes(inferable(model), data_prop=True).graph.output
        known = {o.name: read_type(o.type, o.name) for o in found if o.type.WhichOneof("value")}
    except (shape_inference.InferenceError, RuntimeError, ValueError, TypeError, GraphoptError):
        return None  # ONNX has no narrower class for "unknown opset" and so on
    types = tuple(
        known[n] if n in known and _better(r.type, known[n]) else r.type
        for n, r in zip(names, op.results, strict=True)
    )
    return types if types != tuple(r.type for r in op.results) else None


def _better(old: ValueType, new: ValueType) -> bool:
    """Whether a type is static where the old one isn't."""
    return isinstance(new, TensorType) and new.static is not None and old != new
