"""Metrics of the shipped models, measured with ONNX Runtime (numpy and onnxruntime only)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

ort: Any = onnxruntime  # its annotations are incomplete
Array = NDArray[Any]
BATCH = 100


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def open_session(path: Path) -> Any:
    """Open a model on the CPU with ONNX Runtime's own graph optimizer switched off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def predict(path: Path, inputs: dict[str, Array]) -> Array:
    """Run a model in batches and return its first output for all samples."""
    session = open_session(path)
    samples = len(next(iter(inputs.values())))
    parts: list[Array] = []
    for start in range(0, samples, BATCH):
        batch = {name: value[start : start + BATCH] for name, value in inputs.items()}
        parts.append(session.run(None, batch)[0])
    return np.concatenate(parts)


def top1(logits: Array, labels: Array) -> float:
    """Return the percentage of samples whose largest logit is at the label."""
    return 100.0 * float((logits.argmax(axis=1) == labels).mean())


def mean_iou(logits: Array, labels: Array) -> float:
    """Return the mean over samples of foreground intersection over union, in percent."""
    predicted = (logits > 0).reshape(len(logits), -1)
    expected = (labels > 0).reshape(len(labels), -1)
    intersection = (predicted & expected).sum(axis=1)
    union = (predicted | expected).sum(axis=1)
    return 100.0 * float(np.mean(np.where(union == 0, 1.0, intersection / np.maximum(union, 1))))


METRICS: dict[str, Callable[[Array, Array], float]] = {"top1": top1, "mean_iou": mean_iou}


def measure(path: Path, metric: str, arrays: dict[str, Array]) -> float:
    """Return a model's metric in percent on arrays keyed by input name plus `labels`."""
    inputs = {name: value for name, value in arrays.items() if name != "labels"}
    return METRICS[metric](predict(path, inputs), arrays["labels"])
