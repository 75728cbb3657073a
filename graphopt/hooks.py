"""What can watch a pipeline: dumps, timing, verification, bisection, crash reproducers."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from graphopt.errors import InputError, MismatchError
from graphopt.folders import made, makeable
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Loc, Module, Op
from graphopt.ir.printer import to_text
from graphopt.ir.store import FileStore
from graphopt.ir.types import Array, TensorType
from graphopt.ir.verify import verify
from graphopt.pipeline import Hook, Pass, PassResult, Record, record
from graphopt.verify import OutputError, Tolerance, compare, tolerance

Feed = Mapping[str, Array]
Run = Callable[[Module, Feed], Mapping[str, Any]]
"""Gives the outputs of a module, by name, for inputs by name."""

_DUMP = re.compile(r"\d{3,}_[\w.-]+\.gir")


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

    def start(self, module: Module) -> None:
        """Forget an earlier run of the passes."""
        self.seconds.clear()

    def before(self, number: int, p: Pass, module: Module) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def after(self, number: int, p: Pass, module: Module, result: PassResult) -> None:
        """Stop the clock."""
        self.seconds.append((str(p), time.perf_counter() - self._began))


class Dump(Hook):
    """Write `000_input.gir`, then `003_fuse.gir` after each pass that changed something.

    Large constants of all dumps share one file, `weights.bin`, so that each dump parses back to the
    same module, constants included. Dumps of an earlier run in the same folder are removed.
    """

    def __init__(self, folder: Path) -> None:
        """The folder is made when a pipeline starts, whose passes were checked by then.

        Raises:
            InputError: it can't be made.
        """
        self.folder, self.store = makeable(folder), FileStore(None)

    def start(self, module: Module) -> None:
        """Make the folder, dump what was loaded.

        Raises:
            InputError: it can't be made or written.
        """
        folder = made(self.folder)
        try:
            for old in folder.iterdir():
                if _DUMP.fullmatch(old.name):
                    old.unlink()
            self.store = FileStore(folder / "weights.bin")
        except OSError as why:
            raise InputError(f"{folder}: can't write there: {why.strerror}") from why
        self.write(0, "input", module)

    def after(self, number: int, p: Pass, module: Module, result: PassResult) -> None:
        """Dump what the pass changed."""
        if result.changed:
            self.write(number, p.name, module)

    def write(self, number: int, name: str, module: Module) -> Path:
        """Write one dump; give its path."""
        path = self.folder / f"{number:03}_{name}.gir"
        try:
            path.write_text(to_text(module, store=self.store), "utf-8")
        except OSError as why:
            raise InputError(f"{path}: can't write the dump: {why.strerror}") from why
        return path


class Shifted(Hook):
    """Hands everything but the start to another hook, with numbers from `past` + 1.

    For a second pipeline on the same module, whose dumps and tables go on from the first one's.
    """

    def __init__(self, hook: Hook, past: int) -> None:
        """`past` passes came before."""
        self.hook, self.past = hook, past

    def before(self, number: int, p: Pass, module: Module) -> None:
        """Hand it on."""
        self.hook.before(self.past + number, p, module)

    def after(self, number: int, p: Pass, module: Module, result: PassResult) -> None:
        """Hand it on."""
        self.hook.after(self.past + number, p, module, result)

    def failed(self, number: int, p: Pass, module: Module, error: Exception) -> None:
        """Hand it on."""
        self.hook.failed(self.past + number, p, module, error)


@dataclass
class Records(Hook):
    """Keeps what each pass of the last pipeline gave, where its caller doesn't."""

    records: list[Record] = field(default_factory=list[Record])

    def start(self, module: Module) -> None:
        """Forget an earlier pipeline."""
        self.records.clear()

    def after(self, number: int, p: Pass, module: Module, result: PassResult) -> None:
        """Keep it."""
        self.records.append(record(number, p, result))


@dataclass
class Kept(Hook):
    """A copy of the module as it was after a named pass; None before that has run."""

    name: str
    module: Module | None = None

    def after(self, number: int, p: Pass, module: Module, result: PassResult) -> None:
        """Copy it."""
        if p.name == self.name:
            self.module = clone_module(module)


