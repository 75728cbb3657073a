"""A profile as Chrome trace events: open the file in ui.perfetto.dev or chrome://tracing.

The format is that of "Trace Event Format" (Duan, Srinivasan; Google): complete events (`ph: X`)
with microseconds, metadata events (`M`) that name what is shown, counters (`C`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from graphopt.profiler.model import SEGMENT, LayerTimes, Profile, Run

Event = dict[str, Any]
_KERNELS, _SEGMENTS = 1, 2  # threads of the trace: what is compiled, and what runs in ONNX Runtime


def trace(profile: Profile) -> dict[str, Any]:
    """The document: one process a run (median, fastest, slowest), each beginning at 0."""
    events = [
        event
        for pid, run in enumerate(profile.runs, 1)
        for event in (*_names(pid, run.name), *_layers(pid, run, profile))
    ]
    about = {k: v for k, v in profile.to_json().items() if k not in ("layers", "families")}
    return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": about}


def _names(pid: int, name: str) -> Iterator[Event]:
    common = {"ph": "M", "pid": pid, "ts": 0}
    yield {**common, "name": "process_name", "tid": 0, "args": {"name": name}}
    yield {**common, "name": "process_sort_index", "tid": 0, "args": {"sort_index": pid}}
    for tid, what in ((_KERNELS, "compiled"), (_SEGMENTS, "ONNX Runtime")):
        yield {**common, "name": "thread_name", "tid": tid, "args": {"name": what}}


def _layers(pid: int, run: Run, profile: Profile) -> Iterator[Event]:
    end = 0.0
    for layer, began, took in zip(profile.layers, run.began, run.took, strict=True):
        tid = _SEGMENTS if layer.family == SEGMENT else _KERNELS
        yield {"ph": "X", "pid": pid, "tid": tid, "ts": began, "dur": took, "name": layer.name,
               "cat": layer.family, "args": _args(layer)}  # fmt: skip
        yield _counter(pid, began, 1e-3 * layer.flops / took if took else 0.0)
        end = began + took
    yield _counter(pid, end, 0.0)


def _counter(pid: int, at: float, gflops: float) -> Event:
    return {"ph": "C", "pid": pid, "tid": 0, "ts": at, "name": "GFLOP/s",
            "args": {"GFLOP/s": round(gflops, 3)}}  # fmt: skip


def _args(layer: LayerTimes) -> dict[str, Any]:
    return {
        "nodes": " + ".join(layer.nodes),
        "kernel": layer.kernel,
        "ops": " ".join(layer.ops),
        "operands": ", ".join(layer.operands),
        "results": ", ".join(layer.results),
        "median us": layer.us,
        "MACs": layer.macs,
        "bytes": layer.bytes,
        "of roofline": layer.roofline,
    }
