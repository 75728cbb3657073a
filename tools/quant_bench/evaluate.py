"""One evaluator for all: ONNX Runtime on the CPU with its optimizer off.

Off, because then QuantizeLinear and DequantizeLinear mean what they say (ONNX's definition, in
float32), the same for every tool's file, and nothing depends on whether this machine's integer
instructions saturate.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from .metrics import Array
from .task import Feed, Task

ort: Any = onnxruntime  # its annotations are incomplete
BATCH = 50


def open_session(path: Path, threads: int = 0) -> Any:
    """A session without graph optimizations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def characters(path: Path) -> str:
    """The characters that a recogniser's file lists, one a line, and the space after them."""
    listed = open_session(path).get_modelmeta().custom_metadata_map["character"]
    return "".join(listed.split("\n")) + " "


def outputs(task: Task, path: Path, threads: int) -> Array:
    """What a model makes of all evaluation samples, in batches as large as it takes."""
    session = open_session(path, threads)
    names = {i.name for i in session.get_inputs()}
    fixed = session.get_inputs()[0].shape[0]
    size = fixed if isinstance(fixed, int) else BATCH
    found = [
        task.reduce(session.run(None, {k: v for k, v in feed.items() if k in names})[0], feed)
        for feed in _batches(task.inputs, size)
    ]
    return np.concatenate(found)


def _batches(inputs: Feed, size: int) -> Iterator[dict[str, Array]]:
    count = len(next(iter(inputs.values())))
    for start in range(0, count, size):
        yield {name: array[start : start + size] for name, array in inputs.items()}
