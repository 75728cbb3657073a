"""Other runtimes that `graphopt bench` times beside ours, each at its best on the same numbers."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import UnsupportedError

if TYPE_CHECKING:
    from graphopt.ir.types import Array

Feed = Mapping[str, Any]
Run = Callable[[], Any]

MISSING = "{0} isn't installed: pip install 'graphopt[bench]', or pip install {0}"
NARROW = ("bf16", "f16")  # OpenVINO takes float32 where the CPU doesn't compute in these
PEERS = ("onnxruntime", "openvino")


def peer_run(peer: str, model: Path, feed: Feed, threads: int) -> Run:
    """One of PEERS on an ONNX file; openvino_run and onnxruntime_run say what is raised."""
    if peer == "openvino":
        return openvino_run(model, feed, threads, precision_of(model))
    return onnxruntime_run(model, feed, threads)


def installed(peer: str) -> None:
    """Look for a peer's package without loading it.

    Raises:
        UnsupportedError: it isn't there; the message says how to install it.
    """
    if importlib.util.find_spec(peer) is None:
        raise UnsupportedError(f"--vs: {MISSING.format(peer)}")


def onnxruntime_run(model: Path, feed: Feed, threads: int) -> Run:
    """ONNX Runtime with all optimizations.

    Raises:
        UnsupportedError: it can't load the model.
        InputError: the file is no model.
    """
    from graphopt.onnx import Reference

    run = Reference(model, optimize=True, threads=threads)
    if run.engine != "onnxruntime":  # onnx.reference would be no peer
        raise UnsupportedError(f"{model}: ONNX Runtime can't load it, so there is nothing to time")
    return lambda: run.run(feed)


def openvino_run(model: Path, feed: Feed, threads: int, precision: str = "f32") -> Run:
    """OpenVINO with its latency hint, compiled for the inputs' very shapes.

    Args:
        model: ONNX.
        feed: inputs by name.
        threads: of one inference.
        precision: what it may compute floats in (`f32`, `bf16`, `f16`); a quantized model's
            integers stay integers. Its own default is bfloat16 where the CPU multiplies that.

    Raises:
        UnsupportedError: it isn't installed, or can't read, compile or run the model.
    """
    try:
        openvino: Any = importlib.import_module("openvino")
    except ImportError as why:
        raise UnsupportedError(MISSING.format("openvino")) from why
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
               "INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": 1}  # fmt: skip
    import numpy as np

    given: dict[str, Array] = {k: np.asarray(v, order="C") for k, v in feed.items()}
    try:
        core = openvino.Core()
        read = core.read_model(str(model))
        read.reshape({name: list(array.shape) for name, array in given.items()})
        request = core.compile_model(read, "CPU", options).create_infer_request()
        run = lambda: request.infer(given, share_inputs=True, share_outputs=True)  # noqa: E731
        run()
    except Exception as why:  # its classes derive from RuntimeError alone
        raise UnsupportedError(f"{model}: OpenVINO can't run it ({_last_line(why)})") from why
    return run


def precision_of(model: Path) -> str:
    """What OpenVINO may compute a model in: the 16-bit floats that some value is of, else `f32`."""
    from graphopt import api
    from graphopt.ir.types import TensorType

    values = (v.type for op in api.load(model).main.walk() for v in op.results)
    types = {str(t.dtype) for t in values if isinstance(t, TensorType)}
    return next((t for t in NARROW if t in types), "f32")


def _last_line(why: BaseException) -> str:
    """What OpenVINO's errors end in: the lines before say where in its sources."""
    lines = [text.strip() for text in str(why).splitlines() if text.strip()]
    return lines[-1] if lines else type(why).__name__
