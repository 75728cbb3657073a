"""Where things are printed: results on stdout, progress on stderr if that is a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from graphopt.errors import one_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

PIPE_WIDTH = 120  # columns; a terminal says its own


def out() -> Console:
    """The console of stdout: coloured on a terminal, plain in a pipe."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(width=width, highlight=False, emoji=False)


def show(*what: RenderableType) -> None:
    """Print for people."""
    console = out()
    if console.is_terminal:
        console.print(*what, sep="\n", markup=False)
        return
    with console.capture() as captured:
        console.print(*what, sep="\n", markup=False)
    # rich fills lines up to the width, which is of no use in a file.
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def show_json(document: Any) -> None:
    """Print one JSON document."""
    from graphopt.report.model import plain

    print(json.dumps(plain(document), indent=1, default=str))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> Any:
    """A plain table: the first `left` columns are flush left, the rest right; long cells fold."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for i, name in enumerate(columns):
        side = "left" if i < left or name in ("", "notes", "what it does") else "right"
        made.add_column(name, justify=side, overflow="fold", no_wrap=False)
    for row in rows:
        made.add_row(*(Text(_printable(str(cell))) for cell in row))
    return made


def _printable(text: str) -> str:
    """Lines without what steers a terminal, which names in models may hold."""
    return "\n".join(map(one_line, text.split("\n")))


class Progressing:
    """Shows what is being done, on a terminal only; gone when done."""

    def __init__(self, quiet: bool = False) -> None:
        """`quiet` shows nothing anywhere."""
        self._live: Progress | None = None
        self._task: Any = None
        self._what = ""
        if not quiet and sys.stderr.isatty():
            self._live = _progress()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say that `done` of `total` parts of `what` are done."""
        if self._live is None:
            return
        if what != self._what:
            if self._task is not None:
                self._live.remove_task(self._task)
            self._task, self._what = self._live.add_task(what, total=None), what
        self._live.update(self._task, completed=done, total=total if total > 1 else None)

    def __enter__(self) -> Progressing:
        """Start showing."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Clear the line."""
        if self._live:
            self._live.stop()


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(),
               MofNCompleteColumn(), TimeElapsedColumn())  # fmt: skip
    return Progress(*columns, console=Console(stderr=True), transient=True)