class PrintAfter(Hook):
    """Hand the text after a named pass (or all that changed something) to `show`."""

    def __init__(self, name: str, show: Callable[[str], object]) -> None:
        """`name` is a pass's name, or `all`."""
        self.name, self.show = name, show

    def after(self, number: int, p: Pass, module: Module, result: PassResult) -> None:
        """Print."""
        if p.name == self.name or (self.name == "all" and result.changed):
            self.show(f"// after {number} {p}\n{module.to_text(elide=True)}")


class BisectLimit:
    """Permit the first `limit` rewrites, refuse the rest: to find the one that breaks a model."""

    def __init__(self, limit: int) -> None:
        """A limit of 0 refuses all."""
        self.limit = limit
        self.log: list[tuple[str, Loc]] = []

    def __call__(self, rule: str, loc: Loc) -> bool:
        """Whether rewrite number len(log)+1 may be applied."""
        self.log.append((rule, loc))
        return len(self.log) <= self.limit


class Reproducer(Hook):
    """When a pass fails, tell which, and the command that replays it.

    With a folder, the IR before the failing pass is written there as `reproducer.gir` and the
    command runs that pass alone; without, the command runs the passes up to it on `source`.
    """

    def __init__(self, folder: Path | None = None, source: str = "MODEL") -> None:
        """Where `reproducer.gir` goes, made when needed; `source` is the model's path."""
        self.folder, self.source = folder, source
        self.command = ""
        self.failing = ""
        self._ran: list[str] = []
        self._before: Module | None = None

    def start(self, module: Module) -> None:
        """Forget an earlier run of the passes."""
        self._ran.clear()

    def before(self, number: int, p: Pass, module: Module) -> None:
        """Keep the IR as it was: a clone shares all constants, so it costs little."""
        self._ran.append(str(p))
        if self.folder:
            self._before = clone_module(module)

    def failed(self, number: int, p: Pass, module: Module, error: Exception) -> None:
        """Write the files and the command."""
        self.failing = f"pass {number} ({p})"
        model, passes = self.source, ",".join(self._ran)
        if self.folder and self._before:
            first = str(error).split("\n", 1)[0]
            model = str(self._write(self._before, f"{type(error).__name__}: {first}"))
            passes = str(p)
        self.command = f"graphopt opt {shlex.quote(model)} --passes {shlex.quote(passes)}"
        if isinstance(error, MismatchError):
            self.command += " --check-each"

    def _write(self, module: Module, why: str) -> Path:
        assert self.folder
        store = FileStore(made(self.folder) / "reproducer.bin")
        path = self.folder / "reproducer.gir"
        path.write_text(f"// {why}\n{to_text(module, store=store)}", "utf-8")
        return path


@dataclass(frozen=True)
class PassError:
    """How far the model's outputs are from the reference's after a pass (0: as it was read).

    After a lossy one they may be; it says how far they moved, and is the reference from there on.
    """

    number: int
    text: str
    worst: OutputError | None
    lossy: bool = False


