"""The account of one optimization: what the screen, the JSON and report.html show."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from graphopt import onnx as onnx_io
from graphopt.analysis import cost
from graphopt.errors import GraphoptError
from graphopt.hooks import PassError
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Graph, Module
from graphopt.ir.types import TensorType
from graphopt.loss import Loss
from graphopt.passes.fold import Fold
from graphopt.pipeline import Context, Record
from graphopt.report.units import size
from graphopt.verify import Check


@dataclass(frozen=True)
class Size:
    """What a module weighs: operators (ONNX nodes), multiply-accumulates, parameters, bytes.

    `dynamic`: some sizes aren't known before a run and count as 1, so that `macs` and
    `activation_bytes` are the least there can be.
    """

    operators: int
    macs: int
    parameters: int
    weight_bytes: int
    activation_bytes: int
    kinds: dict[str, int]
    dynamic: bool = False

    @staticmethod
    def of(module: Module) -> Size:
        """Measure a module."""
        g = module.main
        return Size(cost.operators(g), cost.total_macs(g), cost.parameters(g), cost.weight_bytes(g),
                    cost.peak_activation_bytes(g), cost.op_counts(g), dynamic(g))  # fmt: skip


def before_passes(module: Module) -> Size:
    """What a model weighs before any pass.

    Sizes that it computes from others (a reshape to a shape with the batch in it) count as what
    they will be once they are folded, which is tried on a copy: else half of a model's
    multiply-adds could seem to come from nowhere.
    """
    found = Size.of(module)
    if not found.dynamic:
        return found
    copy = clone_module(module)
    try:
        Fold().run(copy, Context(evaluate=onnx_io.evaluate_opaque))
    except GraphoptError:  # the passes will say so
        return found
    known = Size.of(copy)
    return dataclasses.replace(found, macs=known.macs, activation_bytes=known.activation_bytes,
                               dynamic=known.dynamic)  # fmt: skip


def dynamic(graph: Graph) -> bool:
    """Whether an op that multiplies has an operand or result of a size not known before a run."""
    return any(
        isinstance(v.type, TensorType) and v.type.static is None
        for op in graph.walk()
        if op.kind.name in _MULTIPLY
        for v in (*op.operands, *op.results)
        if v
    )


_MULTIPLY = {"conv", "conv_transpose", "matmul", "gemm", "attention", "squeeze_excite"}


@dataclass(frozen=True)
class Fallback:
    """What isn't compiled: kinds with reasons, and the segments' share of MACs (and time)."""

    segments: int
    macs_share: float
    reasons: dict[str, str]
    time_share: float | None = None


@dataclass(frozen=True)
class Storage:
    """Bytes of a library's constants: as kernels read them, and as they are stored.

    `weights` are the numbers that the optimized model's constants hold; `coded` says how many
    constants are stored in fewer bytes and decoded when the library is loaded.
    """

    weights: int
    run_bytes: int
    stored_bytes: int
    coded: int

    @property
    def bits(self) -> float:
        """Stored bits a weight."""
        return 8 * self.stored_bytes / self.weights if self.weights else 0.0

    def __str__(self) -> str:
        """How the weights are stored."""
        text = f"stored in the library, {self.bits:.2f} bits a weight"
        if not self.coded:
            return text
        many = f"{self.coded} constant{'s' if self.coded > 1 else ''}"
        return f"{text}; {size(self.run_bytes)} at run time, {many} decoded when it is loaded"


@dataclass(frozen=True)
class Latency:
    """Milliseconds a run, measured here: median and minimum, on `threads` threads.

    Where this computer can't measure, `estimate` says how the number was made instead.
    """

    what: str
    threads: int
    median_ms: float
    min_ms: float
    runs: int
    estimate: str = ""


@dataclass
class Report:
    """Everything there is to say about one optimization.

    `ran` says where the bundle was run to verify it, if not on this computer; `instructions` what
    reading its code proved.
    `losses` say what lossy passes cost, `max_drop` what they may, `missed` which of the user's
    limits aren't met; `seconds` are wall times by
    stage; `layers` the profile and `roofline` what the machine can do (both as `graphopt profile`
    gives them); `files` the bundle's, in bytes; `source_bytes` the original model's file, with its
    external data; `pass_seconds` and `pass_errors` are there only where they were asked for.
    """

    model: str
    target: str
    pipeline: str
    before: Size
    after: Size
    passes: list[Record]
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    notes: list[str] = field(default_factory=list[str])
    checks: list[Check] = field(default_factory=list[Check])
    losses: list[Loss] = field(default_factory=list[Loss])
    max_drop: float | None = None
    missed: list[str] = field(default_factory=list[str])
    kernels: int = 0
    calls: int = 0
    arena_bytes: int = 0
    fallback: Fallback | None = None
    storage: Storage | None = None
    ran: str = ""
    instructions: str = ""
    latency: list[Latency] = field(default_factory=list[Latency])
    layers: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    roofline: dict[str, Any] | None = None
    files: dict[str, int] = field(default_factory=dict[str, int])
    source_bytes: int = 0
    pass_seconds: list[float] = field(default_factory=list[float])
    pass_errors: list[PassError] = field(default_factory=list[PassError])
    versions: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def ok(self) -> bool:
        """Whether it was verified, and agreed."""
        return bool(self.checks) and all(c.ok for c in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain data; infinite numbers as null."""
        checks = [check_json(c) for c in self.checks]
        rest = dataclasses.asdict(dataclasses.replace(self, checks=[]))
        stored = self.storage and {**dataclasses.asdict(self.storage), "bits": self.storage.bits}
        told = {**rest, "checks": checks, "storage": stored, "verified": self.ok}
        return plain(told)


def check_json(check: Check) -> dict[str, Any]:
    """A comparison as plain data, with its sentence."""
    limit = check.tolerance
    return {
        "what": check.what,
        "ok": check.ok,
        "text": str(check),
        "samples": check.samples,
        "data": check.data,
        "tolerance": {"value": limit.value, "terms": limit.terms, "unit": limit.unit},
        "outputs": [dataclasses.asdict(o) for o in check.outputs],
    }


def plain(value: Any) -> Any:
    """Values that JSON can hold: infinite and undefined numbers become null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}  # pyright: ignore
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]  # pyright: ignore
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
