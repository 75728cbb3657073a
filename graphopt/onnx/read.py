"""Reading models: a path, bytes or a ModelProto to a Module."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from graphopt.errors import GraphoptError, InputError
from graphopt.ir.core import Module
from graphopt.onnx.checks import is_text
from graphopt.onnx.external import Sources, open_file, pin
from graphopt.onnx.functions import inline
from graphopt.onnx.importer import Importer
from graphopt.onnx.wire import strip

MAX_MESSAGE = 2**31 - 1  # protobuf reads no more


def load(source: str | Path | bytes | onnx.ModelProto, *, name: str | None = None) -> Module:
    """Read an ONNX model.

    Weights aren't read: those of a file are mapped, in the model or in external data beside it.
    Initializers are constants, also those that are inputs too (overridable defaults in ONNX).

    Args:
        source: the model's path, its bytes, or the message.
        name: what messages and the module call it (default: the path, and the graph's name).

    Raises:
        InputError: it is no model, a malformed one, or its external data is missing, too short or
            outside the model's folder; the message names the model and the node.
        UnsupportedError: its opset is older than 7 or unknown to the installed onnx.
    """
    model, sources = open_model(source, name)
    path = sources.path
    title = name or model.graph.name or (path.stem if path else "model")
    model = inline(model, sources.label)
    try:
        return Importer(model, sources).module(title)
    except RecursionError:
        raise InputError(f"{sources.label}: subgraphs or types are nested too deeply") from None


def open_model(
    source: str | Path | bytes | onnx.ModelProto, name: str | None = None
) -> tuple[onnx.ModelProto, Sources]:
    """The message without its weights, and where those are (errors as in load)."""
    if isinstance(source, onnx.ModelProto):
        return _checked(source, name or "<model>"), Sources(name or "<model>", None, None)
    if isinstance(source, bytes | bytearray | memoryview):
        label, view = name or "<bytes>", memoryview(source)
        return _parsed(view, label), Sources(label, view, None)
    path = _path(source)
    label = name or str(path)
    try:
        file = pin(open_file(path, label))
    except GraphoptError:
        raise
    except OSError as why:
        raise InputError(f"{label}: can't read the file: {why.strerror}") from why
    return _parsed(file.bytes(0, file.size), label), Sources(label, file, path)


def _path(source: object) -> Path:
    """What is none of the others must be a path.

    Raises:
        InputError: it isn't.
    """
    if isinstance(source, str):
        return Path(source)
    if isinstance(source, Path):
        return source
    kind = type(source).__name__
    raise InputError(f"a model is a path, bytes or a ModelProto, not an object of type {kind}")


def _parsed(view: memoryview, label: str) -> onnx.ModelProto:
    if not len(view):
        raise InputError(f"{label}: the file is empty")
    stripped = strip(view, label)
    if len(stripped) > MAX_MESSAGE:
        raise InputError(f"{label}: is larger than protobuf's 2 GB even without its weights")
    try:
        return _checked(onnx.ModelProto.FromString(stripped), label)
    except (DecodeError, RecursionError) as why:
        raise InputError(f"{label}: not an ONNX model, or a damaged one ({why})") from None


def _checked(model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    if not model.HasField("graph") or not model.graph.output:
        raise InputError(f"{label}: not an ONNX model: it has no graph with an output")
    texts = [model.graph.name, *(o.domain for o in model.opset_import)]
    texts += [t for p in model.metadata_props for t in (p.key, p.value)]
    if not all(map(is_text, texts)):
        raise InputError(f"{label}: a name in it isn't text: the file is damaged")
    return model
