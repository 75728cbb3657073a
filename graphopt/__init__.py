"""graphopt: a compiler-style optimizer for neural networks in ONNX.

import graphopt
result = graphopt.optimize("model.onnx", target="x86")
result.save("model.graphopt")
outputs = graphopt.Session("model.graphopt").run({"x": array})
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.api import Result, load, optimize, parse, save
    from graphopt.errors import GraphoptError
    from graphopt.ir.core import Module
    from graphopt.pipeline import Context, Pass, PassResult
    from graphopt.profiler import profile
    from graphopt.runtime import Session

# Loaded on first use, so that `import graphopt` and `graphopt --help` stay fast.
_HOMES = {
    "Context": "graphopt.pipeline",
    "GraphoptError": "graphopt.errors",
    "Module": "graphopt.ir.core",
    "Pass": "graphopt.pipeline",
    "PassResult": "graphopt.pipeline",
    "Result": "graphopt.api",
    "Session": "graphopt.runtime",
    "load": "graphopt.api",
    "optimize": "graphopt.api",
    "parse": "graphopt.api",
    "profile": "graphopt.profiler",
    "save": "graphopt.api",
}

__all__ = ["Context", "GraphoptError", "Module", "Pass", "PassResult", "Result", "Session", "load",
           "optimize", "parse", "profile", "save"]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'graphopt' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
