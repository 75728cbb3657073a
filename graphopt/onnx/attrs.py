"""AttributeProto to plain Python values and back.

An attribute is an int, float, str or a tuple of them; any other sort (a tensor, a type, an empty
list, whose sort plain Python can't tell) is kept as the bytes of its AttributeProto.
"""

from __future__ import annotations

from typing import Any, cast

import onnx

from graphopt.errors import InputError
from graphopt.ir.data import Data
from graphopt.onnx.external import Sources
from graphopt.onnx.tensors import read_tensor, write_tensor

A = onnx.AttributeProto
_SINGLE = {A.INT: "i", A.FLOAT: "f"}
_LISTS = {A.INTS: "ints", A.FLOATS: "floats"}
GRAPHS = (A.GRAPH, A.GRAPHS)


def text(raw: bytes) -> str:
    """ONNX strings are bytes; those that aren't UTF-8 survive too."""
    return raw.decode("utf-8", "surrogateescape")


def read_attribute(proto: onnx.AttributeProto, sources: Sources | None, where: str) -> object:
    """An attribute's value, as `Opaque.attrs` holds it.

    Args:
        proto: any attribute that is no graph.
        sources: where the bytes of tensors are that were cut out of the message.
        where: the node, for messages.
    """
    sort = proto.type
    if sort in _SINGLE:
        return getattr(proto, _SINGLE[sort])
    if sort == A.STRING:
        return text(proto.s)
    if sort in _LISTS and len(getattr(proto, _LISTS[sort])):
        return tuple(getattr(proto, _LISTS[sort]))
    if sort == A.STRINGS and len(proto.strings):
        return tuple(map(text, proto.strings))
    if sort == A.UNDEFINED:
        raise InputError(f"{where}: attribute {proto.name!r} has no type")
    return _whole(proto, sources, where).SerializeToString(deterministic=True)


def _whole(proto: onnx.AttributeProto, sources: Sources | None, where: str) -> onnx.AttributeProto:
    """The attribute with its tensors' bytes put back."""
    tensors = [*([proto.t] if proto.HasField("t") else []), *proto.tensors]
    if sources is None or all(t.data_location != onnx.TensorProto.EXTERNAL for t in tensors):
        return proto
    whole = onnx.AttributeProto()
    whole.CopyFrom(proto)
    for t in [*([whole.t] if whole.HasField("t") else []), *whole.tensors]:
        t.CopyFrom(write_tensor(read_tensor(t, sources, where), t.name))
    return whole


def plain(value: object) -> object:
    """An attribute of `Opaque` for a converter: bytes become data, empty lists `()`."""
    if not isinstance(value, bytes):
        return value
    proto = onnx.AttributeProto.FromString(value)
    if proto.type == A.TENSOR:
        return tensor_data(proto.t)
    if proto.type in (A.INTS, A.FLOATS, A.STRINGS):
        return ()
    return proto


def tensor_data(tensor: onnx.TensorProto) -> Data:
    """The data of a tensor that is whole."""
    return read_tensor(tensor, Sources("attribute", None, None), "an attribute's tensor")


def write_attribute(name: str, value: object, sort: int | None = None) -> onnx.AttributeProto:
    """The AttributeProto of a value as `Opaque.attrs` holds it, or a TensorProto.

    Args:
        name: the attribute's name.
        value: int, float, str, a tuple of them, bytes (of an AttributeProto), or a message.
        sort: the AttributeProto.AttributeType, needed for an empty tuple alone.
    """
    if isinstance(value, bytes):
        proto = onnx.AttributeProto.FromString(value)
        proto.name = name
        return proto
    proto = onnx.AttributeProto(name=name)
    match value:
        case bool() | int():
            proto.type, proto.i = A.INT, int(value)
        case float():
            proto.type, proto.f = A.FLOAT, value
        case str():
            proto.type, proto.s = A.STRING, value.encode("utf-8", "surrogateescape")
        case onnx.TensorProto():
            proto.type = A.TENSOR
            proto.t.CopyFrom(value)
        case onnx.GraphProto():
            proto.type = A.GRAPH
            proto.g.CopyFrom(value)
        case tuple():
            _write_list(proto, cast("tuple[Any, ...]", value), sort)
        case _:
            raise TypeError(f"attribute {name!r} is a {type(value).__name__}")
    return proto


def _write_list(proto: onnx.AttributeProto, items: tuple[Any, ...], sort: int | None) -> None:
    if sort is not None and not items:
        proto.type = cast("Any", sort)
    elif any(isinstance(v, str) for v in items):
        proto.type = A.STRINGS
        proto.strings.extend(v.encode("utf-8", "surrogateescape") for v in items)
    elif any(isinstance(v, float) for v in items):
        proto.type = A.FLOATS
        proto.floats.extend(items)
    else:
        proto.type = A.INTS
        proto.ints.extend(items)
