"""One engine, one model, one thread: what is run by the emulated Python, which has only numpy.

    python peer.py ort|ncnn|litert MODEL FEED.npz OUT.npz

Runs the model twice, then once more between two calls of getpgid (see emulator/count.c), and writes
that run's outputs, in the engine's order, and how large the engine's libraries are. FEED has the inputs in the model's order, as ONNX has them.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = Any
Prepared = tuple[Callable[[], object], Callable[[], Sequence[Array]]]
"""What runs the model once, and what then tells the outputs."""


def ort(model: str, feed: Sequence[Array]) -> Prepared:
    """ONNX Runtime, all its optimizations on; inputs and outputs stay where they are."""
    tool: Any = importlib.import_module("onnxruntime")
    options = tool.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = tool.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = tool.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    first = session.run(None, dict(zip(names, feed, strict=True)))
    binding, make = session.io_binding(), tool.OrtValue.ortvalue_from_numpy
    results = [make(value) for value in first]
    for name, value in zip(names, feed, strict=True):
        binding.bind_ortvalue_input(name, make(value))
    for told, value in zip(session.get_outputs(), results, strict=True):
        binding.bind_ortvalue_output(told.name, value)
    return lambda: session.run_with_iobinding(binding), lambda: [r.numpy() for r in results]


def ncnn(model: str, feed: Sequence[Array]) -> Prepared:
    """Ncnn in float32 (its halves off); MODEL.param and MODEL.bin, batches left out."""
    tool: Any = importlib.import_module("ncnn")
    net = tool.Net()
    net.opt.num_threads = 1
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = net.opt.use_vulkan_compute = False
    if net.load_param(f"{model}.param") or net.load_model(f"{model}.bin"):
        raise SystemExit("ncnn can't load the model")
    mats = [tool.Mat(np.ascontiguousarray(value[0])).clone() for value in feed]
    found: list[Any] = []

    def run() -> None:
        with net.create_extractor() as extractor:
            for name, mat in zip(net.input_names(), mats, strict=True):
                extractor.input(name, mat)
            found[:] = [extractor.extract(name) for name in net.output_names()]

    def outputs() -> list[Array]:
        if any(code for code, _ in found):
            raise SystemExit("ncnn can't run the model")
        return [np.array(mat) for _, mat in found]

    return run, outputs


def litert(model: str, feed: Sequence[Array]) -> Prepared:
    """LiteRT with XNNPACK, which its interpreter chooses by itself."""
    tool: Any = importlib.import_module("ai_edge_litert.interpreter")
    interpreter = tool.Interpreter(model, num_threads=1)
    interpreter.allocate_tensors()
    for told, value in zip(interpreter.get_input_details(), feed, strict=True):
        interpreter.set_tensor(told["index"], _integers(placed(value, tuple(told["shape"])), told))
    results = interpreter.get_output_details()
    return interpreter.invoke, lambda: [
        _floats(interpreter.get_tensor(r["index"]), r) for r in results
    ]


def _integers(value: Array, told: Mapping[str, Any]) -> Array:
    """An input as the model takes it: of int8 where that is quantized."""
    if told["dtype"] is not np.int8 or value.dtype == np.int8:
        return value
    scale, zero = told["quantization"]
    return np.clip(np.rint(value / scale) + zero, -128, 127).astype(np.int8)


def _floats(value: Array, told: Mapping[str, Any]) -> Array:
    """An output as the original has it."""
    scale, zero = told["quantization"]
    return (value.astype(np.float32) - zero) * scale if value.dtype == np.int8 else value


def placed(value: Array, shape: tuple[int, ...]) -> Array:
    """An input as the converter wants it: as it is, or its channels last."""
    if value.shape == shape:
        return value
    last = np.moveaxis(value, 1, -1)
    if last.shape != shape:
        raise SystemExit(f"the converted model takes {shape}, not {value.shape}")
    return np.ascontiguousarray(last)


ENGINES: dict[str, Callable[[str, Sequence[Array]], Prepared]] = {
    "ort": ort,
    "ncnn": ncnn,
    "litert": litert,
}


def loaded() -> int:
    """Bytes of the shared libraries in memory that came from wheels other than numpy's."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    files = {words[5] for words in map(str.split, lines) if len(words) == 6}
    site = os.environ["PYTHONPATH"]
    inside = (f for f in files if f.startswith(site) and ".so" in f and "/numpy" not in f)
    return sum(map(os.path.getsize, inside))


def main() -> None:
    """Run it, the third time counted."""
    engine, model, feed, out = sys.argv[1:]
    with np.load(Path(feed)) as told:
        run, outputs = ENGINES[engine](model, [told[name] for name in told.files])
    gc.disable()
    run()
    run()
    os.getpgid(0)
    run()
    os.getpgid(0)
    np.savez(out, *outputs(), library=np.int64(loaded()))


if __name__ == "__main__":
    main()
