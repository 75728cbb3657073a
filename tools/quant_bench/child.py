"""Quantize one model with one tool, in a process of its own: seconds, peak memory, the tool's version.

    python -P tools/quant_bench/child.py '{"tool": ..., "model": ..., "data": ..., "out": ...}'

prints JSON. bench_quant.py runs it with the Python that has the tool (`--peer-python`), so at the
top it imports only the standard library. *Seconds* are all from reading the float32 model and the
samples to the written file, without Python's imports. The *peak* is the process's largest resident
set (VmHWM: getrusage would count the parent's before the exec), the tool's libraries included, plus
those of processes that it started (we run ONNX Runtime in one); Linux only.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

Work = Callable[[], None]
Job = dict[str, Any]


def feeds(data: str) -> Iterator[dict[str, Any]]:
    """The samples, in batches of 1."""
    import numpy as np

    with np.load(data) as file:
        arrays = {name: file[name] for name in file.files}
    for i in range(min(len(a) for a in arrays.values())):
        yield {name: a[i : i + 1] for name, a in arrays.items()}


def graphopt(job: Job) -> Work:
    """Our passes, given as pipeline text."""
    import graphopt as ours

    optimize = ours.optimize  # imports what it needs now

    def work() -> None:
        data = None if job.get("no_data") else job["data"]
        result = optimize(job["model"], None, job["passes"], data=data, check=False)
        result.save(job["out"])

    return work


def onnxruntime(job: Job) -> Work:
    """ONNX Runtime: its preprocessing, then quantize_static, u8 activations, s8 weights by channel."""
    q: Any = importlib.import_module("onnxruntime.quantization")
    samples = feeds(job["data"])

    def get_next(_: Any) -> dict[str, Any] | None:
        return next(samples, None)

    reader = type("Reader", (q.CalibrationDataReader,), {"get_next": get_next})
    method = getattr(q.CalibrationMethod, job["method"])

    def work() -> None:
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            ready = prepared(job["model"], folder)
            only = {"op_types_to_quantize": ["Conv", "Gemm", "MatMul"],
                    "nodes_to_exclude": attention(ready)} if job.get("linear") else {}  # fmt: skip
            q.quantize_static(
                ready, job["out"], reader(), calibrate_method=method, per_channel=True,
                activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
                **only,  # without CalibMaxIntermediateOutputs: 1.31 forgets the samples before
            )  # fmt: skip

    return work


def dynamic(job: Job) -> Work:
    """ONNX Runtime's dynamic quantizer: weights by channel, no samples."""
    q: Any = importlib.import_module("onnxruntime.quantization")

    def work() -> None:
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            q.quantize_dynamic(prepared(job["model"], folder), job["out"], per_channel=True,
                               weight_type=q.QuantType.QInt8)  # fmt: skip

    return work


def nncf(job: Job) -> Work:
    """NNCF's ONNX backend with bias correction, on what ONNX Runtime's preprocessing gives.

    Its fix for saturating instructions (weights of 7 bits) is off: the evaluator doesn't saturate.
    """
    onnx: Any = importlib.import_module("onnx")
    tool: Any = importlib.import_module("nncf")
    more: Any = importlib.import_module("nncf.quantization.advanced_parameters")
    tool.set_log_level(logging.ERROR)
    options: Job = {}
    if job.get("preset"):
        options["preset"] = getattr(tool.QuantizationPreset, job["preset"])
    if job.get("transformer"):
        options["model_type"] = tool.ModelType.TRANSFORMER
    advanced = more.AdvancedQuantizationParameters(overflow_fix=more.OverflowFix.DISABLE)
    if job.get("ranges"):
        estimators: Any = importlib.import_module("nncf.quantization.range_estimator")
        ranges = getattr(estimators.RangeEstimatorParametersSet, job["ranges"])
        advanced.activations_range_estimator_params = ranges

    def work() -> None:
        samples = list(feeds(job["data"]))
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            model = onnx.load(prepared(job["model"], folder))
        found = tool.quantize(model, tool.Dataset(samples), subset_size=len(samples),
                              advanced_parameters=advanced, **options)  # fmt: skip
        onnx.save(found, job["out"])

    return work


def prepared(model: str, folder: str) -> str:
    """ONNX Runtime's documented preprocessing (shapes, folding, fusion), at least opset 13.

    By channel works only from there. Its symbolic shape inference gives up on some models; it is
    a step that may be skipped.
    """
    shapes: Any = importlib.import_module("onnxruntime.quantization.shape_inference")
    raised, out = at_opset(model, 13, f"{folder}/raised.onnx"), f"{folder}/prepared.onnx"
    try:
        shapes.quant_pre_process(raised, out)
    except Exception:
        shapes.quant_pre_process(raised, out, skip_symbolic_shape=True)
    return out


def attention(path: str) -> list[str]:
    """The names of matrix products without weights."""
    graph: Any = importlib.import_module("onnx").load(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [n.name for n in graph.node if n.op_type == "MatMul" and not weights & set(n.input)]


def at_opset(model: str, least: int, out: str) -> str:
    """The model, converted if its opset is older."""
    onnx: Any = importlib.import_module("onnx")
    loaded = onnx.load(model)
    if all(o.domain or o.version >= least for o in loaded.opset_import):
        return model
    onnx.save(onnx.version_converter.convert_version(loaded, least), out)
    return out


TOOLS: dict[str, Callable[[Job], Work]] = {
    "graphopt": graphopt, "onnxruntime": onnxruntime, "dynamic": dynamic, "nncf": nncf,
}  # fmt: skip


def children() -> list[Path]:
    """The /proc folders of the programs that this one started and that still run.

    Not of plain forks (NNCF's telemetry), which share their memory with this process.
    """
    own = Path("/proc/self/cmdline").read_bytes()
    lists = Path("/proc/self/task").glob("*/children")
    found = [Path("/proc") / pid for one in lists for pid in one.read_text().split()]
    return [folder for folder in found if (folder / "cmdline").read_bytes() != own]


def peak_mb() -> float:
    """The largest resident sets so far, of this process and those it started, in MB (10^6 bytes)."""
    return sum(_peak(folder) for folder in (Path("/proc/self"), *children()))


def _peak(folder: Path) -> float:
    lines = (folder / "status").read_text().splitlines()
    return next((int(n.split()[1]) * 1.024e-3 for n in lines if n.startswith("VmHWM")), 0.0)


def cpu_seconds() -> float:
    """CPU time of this process and of those it started, ended or not."""
    ticks = 0
    for folder in children():
        ticks += sum(map(int, (folder / "stat").read_text().rpartition(")")[2].split()[11:13]))
    return sum(os.times()[:4]) + ticks / os.sysconf("SC_CLK_TCK")


def version(tool: str) -> str:
    """The tool's version; none if it runs from a checkout."""
    try:
        return metadata.version("onnxruntime" if tool == "dynamic" else tool)
    except metadata.PackageNotFoundError:
        return ""


def main() -> None:
    """Do the job, print its figures."""
    job: Job = json.loads(sys.argv[1])
    if job.get("memory"):
        resource.setrlimit(resource.RLIMIT_DATA, (job["memory"], job["memory"]))
    work = TOOLS[job["tool"]](job)
    began, used = time.perf_counter(), cpu_seconds()
    work()
    seconds, processor = time.perf_counter() - began, cpu_seconds() - used
    found = {"seconds": seconds, "cpu_seconds": processor, "peak_mb": peak_mb()}
    print(json.dumps({**found, "version": version(job["tool"])}))


if __name__ == "__main__":
    main()
