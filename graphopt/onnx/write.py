"""Saving models: the message is streamed, so that weights never pass through protobuf."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import onnx

from graphopt.errors import InputError, UnsupportedError
from graphopt.ir.core import Module
from graphopt.ir.data import Data, Mapped, nbytes, to_bytes
from graphopt.onnx.exporter import MAX_MESSAGE, Written, export
from graphopt.onnx.wire import varint

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # of ModelProto, GraphProto, TensorProto
ALIGN = 4096  # bytes: external tensors begin at pages, so that they can be mapped


def save(
    module: Module, path: str | Path, *, opset: int | None = None, external: bool | None = None
) -> None:
    """Write a module as an ONNX file.

    The file appears whole or not at all: an existing one survives every failure. Equal modules
    give equal bytes.

    Args:
        module: what to write.
        path: the file; external data goes to `<path>.data` beside it.
        opset: see to_proto.
        external: whether weights go to a file of their own (default: only where the model would
            be over 2 GB, which protobuf can't hold).

    Raises:
        InputError: the path can't be written.
        UnsupportedError: a kind can't be expressed at the opset, or `external` is False and the
            model is over 2 GB.
    """
    target = Path(path)
    written = export(module, opset)
    total = sum(map(nbytes, written.weights.values())) + written.model.ByteSize()
    if external is None:
        external = total + 64 * len(written.weights) > MAX_MESSAGE
    elif not external and total > MAX_MESSAGE:
        raise UnsupportedError(f"{path}: the model is over 2 GB and needs external data")
    try:
        if external and written.weights:
            _save_external(written, target)
            return
        with _replacing(target) as file:
            _stream(written, file)
    except OSError as why:
        raise InputError(f"{path}: can't write the file: {why.strerror or why}") from why


def _save_external(written: Written, target: Path) -> None:
    data = target.with_name(target.name + ".data")
    with _replacing(target) as model_file:
        with _replacing(data) as file:
            for i, weight in written.weights.items():
                _pad(file)
                tensor = written.model.graph.initializer[i]
                _externalize(tensor, data.name, file.tell(), nbytes(weight))
                file.write(raw(weight))
        model_file.write(written.model.SerializeToString(deterministic=True))


def _pad(file: BinaryIO) -> None:
    file.write(b"\0" * (-file.tell() % ALIGN))


def _externalize(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    entries = {"location": location, "offset": str(offset), "length": str(length)}
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


@contextmanager
def _replacing(target: Path) -> Generator[BinaryIO]:
    """A file that takes `target`'s place once it is complete."""
    mode = target.stat().st_mode & 0o777 if target.is_file() else 0o666 & ~_umask()
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.resolve().parent)
    try:
        with os.fdopen(handle, "wb", buffering=1 << 20) as file:
            yield file
        os.chmod(name, mode)
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def raw(data: Data) -> bytes | memoryview:
    """The data's bytes as ONNX lays them out; those of a file aren't copied."""
    return data.raw if isinstance(data, Mapped) else to_bytes(data.numpy(), data.dtype)


def _stream(written: Written, file: BinaryIO) -> None:
    """The model's message, the graph last, its initializers at the end of it."""
    model, weights = written.model, written.weights
    tensors = list(model.graph.initializer)
    del model.graph.initializer[:]
    heads = [_head(t, weights.get(i)) for i, t in enumerate(tensors)]
    sizes = [len(h) + nbytes(weights[i]) if i in weights else len(h) for i, h in enumerate(heads)]
    prefixes = [varint(_INITIALIZER << 3 | 2) + varint(s) for s in sizes]
    graph = model.graph.SerializeToString(deterministic=True)
    model.ClearField("graph")
    total = len(graph) + sum(sizes) + sum(map(len, prefixes))
    file.write(model.SerializeToString(deterministic=True))
    file.write(varint(_GRAPH << 3 | 2) + varint(total) + graph)
    for i, (prefix, head) in enumerate(zip(prefixes, heads, strict=True)):
        file.write(prefix + head)
        if i in weights:
            file.write(raw(weights[i]))


def _head(tensor: onnx.TensorProto, weight: Data | None) -> bytes:
    """The tensor's message up to its data."""
    head = tensor.SerializeToString(deterministic=True)
    if weight is None:
        return head
    return head + varint(_RAW_DATA << 3 | 2) + varint(nbytes(weight))
