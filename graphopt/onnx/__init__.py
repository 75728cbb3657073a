"""ONNX in and out: the only importer of the onnx package, and the place of reference runs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.onnx.evaluate import evaluate_opaque
    from graphopt.onnx.exporter import to_proto
    from graphopt.onnx.read import load
    from graphopt.onnx.reference import Reference
    from graphopt.onnx.write import save

# Loaded on first use: the process that runs the reference needs none of them (0.5 s).
_HOMES = {
    "Reference": "reference", "evaluate_opaque": "evaluate", "load": "read", "save": "write",
    "to_proto": "exporter",
}  # fmt: skip

__all__ = ["Reference", "evaluate_opaque", "load", "save", "to_proto"]


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'graphopt.onnx' has no attribute {name!r}")
    return getattr(import_module(f"graphopt.onnx.{_HOMES[name]}"), name)