class NumericCheck(Hook):
    """Run the model after each pass that changed it, and compare with the reference.

    The first pass whose result differs beyond the tolerance is stopped with a MismatchError that
    names the first op that differs, by its ONNX nodes. A lossy pass may differ; from there on its
    own numbers are the reference's.
    """

    def __init__(
        self,
        run: Run,
        feeds: Sequence[Feed],
        wanted: Sequence[Mapping[str, Any]],
        limit: Tolerance,
        data: str = "seeded",
    ) -> None:
        """`wanted` are the reference's outputs for `feeds`, which are `given` or `seeded`."""
        self.run, self.feeds, self.wanted, self.limit = run, feeds, wanted, limit
        self.data, self._asked = data, (wanted, limit)
        self.errors: list[PassError] = []
        self._before: Module | None = None

    def start(self, module: Module) -> None:
        """Check that the model was read right; forget an earlier run of the passes."""
        self.errors.clear()
        self.wanted, self.limit = self._asked
        self._check(0, "read", module, None)

    def before(self, number: int, p: Pass, module: Module) -> None:
        """Keep the IR as it was, to find the op that differs."""
        self._before = clone_module(module)

    def after(self, number: int, p: Pass, module: Module, result: PassResult) -> None:
        """Check what the pass made.

        Raises:
            MismatchError: the numbers differ.
        """
        if result.changed and p.effect == "lossy":
            self._follow(number, str(p), module)
        elif result.changed:
            self._check(number, str(p), module, self._before)

    def _follow(self, number: int, text: str, module: Module) -> None:
        """Note how far a lossy pass went; hold later ones against what it made."""
        got = [self.run(module, feed) for feed in self.feeds]
        check = compare("the model", self.data, self.limit, self.wanted, got)
        self.errors.append(PassError(number, text, check.worst, lossy=True))
        self.wanted, self.limit = got, tolerance(module.main)

    def _check(self, number: int, text: str, module: Module, before: Module | None) -> None:
        got = [self.run(module, feed) for feed in self.feeds]
        check = compare("the model", self.data, self.limit, self.wanted, got)
        self.errors.append(PassError(number, text, check.worst))
        if check.ok:
            return
        found = first_difference(before, module, self.feeds[0], self.run, self.limit)
        raise MismatchError(f"{check}{describe(found)}")


@dataclass(frozen=True)
class Difference:
    """An op whose result isn't what the value of that name was before.

    `gone` are the ops before the pass that led to that value and whose own values are no more.
    """

    op: Op
    value: str
    error: OutputError
    gone: tuple[Op, ...] = ()


def describe(found: Difference | None) -> str:
    """Say which op differs first; the empty string where none does."""
    if found is None:
        return ""
    why = found.error.why or f"{found.error.relative:.1e} of its range"
    lost = ", ".join(f"{op.kind.name} at {op.loc}" for op in found.gone)
    after = f", with {lost} gone before it" if lost else ""
    return f"; the first op that differs is {found.op.kind.name} at {found.op.loc} ({why}){after}"


def first_difference(
    before: Module | None, after: Module, feed: Feed, run: Run, limit: Tolerance
) -> Difference | None:
    """The first op of `after` whose result differs from the value of the same name in `before`.

    Passes let a value that replaces another carry its name, so equal names mean equal numbers.
    """
    if before is None:
        return None
    want, got = observe(before, feed, run), observe(after, feed, run)
    limit = replace(limit, respond=None)  # the response to rounding is known of outputs only
    for op in after.main:
        for name in (r.hint for r in op.results if r.hint in want and r.hint in got):
            check = compare("", "", limit, [{name: want[name]}], [{name: got[name]}])
            if check.worst and not check.ok:
                return Difference(op, name, check.worst, _gone(before, after, name))
    return None


def _gone(before: Module, after: Module, name: str) -> tuple[Op, ...]:
    """The ops that led to a value and whose own values the module no longer has, in order."""
    left = {r.hint for op in after.main for r in op.results}
    made = {r.hint: op for op in before.main for r in op.results}
    found: dict[Op, None] = {}
    todo = [made[name]]
    while todo:
        for value in todo.pop().operands:
            op = value.op if value else None
            if op and op.kind.name != "const" and op.results[0].hint not in left:
                found[op] = None
                todo.append(op)
    return tuple(op for op in before.main if op in found)


def observe(module: Module, feed: Feed, run: Run) -> dict[str, Any]:
    """Every value of the main graph that ops compute, by its name; repeated names are left out."""
    from graphopt.ir.builtin import Return

    copy = clone_module(module)
    seen: dict[str, Any] = {}
    for op in copy.main:
        if op.kind.name not in ("const", "return"):
            for r in op.results:
                known = isinstance(r.type, TensorType) and bool(r.hint)
                if known:
                    seen[r.hint] = None if r.hint in seen else r
    values = {name: v for name, v in seen.items() if v is not None}
    end = copy.main.terminator
    if not values:
        return {}
    copy.main.erase(end)
    names = tuple(f"observed/{i}" for i in range(len(values)))
    copy.main.insert(Op(Return(names), values.values()))
    got = run(copy, feed)
    return {name: got[n] for name, n in zip(values, names, strict=True) if n in got}
