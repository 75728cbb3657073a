"""The rows of the table, for the screen and for the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

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


def grouped(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows of each task."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.task, []).append(row)
    return list(found.values())


def show(rows: Sequence[Row]) -> None:
    """One table a task on the screen."""
    console = Console(width=None if Console().is_terminal else 150)
    for group in grouped(rows):
        table = Table(title=title(group[0]), title_justify="left")
        for i, head in enumerate(HEADS):
            table.add_column(head, justify="right" if i else "left")
        for row in group:
            table.add_row(*cells(row))
        console.print(table)


def markdown(rows: Sequence[Row]) -> str:
    """One table a task for the documentation."""
    parts: list[str] = []
    for group in grouped(rows):
        lines = [f"**{title(group[0])}**", "", _line(HEADS), _line(["---"] * len(HEADS))]
        lines += [_line(cells(row)) for row in group]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _line(found: Sequence[str]) -> str:
    return "| " + " | ".join(found) + " |"
