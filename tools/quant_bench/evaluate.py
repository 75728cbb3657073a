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
import onnx
import onnxruntime

from .metrics import Array
from .task import Feed, Task

ort: Any = onnxruntime  # its annotations are incomplete
BATCH = 50


def open_session(model: Path | bytes, threads: int = 0) -> Any:
    """A session without graph optimizations, of a file or of what would be in it."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


AFTER = ("Cast", "Identity", "Reshape", "QuantizeLinear", "DequantizeLinear")
"""What tools put after a last softmax: old models that they convert get reshapes."""


def without_softmax(path: Path) -> bytes:
    """The model with nothing in the place of the softmax that its first output comes from, if any.

    Nor of the quantization of its probabilities, which would clip logits.
    """
    model: Any = onnx.load_model_from_string(path.read_bytes())
    makers = {name: node for node in model.graph.node for name in node.output}
    path_back, node = list[Any](), makers.get(model.graph.output[0].name)
    while node is not None and node.op_type in AFTER:
        path_back.append(node)
        node = makers.get(node.input[0])
    if node is not None and node.op_type == "Softmax":
        for one in (node, *(n for n in path_back if n.op_type.endswith("Linear"))):
            one.op_type = "Identity"
            del one.attribute[:], one.input[1:]
    return model.SerializeToString()


def characters(path: Path) -> str:
    """The characters that a recogniser's file lists, one a line, and the space after them."""
    listed = open_session(path).get_modelmeta().custom_metadata_map["character"]
    return "".join(listed.split("\n")) + " "


def outputs(task: Task, path: Path, threads: int) -> Array:
    """The logits that a model makes of all evaluation samples, in batches as large as it takes."""
    session = open_session(without_softmax(path), threads)
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
