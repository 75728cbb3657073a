"""Tables of benchmarks: one for each task, on the screen and for the documentation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.table import Table


class HasTask(Protocol):
    """A row of a benchmark."""

    @property
    def task(self) -> str:
        """What it was measured on."""
        ...


R = TypeVar("R", bound=HasTask)


@dataclass(frozen=True)
class Sheet:
    """A table of text: a title, heads, and rows of as many cells."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def grouped(rows: Iterable[R]) -> list[list[R]]:
    """The rows of each task."""
    found: dict[str, list[R]] = {}
    for row in rows:
        found.setdefault(row.task, []).append(row)
    return list(found.values())


def show(sheets: Iterable[Sheet]) -> None:
    """Print them on the screen."""
    console = Console(width=None if Console().is_terminal else 150)
    for sheet in sheets:
        table = Table(title=sheet.title, title_justify="left")
        for i, head in enumerate(sheet.heads):
            table.add_column(head, justify="right" if i else "left")
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table)


def collect(
    tasks: Iterable[str], run: Callable[[str], Iterable[R]], take: Callable[[R], Sequence[R]],
    file: Path | None, missing: type[Exception],
) -> list[str]:
    """Measure task by task, and keep what there is after each row.

    Args:
        tasks: their names.
        run: measures one.
        take: tells of a new row, and gives all rows so far (dataclasses).
        file: where they are kept, as JSON.
        missing: what is raised for a task that lacks its files.

    Returns:
        A line for each task that was skipped.
    """
    skipped: list[str] = []
    for name in tasks:
        try:
            for row in run(name):
                rows: Sequence[Any] = take(row)
                if file:
                    file.write_text(json.dumps([asdict(r) for r in rows], indent=1))
        except missing as why:
            skipped.append(f"{name} skipped: {why}")
    return skipped


def finish(sheets: Sequence[Sheet], skipped: Iterable[str], file: Path | None) -> None:
    """Show all tables and what was skipped; write them into a file, if there is to be one."""
    show(sheets)
    print("\n".join(skipped))
    if file:
        file.write_text(markdown(sheets))


def markdown(sheets: Iterable[Sheet]) -> str:
    """As Markdown."""
    return "\n\n".join(map(_text, sheets)) + "\n"


def _text(sheet: Sheet) -> str:
    lines = [f"**{sheet.title}**", "", _line(sheet.heads), _line(["---"] * len(sheet.heads))]
    return "\n".join([*lines, *map(_line, sheet.rows)])


def _line(found: Sequence[str]) -> str:
    return "| " + " | ".join(found) + " |"
