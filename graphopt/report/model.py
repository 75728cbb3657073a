"""The account of one optimization: what the screen, the JSON and report.html show."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from graphopt.analysis import cost
from graphopt.ir.core import Module
from graphopt.pipeline import Record
from graphopt.verify import Check


@dataclass(frozen=True)
class Size:
    """What a module weighs: operators (ONNX nodes), multiply-accumulates, parameters, bytes."""

    operators: int
    macs: int
    parameters: int
    weight_bytes: int
    activation_bytes: int
    kinds: dict[str, int]

    @staticmethod
    def of(module: Module) -> Size:
        """Measure a module."""
        g = module.main
        return Size(cost.operators(g), cost.total_macs(g), cost.parameters(g), cost.weight_bytes(g),
                    cost.peak_activation_bytes(g), cost.op_counts(g))  # fmt: skip


@dataclass(frozen=True)
class Fallback:
    """What isn't compiled: kinds with reasons, and the segments' share of MACs (and time)."""

    segments: int
    macs_share: float
    reasons: dict[str, str]
    time_share: float | None = None


@dataclass(frozen=True)
class Latency:
    """Milliseconds a run, measured here: median and minimum, on `threads` threads."""

    what: str
    threads: int
    median_ms: float
    min_ms: float
    runs: int


@dataclass
class Report:
    """Everything there is to say about one optimization."""

    model: str
    target: str
    pipeline: str
    before: Size
    after: Size
    passes: list[Record]
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    notes: list[str] = field(default_factory=list[str])
    checks: list[Check] = field(default_factory=list[Check])
    kernels: int = 0
    calls: int = 0
    arena_bytes: int = 0
    fallback: Fallback | None = None
    latency: list[Latency] = field(default_factory=list[Latency])
    layers: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    files: dict[str, int] = field(default_factory=dict[str, int])

    def to_json(self) -> dict[str, Any]:
        """Plain data; infinite numbers as null."""
        return _plain(dataclasses.asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}  # pyright: ignore
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]  # pyright: ignore
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
