"""Values between two processes of ours: JSON for the structure, raw bytes for arrays; no pickle.

A frame is the length of the JSON (8 bytes, little-endian), the JSON `[value, lengths]`, and the
buffers of those lengths. In `value` a list stands for itself and an object `{tag: ...}` for what
JSON lacks: "array", "strings", "bytes", "path", "map".
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from graphopt.ir.types import Array, DType

Buffers = list[Any]


class FrameError(ValueError):
    """What was read is not a whole frame."""


def write(stream: BinaryIO, value: Any) -> None:
    """Write one frame; tuples become lists."""
    buffers: Buffers = []
    tree = _pack(value, buffers)
    head = json.dumps([tree, [len(b) for b in buffers]]).encode("ascii")
    stream.write(struct.pack("<Q", len(head)) + head)
    for buffer in buffers:
        stream.write(buffer)
    stream.flush()


def read(stream: BinaryIO) -> Any:
    """Read one frame.

    Raises:
        EOFError: the stream ended before it.
        FrameError: it ended within it, or isn't one.
    """
    start = stream.read(8)
    if not start:
        raise EOFError
    if len(start) < 8:
        raise FrameError("a frame of less than 8 bytes")
    try:
        tree, lengths = json.loads(_exactly(stream, struct.unpack("<Q", start)[0]))
        return _unpack(tree, [_exactly(stream, n) for n in lengths])
    except (ValueError, TypeError, KeyError, IndexError) as why:
        raise FrameError(str(why)) from why


def _exactly(stream: BinaryIO, count: int) -> bytes:
    found = stream.read(count)
    if len(found) != count:
        raise FrameError(f"{len(found)} bytes where {count} should be")
    return found


def _pack(value: Any, buffers: Buffers) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return {"bytes": _keep(value, buffers)}
        case Path():
            return {"path": str(value)}
        case dict():
            items = cast("dict[Any, Any]", value).items()
            return {"map": [[_pack(k, buffers), _pack(v, buffers)] for k, v in items]}
        case list() | tuple():
            return [_pack(v, buffers) for v in cast("list[Any]", value)]
        case _:
            return _pack_array(np.asarray(value), buffers)


def _pack_array(array: np.ndarray[Any, Any], buffers: Buffers) -> Any:
    dtype = DType.of(array)
    if dtype is DType.string:
        flat = [_pack(v, buffers) for v in array.reshape(-1).tolist()]
        return {"strings": [list(array.shape), flat]}
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return {"array": [str(dtype), list(array.shape), _keep(raw.data, buffers)]}


def _keep(raw: Any, buffers: Buffers) -> int:
    buffers.append(raw)
    return len(buffers) - 1


def _unpack(tree: Any, buffers: list[bytes]) -> Any:
    if isinstance(tree, list):
        return [_unpack(v, buffers) for v in cast("list[Any]", tree)]
    if not isinstance(tree, dict):
        return tree
    ((tag, what),) = cast("dict[str, Any]", tree).items()
    match tag:
        case "array":
            dtype, shape, index = cast("tuple[str, list[int], int]", what)
            raw = bytearray(buffers[index])  # a copy, so that the array may be written to
            flat: Array = np.frombuffer(raw, DType.from_value(dtype).numpy)
            return flat.reshape(shape)
        case "strings":
            shape, items = cast("tuple[list[int], list[Any]]", what)
            strings: Array = np.array([_unpack(v, buffers) for v in items], object)
            return strings.reshape(shape)
        case "bytes":
            return buffers[cast("int", what)]
        case "path":
            return Path(cast("str", what))
        case "map":
            return {_unpack(k, buffers): _unpack(v, buffers) for k, v in cast("list[Any]", what)}
        case _:
            raise FrameError(f"unknown tag {tag!r}")
