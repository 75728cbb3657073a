"""The reference: ONNX Runtime with its optimizer off, on the original model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from graphopt.errors import GraphoptError, InputError
from graphopt.ir.core import Module
from graphopt.ir.data import nbytes
from graphopt.ir.types import Array, ValueType
from graphopt.onnx.engine import Engine
from graphopt.onnx.exporter import MAX_MESSAGE, export, to_proto
from graphopt.onnx.isolated import Remote
from graphopt.onnx.read import open_model
from graphopt.onnx.types import read_type
from graphopt.onnx.write import save

Source = str | Path | bytes | onnx.ModelProto | Module


class Reference:
    """Runs a model as it is, for the numbers that everything else is held against.

    `inputs` and `outputs` are the types by name, `engine` is what runs it: ONNX Runtime, or
    onnx.reference for models that ONNX Runtime can't read (too new an opset, say).
    """

    def __init__(
        self, source: Source, *, optimize: bool = False, threads: int | None = None
    ) -> None:
        """Load a model.

        Args:
            source: a path, bytes, ModelProto or Module.
            optimize: let ONNX Runtime optimize (to compare speed, not numbers).
            threads: intra-op threads (default: ONNX Runtime's choice).

        Raises:
            InputError: it is no model, or nothing here can run it.
            LimitError: loading it takes more memory or time than the limits (graphopt.limits).
        """
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        given = self._written(source) if isinstance(source, Module) else source
        stripped, sources = open_model(given)
        self.label = sources.label
        graph = stripped.graph
        constants = {t.name for t in graph.initializer}
        constants |= {t.values.name for t in graph.sparse_initializer}
        self.inputs: dict[str, ValueType] = {
            i.name: read_type(i.type, self.label) for i in graph.input if i.name not in constants
        }
        self.outputs: dict[str, ValueType] = {
            o.name: read_type(o.type, self.label) for o in graph.output
        }
        self._engine = self._open(given, optimize, threads)
        self.engine = self._engine.name

    def _written(self, module: Module) -> Path | onnx.ModelProto:
        """A module as a message, or as a file where it is too large for one."""
        if sum(map(nbytes, export(module).weights.values())) < MAX_MESSAGE // 2:
            return to_proto(module)
        self._folder = tempfile.TemporaryDirectory(prefix="graphopt-")
        path = Path(self._folder.name) / "model.onnx"
        save(module, path)
        return path

    def _open(
        self, source: str | Path | bytes | onnx.ModelProto, optimize: bool, threads: int | None
    ) -> Engine | Remote:
        """In a process of its own, for it may crash; in this one where speed is to be seen."""
        given = source.SerializeToString() if isinstance(source, onnx.ModelProto) else source
        given = Path(given) if isinstance(given, str) else given
        try:
            return Engine(given, True, threads) if optimize else Remote(given, threads)
        except GraphoptError as why:
            raise type(why)(f"{self.label}: {why}") from why

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """The outputs by name (sequences are lists).

        Raises:
            InputError: an input is missing or unknown, or doesn't fit the model; it crashes.
            LimitError: it takes more memory or time than the limits (graphopt.limits).
        """
        missing = [n for n in self.inputs if n not in inputs]
        unknown = [n for n in inputs if n not in self.inputs]
        if missing or unknown:
            words = f"lacks {missing}" if missing else f"has the unknown {unknown}"
            raise InputError(f"{self.label}: the data {words}; inputs are {list(self.inputs)}")
        try:
            found = self._engine.run(inputs)
        except GraphoptError as why:
            raise type(why)(f"{self.label}: {why}") from why
        return dict(zip(self.outputs, found, strict=True))
