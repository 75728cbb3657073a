"""The rows of the table, for the screen and for the documentation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from quant_bench.methods import Made
from quant_bench.metrics import Drop
from tables import Sheet, grouped


@dataclass(frozen=True)
class Weight:
    """What a model weighs: multiply-adds and parameters, of a batch of 1; bytes of its ONNX file."""

    macs: int = 0
    parameters: int = 0
    file_bytes: int = 0


@dataclass(frozen=True)
class Timing:
    """Microseconds a run, median and minimum: of our exact bundle and of this one, in turns."""

    before: tuple[float, float]
    after: tuple[float, float]

    @property
    def faster(self) -> tuple[float, float]:
        """How many times, by medians and by minima."""
        return self.before[0] / self.after[0], self.before[1] / self.after[1]


@dataclass(frozen=True)
class Row:
    """One method on one task; scores and agreement in percent, SQNR in dB.

    `calibration`: how many samples, without labels, the method was given. `bundle_sqnr`: how well
    the compiled bundle gives what ONNX Runtime makes of its model.onnx.
    """

    task: str
    family: str
    metric: str
    samples: int
    calibration: int
    method: str
    passes: str = ""
    weight: Weight = field(default_factory=Weight)
    timing: Timing | None = None
    score: float = 0.0
    drop: Drop | None = None
    agreement: float | None = None
    sqnr: float | None = None
    bundle_sqnr: float | None = None
    made: Made = field(default_factory=Made)

    @classmethod
    def read(cls, told: dict[str, Any]) -> Row:
        """A row from its JSON."""
        parts = ("drop", "made", "weight", "timing")
        plain = {k: v for k, v in told.items() if k not in parts}
        drop = Drop(**told["drop"]) if told["drop"] else None
        times: dict[str, list[float]] = told["timing"] or {}
        timing = Timing(**{k: (v[0], v[1]) for k, v in times.items()}) if times else None
        made, weight = Made(**told["made"]), Weight(**told["weight"])
        return cls(**plain, drop=drop, timing=timing, made=made, weight=weight)


HEADS = (
    "method", "MACs M", "saved %", "params k", "kB", "us (min)", "x faster (min)", "score %",
    "drop (95 % interval)", "agree %", "SQNR dB", "s",
)  # fmt: skip


def cells(row: Row, original: Weight) -> list[str]:
    """A row as text."""
    if row.made.error:
        return [row.method, row.made.error, *[""] * (len(HEADS) - 2)]
    w, d = row.weight, row.drop
    saved = 100 * (1 - w.macs / original.macs) if original.macs else 0.0
    times = ["", ""]
    if row.timing:
        (median, least), (faster, at_best) = row.timing.after, row.timing.faster
        times = [f"{median:.0f} ({least:.0f})", f"{faster:.2f} ({at_best:.2f})"]
    return [
        row.method, f"{w.macs / 1e6:.2f}", f"{saved:.1f}", f"{w.parameters / 1e3:.1f}",
        f"{w.file_bytes / 1e3:.0f}", *times, f"{row.score:.2f}",
        f"{d.points:+.2f} ({d.low:+.2f} to {d.high:+.2f})" if d else "",
        "" if row.agreement is None else f"{row.agreement:.2f}",
        "" if row.sqnr is None else f"{row.sqnr:.1f}", f"{row.made.seconds:.1f}",
    ]  # fmt: skip


def title(row: Row) -> str:
    """What a task is."""
    return (f"{row.task}: {row.family}, {row.metric} on {row.samples} test samples; "
            f"{row.calibration} others, without labels, to compress with")  # fmt: skip


def sheets(rows: Iterable[Row]) -> list[Sheet]:
    """One table a task; a task's first row is the original."""
    return [
        Sheet(title(group[0]), HEADS, [cells(row, group[0].weight) for row in group])
        for group in grouped(rows)
    ]
