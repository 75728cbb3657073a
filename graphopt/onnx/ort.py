"""ONNX Runtime sessions; it is imported when the first one is made (0.2 s)."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from graphopt.ir.data import from_bytes, to_bytes
from graphopt.ir.types import Array, DType

_QUIET = 4  # fatal errors only: what fails is raised, and warnings are about the user's model
_USER_TYPES = 256  # numbers from here on are of dtypes that numpy has not got itself


def load_onnxruntime() -> Any:
    """The module onnxruntime, its telemetry off (it is on by default since 1.31)."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def open_session(
    source: bytes | Path, *, optimize: bool = False, threads: int | None = None
) -> Any:
    """An InferenceSession on the CPU.

    Args:
        source: a serialised model, or its path.
        optimize: whether ONNX Runtime may rewrite the graph (all its levels, or none).
        threads: intra-op threads (default: ONNX Runtime's choice).

    Raises:
        Exception: whatever ONNX Runtime raises, which has no useful class of its own.
    """
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = threads or 0
    if not optimize:  # threads that wait in a loop help timings alone, for twice the CPU time
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    given = source if isinstance(source, bytes) else str(source)
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def run_session(session: Any, feeds: Mapping[str, Any]) -> list[Any]:
    """The outputs in order, for inputs by name.

    Tensors of types that numpy hasn't got (bfloat16, float8, 4-bit integers) are ml_dtypes arrays.
    """
    types = [o.type for o in session.get_outputs()]
    if all(_native(v) for v in feeds.values()) and not any(_NARROW & set(_words(t)) for t in types):
        return session.run(None, dict(feeds))
    values = {k: _to_ort(v) for k, v in feeds.items()}
    return [_from_ort(v) for v in session.run_with_ort_values(None, values)]


# What ONNX Runtime calls the element types that numpy hasn't got.
_NARROW = {
    "bfloat16", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "int4", "uint4",
    "float4e2m1", "float8e8m0", "int2", "uint2",
}  # fmt: skip


def _words(type_: str) -> list[str]:
    return type_.replace("(", " ").replace(")", " ").split()


def _native(value: Any) -> bool:
    return not isinstance(value, np.ndarray) or cast("Array", value).dtype.num < _USER_TYPES


def _to_ort(value: Any) -> Any:
    make = load_onnxruntime().OrtValue
    array = np.ascontiguousarray(value).reshape(np.shape(value))
    if _native(array):
        return make.ortvalue_from_numpy(array)
    dtype = DType.of(array)
    unit = np.uint16 if dtype.bits == 16 else np.uint8
    if dtype.bits >= 8:
        return make.ortvalue_from_numpy_with_onnx_type(array.view(unit), dtype.onnx)
    packed = make.ortvalue_from_shape_and_type(list(array.shape), dtype.onnx)
    raw = to_bytes(array, dtype)
    ctypes.memmove(packed.data_ptr(), raw, len(raw))
    return packed


def _from_ort(value: Any) -> Any:
    if not value.is_tensor():
        return value.to_numpy() if hasattr(value, "to_numpy") else value.numpy()
    dtype = DType.from_onnx(value.element_type())
    if dtype.numpy.num < _USER_TYPES:
        return value.numpy()
    shape = tuple(value.shape())
    length = (math.prod(shape) * dtype.bits + 7) // 8
    raw = ctypes.string_at(value.data_ptr(), length) if length else b""
    return from_bytes(raw, dtype, shape)


def first_line(why: BaseException) -> str:
    """The part of ONNX Runtime's message that says something, on one line."""
    text = str(why).strip().split("\n")[0]
    return text.split(" Status Message: ")[-1][:400]


def spec_shape(array: Array | Sequence[Any]) -> str:
    """An array's type for a message."""
    return f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else "a list"
