"""What a target is: the pipeline it wants, what it compiles, and how it makes a bundle."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from graphopt.analysis.price import Costs
from graphopt.errors import InputError
from graphopt.ir.core import Module
from graphopt.passes import PIPELINES
from graphopt.pipeline import Hook, Pass
from graphopt.runtime.manifest import Manifest
from graphopt.spec import Spec, nearest
from graphopt.targets.bundle import Content, Meta
from graphopt.targets.program import Program
from graphopt.targets.stored.blob import Storage

Progress = Callable[[str, int, int], None]  # what is done, how many, of how many


def silent(what: str, done: int, total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Build:
    """How to build: parallel compilations, the kernel cache (None: the user's), progress.

    `storage` says which constants are stored in fewer bytes (`auto`: where it pays; `coded`: all
    that get smaller; `plain`: none), and decoded when the library is loaded.
    `tune` is how many seconds may go into trying schedules of kernels on `threads` threads (None:
    none are tried, and what was found before isn't used); `plan` gives schedules found before.
    """

    jobs: int = 2
    cache: Path | None = None
    progress: Progress = silent
    tune: float | None = None
    threads: int = 1
    plan: Mapping[str, str] = field(default_factory=dict[str, str])
    storage: Storage = "auto"


class Runner(Protocol):
    """Runs a finished bundle, for verification."""

    @property
    def how(self) -> str:
        """Where, as words that follow "ran"; empty: on this computer."""
        ...

    def run(
        self, bundle: Path, feeds: Sequence[Mapping[str, Any]], threads: int
    ) -> list[dict[str, Any]]:
        """The outputs by name for each of the inputs; where it is slow, for the first of them.

        Raises:
            MismatchError: it crashes.
            LimitError: it takes too long, or too much memory.
        """
        ...


@dataclass(frozen=True)
class Estimate:
    """What a run takes on a CPU that isn't here: microseconds and instructions of each layer.

    `beside` are instructions outside kernels, `how` the method, and `cpu` what it is for.
    """

    us: tuple[float, ...]
    instructions: tuple[int, ...]
    beside: int
    how: str
    cpu: str


class Target(Spec):
    """A device family; a member is a frozen dataclass with a `cpu` field.

    `pipelines` are the texts that names of pipelines stand for, `default` among them.
    """

    pipelines: ClassVar[Mapping[str, str]] = PIPELINES
    summary: ClassVar[str] = ""
    cpu: str

    @classmethod
    @abstractmethod
    def cpus(cls) -> list[str]:
        """The CPUs that may be named."""

    @abstractmethod
    def describe(self) -> str:
        """The machine on one line."""

    @property
    def lanes(self) -> int:
        """Float32 numbers in a vector register; 0 where there is none."""
        return 0

    @abstractmethod
    def lower(self, module: Module, hooks: tuple[Hook, ...] = ()) -> Program:
        """Make a Program of an optimized module; the module is changed on the way."""

    @abstractmethod
    def lowering(self) -> tuple[Pass, ...]:
        """The passes that `lower` runs first."""

    @abstractmethod
    def costs(self, threads: int) -> Costs | None:
        """What ops cost on it, for a number of threads; None where this computer can't tell.

        Nothing is measured before the first question.
        """

    @abstractmethod
    def runner(self) -> Runner:
        """What runs its bundles here.

        Raises:
            UnsupportedError: nothing does; the message says what would.
        """

    @property
    def built_for(self) -> str:
        """The architecture of its bundles, as `uname -m` says it; empty: this computer's."""
        return ""

    def examine(self, bundle: Path) -> str:
        """Read a bundle's code; what that proved, as a sentence. Empty: nothing is asked of it.

        Raises:
            MismatchError: the CPU lacks an instruction of it.
            UnsupportedError: nothing here reads it; the message says what would.
        """
        return ""

    def estimate(self, bundle: Path, feed: Mapping[str, Any]) -> Estimate | None:
        """What a run takes where this computer can't time it; None: it can.

        Raises:
            UnsupportedError: nothing here can tell.
        """
        return None

    @abstractmethod
    def compile(
        self,
        module: Module,
        directory: Path,
        *,
        model: Content,
        meta: Meta,
        options: Build,
        hooks: tuple[Hook, ...] = (),
    ) -> tuple[Program, Manifest]:
        """Lower an optimized module (which stays as it is), compile it, write the bundle.

        `hooks` watch the passes of lowering.

        Raises:
            UnsupportedError: the computer lacks a compiler.
        """


Target.homes.update({
    "arm": "graphopt.targets.arm",
    "c": "graphopt.targets.portable",
    "x86": "graphopt.targets.x86",
})  # fmt: skip


def parse_target(text: str) -> Target:
    """Read `name` or `name:cpu`.

    Raises:
        InputError: an unknown target or CPU; the nearest is offered.
    """
    name, _, cpu = text.partition(":")
    cls = Target.member(name)
    if cls is None:
        raise InputError(f"no target named {name!r}{nearest(name, Target.member_names())}")
    if cpu and cpu not in cls.cpus():
        raise InputError(f"target {name} has no cpu named {cpu!r}{nearest(cpu, cls.cpus())}")
    return cls(cpu)
