"""ONNX's TypeProto to our types and back."""

from __future__ import annotations

import onnx

from graphopt.errors import InputError
from graphopt.ir.types import (
    UNKNOWN,
    Dim,
    DType,
    MapType,
    OptionalType,
    SequenceType,
    SparseType,
    Sym,
    TensorType,
    UnknownType,
    ValueType,
)

MAX_SIZE = 2**63 - 1
Shape = tuple[Dim, ...] | None


def read_type(proto: onnx.TypeProto, where: str) -> ValueType:
    """Give the type that a TypeProto says; what ONNX leaves open is UnknownType.

    Raises:
        InputError: it names an element type that doesn't exist.
    """
    match proto.WhichOneof("value"):
        case "tensor_type":
            tensor = proto.tensor_type
            if tensor.elem_type == 0:
                return UnknownType()
            return TensorType(read_dtype(tensor.elem_type, where), _shape(tensor))
        case "sequence_type":
            return SequenceType(read_type(proto.sequence_type.elem_type, where))
        case "optional_type":
            return OptionalType(read_type(proto.optional_type.elem_type, where))
        case "map_type":
            key = read_dtype(proto.map_type.key_type, where)
            return MapType(key, read_type(proto.map_type.value_type, where))
        case "sparse_tensor_type":
            sparse = proto.sparse_tensor_type
            return SparseType(read_dtype(sparse.elem_type, where), _shape(sparse))
        case _:
            return UnknownType()


def read_dtype(code: int, where: str) -> DType:
    """The element type of a TensorProto code (InputError where there is none)."""
    try:
        return DType.from_onnx(code)
    except KeyError:
        raise InputError(f"{where}: there is no element type {code}") from None


def _shape(proto: onnx.TypeProto.Tensor | onnx.TypeProto.SparseTensor) -> Shape:
    if not proto.HasField("shape"):
        return None
    return tuple(_dim(d) for d in proto.shape.dim)


def _dim(proto: onnx.TensorShapeProto.Dimension) -> Dim:
    if proto.HasField("dim_value"):
        return proto.dim_value if proto.dim_value >= 0 else UNKNOWN
    name = proto.dim_param
    return UNKNOWN if name in ("", "?") else Sym.read(name)


def write_type(type_: ValueType) -> onnx.TypeProto:
    """The TypeProto of a type; empty for UnknownType."""
    proto = onnx.TypeProto()
    match type_:
        case TensorType():
            proto.tensor_type.elem_type = type_.dtype.onnx
            _write_shape(proto.tensor_type, type_.shape)
        case SequenceType():
            proto.sequence_type.elem_type.CopyFrom(write_type(type_.of))
        case OptionalType():
            proto.optional_type.elem_type.CopyFrom(write_type(type_.of))
        case MapType():
            proto.map_type.key_type = type_.key.onnx
            proto.map_type.value_type.CopyFrom(write_type(type_.of))
        case SparseType():
            proto.sparse_tensor_type.elem_type = type_.dtype.onnx
            _write_shape(proto.sparse_tensor_type, type_.shape)
        case UnknownType():
            pass
    return proto


def _write_shape(proto: onnx.TypeProto.Tensor | onnx.TypeProto.SparseTensor, shape: Shape) -> None:
    if shape is None:
        return
    proto.shape.SetInParent()
    for d in shape:
        dim = proto.shape.dim.add()
        if isinstance(d, int):
            dim.dim_value = min(d, MAX_SIZE)
        elif d != UNKNOWN:
            dim.dim_param = d.name if d == Sym(d.name) else str(d)


def value_info(name: str, type_: ValueType) -> onnx.ValueInfoProto:
    """A named type."""
    proto = onnx.ValueInfoProto(name=name)
    if not isinstance(type_, UnknownType):
        proto.type.CopyFrom(write_type(type_))
    return proto
