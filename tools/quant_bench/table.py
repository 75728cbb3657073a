"""The rows of the table, for the screen and for the documentation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tables import Sheet, grouped

from .methods import Made
from .metrics import Drop


@dataclass(frozen=True)
class Row:
    """One method on one task; scores and agreement in percent, SQNR in dB."""

    task: str
    family: str
    metric: str
    samples: int
    method: str
    score: float = 0.0
    drop: Drop | None = None
    agreement: float | None = None
    sqnr: float | None = None
    extra: dict[str, float] = field(default_factory=dict[str, float])
    layers: tuple[int, int] = (0, 0)
    file_bytes: int = 0
    made: Made = field(default_factory=Made)

    @classmethod
    def read(cls, told: dict[str, Any]) -> Row:
        """A row from its JSON."""
        plain = {k: v for k, v in told.items() if k not in ("drop", "made", "layers")}
        drop = Drop(**told["drop"]) if told["drop"] else None
        covered, total = told["layers"]
        return cls(**plain, drop=drop, layers=(covered, total), made=Made(**told["made"]))


HEADS = (
    "method", "score %", "drop (95 % interval)", "p", "agree %", "SQNR dB", "int8", "kB", "s",
    "CPU s", "peak MB",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """A row as text."""
    if row.made.error:
        return [row.method, row.made.error, *[""] * (len(HEADS) - 2)]
    size = f"{row.file_bytes / 1e3:.0f}"
    if not row.drop:
        return [row.method, f"{row.score:.2f}", *[""] * 5, size, *[""] * 3]
    d = row.drop
    more = "".join(f", {name} {value:.4f}" for name, value in row.extra.items())
    return [
        row.method, f"{row.score:.2f}", f"{d.points:+.2f} ({d.low:+.2f} to {d.high:+.2f})",
        f"{d.p:.2g}", f"{row.agreement:.2f}{more}", f"{row.sqnr:.1f}",
        "/".join(map(str, row.layers)), size,
        f"{row.made.seconds:.1f}", f"{row.made.cpu_seconds:.1f}", f"{row.made.peak_mb:.0f}",
    ]  # fmt: skip


def title(row: Row) -> str:
    """What a task is."""
    return f"{row.task}: {row.family}, {row.metric} on {row.samples} samples"


def sheets(rows: Iterable[Row]) -> list[Sheet]:
    """One table a task."""
    return [Sheet(title(group[0]), HEADS, list(map(cells, group))) for group in grouped(rows)]
