"""The quantizers to compare, each run in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHILD = Path(__file__).with_name("child.py")
TIMEOUT = 3600  # seconds for one method on one model


@dataclass(frozen=True)
class Method:
    """A tool and its options."""

    name: str
    tool: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    transformers_only: bool = False

    @property
    def ours(self) -> bool:
        """Whether it is this project's."""
        return self.tool == "graphopt"


def _pipeline(name: str, calibrate: str, quantize: str = "quantize") -> Method:
    passes = f"default,{calibrate},{quantize}"
    return Method(f"graphopt {name}".strip(), "graphopt", {"passes": passes})


def _no_data(name: str, passes: str) -> Method:
    """Without samples."""
    return Method(f"graphopt no data{name}", "graphopt",
                  {"passes": f"default,{passes}", "no_data": True})  # fmt: skip


# The pipelines that are compared; the first one is what a user gets who names no option.
PIPELINES = (
    _pipeline("", "calibrate"),
    Method("graphopt recommended", "graphopt", {"passes": "default,int8"}),
    Method("graphopt weights", "graphopt", {"passes": "default,quantize{activations=f32}"}),
    _pipeline("recurrent", "calibrate", "quantize{recurrent=product}"),
    _pipeline("minmax", "calibrate{method=minmax}"),
    _pipeline("percentile", "calibrate{method=percentile}"),
    _pipeline("entropy", "calibrate{method=entropy}"),
    _pipeline("mse", "calibrate{method=mse}"),
    _pipeline("equalize", "equalize,calibrate"),
    _pipeline("smooth", "smooth,calibrate"),
    _pipeline("bias_correct", "calibrate", "quantize,bias_correct"),
    _pipeline("adaround", "calibrate", "quantize,adaround"),
    _no_data("", "calibrate,quantize"),
    _no_data(" int8", "int8"),
    _no_data(" equalize", "equalize,calibrate,quantize"),
    _no_data(" minmax", "calibrate{method=minmax},quantize"),
    _no_data(" analytic", "calibrate,quantize,bias_correct{method=analytic}"),
)
PEERS = (
    Method("ORT minmax", "onnxruntime", {"method": "MinMax"}),
    Method("ORT percentile", "onnxruntime", {"method": "Percentile"}),
    Method("ORT entropy", "onnxruntime", {"method": "Entropy"}),
    # all of its operators in integers ruin some transformers: a mask of -3e38 is added in 8 bits
    Method("ORT minmax linear", "onnxruntime",
           {"method": "MinMax", "linear": True}, transformers_only=True),
    Method("ORT percentile linear", "onnxruntime",
           {"method": "Percentile", "linear": True}, transformers_only=True),
    # of matrix products and LSTM; activations are quantized as they come
    Method("ORT dynamic", "dynamic"),
    Method("NNCF", "nncf"),
    Method("NNCF mixed", "nncf", {"preset": "MIXED"}),
    # by default it takes the mean of the samples' extremes, which clips
    Method("NNCF mixed minmax", "nncf", {"preset": "MIXED", "ranges": "MINMAX"}),
)  # fmt: skip
METHODS = (*PIPELINES, *PEERS)


@dataclass(frozen=True)
class Made:
    """What a method cost and noted; `error` says why it made nothing."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mb: float = 0.0
    version: str = ""
    error: str = ""
    notes: list[str] = field(default_factory=list[str])


def make(method: Method, job: Mapping[str, Any], python: str, child: Path = CHILD) -> Made:
    """Run a method in a child: `job` has its files, and perhaps memory (bytes)."""
    told = json.dumps({"tool": method.tool, **method.options, **job})
    command = [sys.executable if method.ours else python, "-P", str(child), told]
    done = run_child(command, method.ours)
    if done is None:
        return Made(error=f"took more than {TIMEOUT} s")
    if done.returncode:
        return Made(error=_why(done.returncode, done.stderr, job.get("memory")))
    return Made(**json.loads(done.stdout.splitlines()[-1]))


def run_child(command: Sequence[str], ours: bool) -> subprocess.CompletedProcess[str] | None:
    """Run a program, with our modules on its path where it is ours; None: it took too long."""
    path = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} if ours else {}
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, check=False,
            env={**os.environ, **path},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None


def _why(code: int, errors: str, memory: int | None) -> str:
    if code == -9 or re.search(r"MemoryError|bad_?[ ]?alloc|llocate memory|BFCArena", errors):
        return f"out of memory ({memory / 1e9:g} GB)" if memory else "out of memory"
    lines = errors.strip().splitlines() or [f"exit code {code}"]
    missing = re.search(r"no pass named '([^']+)'", errors)
    return f"not there: {missing[1]}" if missing else _sentence(lines)[:300]


def _sentence(lines: list[str]) -> str:
    """The line that names the exception, or the last one."""
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Fail)\w*\b", line)]
    return (named or lines)[-1]
