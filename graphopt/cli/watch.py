"""The hooks of one run of the passes, and what they have to say when it fails or ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from graphopt.cli import debugging
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from graphopt.hooks import NumericCheck, Reproducer, Timing
    from graphopt.ir.core import Module
    from graphopt.pipeline import Hook, Record


class Watch:
    """Times each pass, finds the one that fails; with a folder, keeps everything there."""

    def __init__(self, model: Path, folder: Path | None) -> None:
        """Make the folder.

        Raises:
            InputError: it can't be made.
        """
        from graphopt.hooks import Dump, Reproducer, Timing

        self.model, self.folder = model, folder
        self.timing: Timing = Timing()
        self.reproducer: Reproducer = Reproducer(folder, str(model))
        self.numbers: NumericCheck | None = None
        self.extra: list[Hook] = []
        self.dump: list[Hook] = [Dump(folder)] if folder else []

    @property
    def hooks(self) -> list[Hook]:
        """In this order, as the pipeline calls `after` from the end.

        The clock stops first, and what a pass made is dumped before a check refuses it.
        """
        checks: list[Hook] = [self.numbers] if self.numbers else []
        return [self.reproducer, *checks, *self.extra, *self.dump, self.timing]

    def check_numbers(self, module: Module, data: str | None) -> None:
        """Compare the numbers with the reference's after each pass.

        Args:
            module: what was read; its input types say what to feed.
            data: a path of samples; None: a seeded one.
        """
        from graphopt.cli.numbers import run_module, trial
        from graphopt.hooks import NumericCheck

        t = trial(self.model, module, data, samples=1)
        self.numbers = NumericCheck(run_module, t.feeds, t.wanted, t.limit, t.data)

    def keep(self, records: Sequence[Record]) -> None:
        """Write the tables, where there is a folder."""
        if self.folder:
            errors = self.numbers.errors if self.numbers else []
            debugging.keep(self.folder, records, self.timing.seconds, errors)

    def __enter__(self) -> Watch:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Add the command that replays a failing pass to the error that ends the run."""
        command = self.reproducer.command
        if isinstance(error, Exception) and command:
            known = isinstance(error, GraphoptError)
            where = "" if known else f"in {self.reproducer.failing}: "
            error.add_note(f"{where}replay it with `{command}`")
