"""What the peers get, and what they execute: files in their own formats, counts under qemu."""

from __future__ import annotations

import importlib
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import graphopt
from arm_bench.system import MissingError, System, work
from graphopt.targets.emulator.count import listed

GETPGID = 155  # the system call's number on aarch64
LIMIT = 900  # seconds of one run


@dataclass(frozen=True)
class Counted:
    """Instructions of one inference, its outputs, bytes of the engine's libraries."""

    instructions: int
    outputs: list[Any]
    library: int


def measure(
    system: System, qemu: Sequence[str], engine: str, model: Path, feed: Mapping[str, Any]
) -> Counted:
    """One inference in a peer.

    Raises:
        MissingError: it doesn't run.
        GraphoptError: it runs on several threads.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        folder = Path(name)
        arrays: Any = dict(feed)
        np.savez(folder / "feed.npz", **arrays)
        script = str(Path(__file__).with_name("peer.py"))

        def run(options: Sequence[str]) -> None:
            command = [*system.command(qemu, options), script, engine, str(model),
                       str(folder / "feed.npz"), str(folder / "out.npz")]  # fmt: skip
            _emulate(command, system.environment)

        blocks = listed(qemu[0], run, folder, GETPGID)
        with np.load(folder / "out.npz") as told:
            outputs = [told[key] for key in told.files if key != "library"]
            library = int(told["library"])
    return Counted(sum(b.length * b.runs for b in blocks), outputs, library)


def _emulate(command: Sequence[str], environment: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(command, env=dict(environment), capture_output=True, text=True,
                              errors="replace", check=False, timeout=LIMIT)  # fmt: skip
    except subprocess.TimeoutExpired as why:
        raise MissingError(f"takes over {LIMIT} s") from why
    if done.returncode:
        words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise MissingError(words[:200])


def to_ncnn(model: Path, folder: Path, pnnx: str) -> Path:
    """By pnnx, which writes many files beside the one that it reads."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / "m.onnx"
    copy.write_bytes(model.read_bytes())
    work([pnnx, copy.name, "fp16=0"], folder)
    if not (folder / "m.ncnn.param").exists():
        raise MissingError("pnnx writes no ncnn model")
    return folder / "m.ncnn"


def to_litert(model: Path, folder: Path, python: str, ranges: Path | None) -> Path:
    """By onnx2tf, then (int8, with `ranges`) by LiteRT's own quantizer.

    onnx2tf takes images as NCHW and turns them to NHWC, which is right for LiteRT, but where they
    are NHWC already (`-kat` keeps those).
    """
    folder.mkdir(parents=True, exist_ok=True)
    inputs = graphopt.load(model).main.args
    kept = [a.hint for a in inputs if _channels_last(a.tensor.static or ())]
    keep = ["-kat", *kept] if kept else []
    work([python, "-m", "onnx2tf", "-i", str(model), "-o", str(folder), *keep], folder)
    found = folder / f"{model.stem}_float32.tflite"
    if not found.exists():
        raise MissingError("onnx2tf writes no model")
    if ranges:
        script, out = Path(__file__).with_name("litert_int8.py"), folder / "int8.tflite"
        work([python, str(script), str(found), str(ranges), str(out)], folder)
        return out
    return found


def _channels_last(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and shape[-1] in (1, 3) and shape[1] > shape[-1]


def quantized(model: Path, out: Path, feeds: Sequence[Mapping[str, Any]]) -> Path:
    """By ONNX Runtime's own quantizer, as its documentation advises for ARM: both signed."""
    tools: Any = importlib.import_module("onnxruntime.quantization")
    told = iter(feeds)

    class Reader(tools.CalibrationDataReader):
        def get_next(self) -> Mapping[str, Any] | None:
            return next(told, None)

    before = out.with_suffix(".pre.onnx")
    tools.shape_inference.quant_pre_process(str(model), str(before), skip_symbolic_shape=True)
    s8 = tools.QuantType.QInt8
    tools.quantize_static(str(before), str(out), Reader(), quant_format=tools.QuantFormat.QDQ,
                          per_channel=True, activation_type=s8, weight_type=s8)  # fmt: skip
    return out
