"""What can watch a pipeline: dumps, timing, verification, bisection, crash reproducers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from graphopt.errors import InputError
from graphopt.ir.core import Loc, Module
from graphopt.ir.printer import to_text
from graphopt.ir.store import FileStore
from graphopt.ir.verify import verify
from graphopt.pipeline import Hook, Pass, PassResult


class VerifyEach(Hook):
    """Verify the IR before the first pass and after each."""

    def start(self, module: Module) -> None:
        """Verify what was loaded."""
        verify(module)

    def after(self, number: int, p: Pass, module: Module, result: PassResult) -> None:
        """Verify what the pass made."""
        verify(module)


@dataclass
class Timing(Hook):
    """Wall time of each pass, in seconds, in order."""

    seconds: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    _began: float = 0.0

    def before(self, number: int, p: Pass, module: Module) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def after(self, number: int, p: Pass, module: Module, result: PassResult) -> None:
        """Stop the clock."""
        self.seconds.append((str(p), time.perf_counter() - self._began))


class Dump(Hook):
    """Write `000_input.gir`, then `003_fuse.gir` after each pass that changed something.

    Large constants of all dumps share one file, `weights.bin`, so that each dump parses back to the
    same module, constants included.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder.

        Raises:
            InputError: it can't be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as why:
            raise InputError(f"{folder}: can't make the folder: {why.strerror}") from why
        self.folder = folder
        self.store = FileStore(folder / "weights.bin")

    def start(self, module: Module) -> None:
        """Dump what was loaded."""
        self.write(0, "input", module)

    def after(self, number: int, p: Pass, module: Module, result: PassResult) -> None:
        """Dump what the pass changed."""
        if result.changed:
            self.write(number, p.name, module)

    def write(self, number: int, name: str, module: Module) -> Path:
        """Write one dump; give its path."""
        path = self.folder / f"{number:03}_{name}.gir"
        path.write_text(to_text(module, store=self.store), "utf-8")
        return path


class PrintAfter(Hook):
    """Hand the text after a named pass (or all that changed something) to `show`."""

    def __init__(self, name: str, show: Callable[[str], None]) -> None:
        """`name` is a pass's name, or `all`."""
        self.name, self.show = name, show

    def after(self, number: int, p: Pass, module: Module, result: PassResult) -> None:
        """Print."""
        if p.name == self.name or (self.name == "all" and result.changed):
            self.show(f"// after {number} {p}\n{module.to_text(elide=True)}")


class BisectLimit:
    """Permit the first `limit` rewrites and refuse the rest, to find the one that breaks a model."""

    def __init__(self, limit: int) -> None:
        """A limit of 0 refuses all."""
        self.limit = limit
        self.log: list[tuple[str, Loc]] = []

    def __call__(self, rule: str, loc: Loc) -> bool:
        """Whether rewrite number len(log)+1 may be applied."""
        self.log.append((rule, loc))
        return len(self.log) <= self.limit


class Reproducer(Hook):
    """When a pass fails, write the IR before it and the command that replays it."""

    def __init__(self, folder: Path) -> None:
        """Where `reproducer.gir` goes; made when needed."""
        self.folder = folder
        self.command = ""
        self._text = ""
        self._store = FileStore(None)

    def before(self, number: int, p: Pass, module: Module) -> None:
        """Keep the IR as it was."""
        self._text = to_text(module, store=self._store)

    def failed(self, number: int, p: Pass, module: Module, error: Exception) -> None:
        """Write the files and the command."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "reproducer.gir"
        self._store.save(self.folder / "weights.bin")
        path.write_text(f"// {type(error).__name__}: {str(error).splitlines()[0]}\n{self._text}", "utf-8")
        self.command = f"graphopt opt {path} --passes '{p}'"
