"""Segments of the model that aren't compiled, run by ONNX Runtime (loaded for them only)."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError, InputError, UnsupportedError
from graphopt.runtime.manifest import Manifest, Segment


class SegmentRunner:
    """The ONNX Runtime sessions of a bundle's segments; may be used by several threads at once.

    They run with ORT_ENABLE_BASIC: what that level does (folding, removing redundant nodes) keeps
    the numbers. The levels above may fuse int8 ops into kernels that saturate on some CPUs, and
    would so give numbers that depend on the machine.
    """

    def __init__(self, bundle: Path, manifest: Manifest, threads: int) -> None:
        """Load every segment; UnsupportedError if there are any and onnxruntime is missing."""
        self._sessions: dict[str, Any] = {}
        models = [s.model for s in manifest.steps if isinstance(s, Segment)]
        if not models:
            return
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it is on unless one says so
        try:
            ort: Any = importlib.import_module("onnxruntime")
        except ImportError as error:
            text = "parts of this bundle run in onnxruntime: run `pip install onnxruntime`"
            raise UnsupportedError(text) from error
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.log_severity_level = 3
        for model in models:
            self._sessions[model] = _open(ort, bundle / model, options)

    def run(self, segment: Segment, feeds: Mapping[str, Any]) -> list[Any]:
        """Run one segment: its outputs, in the order that the segment lists them."""
        session = self._sessions[segment.model]
        try:
            return session.run([name for name, _ in segment.outputs], dict(feeds))
        except Exception as error:  # onnxruntime has no common base class of its errors
            raise GraphoptError(f"{segment.model} failed in onnxruntime: {_line(error)}") from error


def _open(ort: Any, path: Path, options: Any) -> Any:
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common base class of its errors
        raise InputError(f"onnxruntime can't load {path}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
