"""What targets that compile to a CPU's machine code share: passes, kernels, linking, the bundle."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from graphopt.analysis.price import Costs
from graphopt.errors import UnsupportedError
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Graph, Module
from graphopt.onnx import to_proto
from graphopt.onnx.isolated import run_bundle
from graphopt.passes.expand import Expand
from graphopt.passes.group import Group
from graphopt.passes.halves import NarrowConstants, WidenConstants
from graphopt.passes.integers import Integers
from graphopt.passes.layout import Layout
from graphopt.passes.phased import Phased
from graphopt.passes.recurrent import Recurrent
from graphopt.passes.scales import Scales
from graphopt.passes.tiles import Tiles
from graphopt.passes.winograd import Winograd
from graphopt.pipeline import Context, Hook, Pass, run_pipeline
from graphopt.runtime.manifest import Manifest
from graphopt.targets import bundle, machine
from graphopt.targets.base import Build, Progress, Runner, Target
from graphopt.targets.bundle import Content, Meta
from graphopt.targets.catalog import KERNELS, KernelCatalog
from graphopt.targets.costs import ModelCosts, TargetCosts, reference_model
from graphopt.targets.driver.toolchain import Toolchain
from graphopt.targets.lower import NONE, lower, text_key
from graphopt.targets.program import Program, Workspace, check_size
from graphopt.targets.tuning import Database, Tuner
from graphopt.targets.tvm.amx import FEATURE
from graphopt.targets.tvm.compile import CompileFailure, compile_kernels, default_cache, salt


@dataclass(frozen=True)
class Native:
    """Runs bundles on this computer (`graphopt.targets.base.Runner`)."""

    how: str = ""

    def run(
        self, bundle: Path, feeds: Sequence[Mapping[str, Any]], threads: int
    ) -> list[dict[str, Any]]:
        """All of them, in a child process that may crash."""
        return run_bundle(bundle, feeds, threads)


@dataclass(frozen=True)
class Compiled(Target):
    """A family of CPUs; `arch` as `uname -m` says it, `static`: with a static library, too."""

    cpu: str = ""
    arch: ClassVar[str] = ""
    static: ClassVar[bool] = False

    @classmethod
    def cpus(cls) -> list[str]:
        """The CPUs, or levels, that may be named."""
        return [n for n in machine.names() if machine.load(n).arch == cls.arch]

    @abstractmethod
    def machine(self) -> machine.Machine:
        """The machine compiled for.

        Raises:
            UnsupportedError: no CPU is named and there is no default here.
        """

    def toolchain(self) -> Toolchain | None:
        """The C compiler that links; None: this computer's own.

        Raises:
            UnsupportedError: there is none.
        """
        return None

    def accept(self, program: Program, module: Module) -> None:
        """Refuse a program of a module that can't be shipped.

        Raises:
            UnsupportedError: with the reason.
        """

    @property
    def built_for(self) -> str:
        """The architecture of the bundle, as `uname -m` says it."""
        return self.machine().arch

    @property
    def lanes(self) -> int:
        """Float32 numbers in a vector register."""
        return self.machine().lanes

    def catalog(self) -> KernelCatalog:
        """What there are kernels for."""
        m = self.machine()
        return replace(KERNELS, tiles=FEATURE in m.cpu_features, machine=m)

    def describe(self) -> str:
        """The machine on one line."""
        m = self.machine()
        return f"{m.name}: {m.lanes * 32}-bit vectors, {m.registers} registers"

    def lowering(self, coded: bool = True) -> tuple[Pass, ...]:
        """Integers where the model is quantized, then layouts, then kernels.

        `coded`: constants that can be stored in fewer bytes will be.
        """
        m = self.machine()
        phased = (Phased(),) if FEATURE in m.cpu_features else ()
        return (WidenConstants(), Expand(), Recurrent(), Integers(), Scales(m.fma), *phased,
                Winograd(coded=coded), Layout(), Tiles(), NarrowConstants(), Group())  # fmt: skip

    def lower(
        self,
        module: Module,
        hooks: tuple[Hook, ...] = (),
        catalog: KernelCatalog | None = None,
        plan: Mapping[str, str] = NONE,
        coded: bool = True,
    ) -> Program:
        """Choose layouts, group ops into kernels, plan memory.

        `plan` has the kernels' knobs; `coded`: see `lowering`.
        """
        return self.lower_priced(module, _described(self), hooks, catalog, plan, coded)

    def lower_priced(
        self,
        module: Module,
        costs: Costs | None,
        hooks: tuple[Hook, ...] = (),
        catalog: KernelCatalog | None = None,
        plan: Mapping[str, str] = NONE,
        coded: bool = True,
    ) -> Program:
        """Lower; `costs` are the prices that algorithms are chosen by, None: none are chosen."""
        m, catalog = self.machine(), catalog or self.catalog()
        ctx = Context(catalog=catalog, lanes=m.lanes, costs=costs)
        run_pipeline(self.lowering(coded), module, ctx, hooks)
        return lower(module, salt=salt(m), reason=catalog.reason, segment=_segment, plan=plan)

    def costs(self, threads: int) -> Costs | None:
        """Prices as measured where this computer can run the kernels, else as described."""
        m = self.machine()
        if not m.runs_on(machine.host_features()):
            return ModelCosts(self, lambda: reference_model(m))
        return TargetCosts(self, threads)

    def runner(self) -> Runner:
        """This computer, in a process of its own."""
        return Native()

    def tuned(self, module: Module, options: Build) -> dict[str, str]:
        """The plan that trials on this computer give, if any are asked for.

        Raises:
            UnsupportedError: this computer can't run the kernels.
        """
        if options.tune is None:
            return {}
        m = self.machine()
        if not m.runs_on(machine.host_features()):
            raise UnsupportedError(f"this computer can't run, and so not tune, code for {m.name}")

        def told(what: str, rule: float, best: float, done: int, total: int) -> None:
            options.progress(f"tune {what}: {rule:.0f} -> {best:.0f} us", done, total)

        program = self.lower(clone_module(module), coded=_codes(options))
        database = Database(m, options.threads)
        return Tuner(m, options.threads, database, told).plan(program, options.tune)

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
        """Lower, compile the kernels in worker processes, link them, write the bundle.

        What the compiler refuses falls back: the module is lowered again without it.
        """
        m, catalog, toolchain = self.machine(), self.catalog(), self.toolchain()
        plan = {**self.tuned(module, options), **options.plan}
        while True:
            program = self.lower(clone_module(module), hooks, catalog, plan, _codes(options))
            check_size(program)
            self.accept(program, module)
            compiled = compile_kernels(
                program.kernels, m, jobs=options.jobs, cache_dir=options.cache,
                progress=_counted(options.progress, len(program.kernels)),
            )  # fmt: skip
            failed = {k: c for k, c in compiled.items() if isinstance(c, CompileFailure)}
            if not failed:
                break
            for kernel in (k for k in program.kernels if k.key in failed):
                if kernel.knobs:
                    del plan[text_key(kernel.text)]  # made by other templates
                else:
                    catalog = catalog.refusing(kernel.text, failed[kernel.key].reason)
        objects = sorted(c for c in compiled.values() if isinstance(c, Path))
        used = {text_key(k.text): k.knobs for k in program.kernels if k.knobs}
        if plan or options.tune is not None:
            told = f"{len(used)} of {len(program.kernels)} kernels run a schedule that tuning found"
            program = replace(program, notes=(*program.notes, told))
        extra = {**meta.extra, "machine": m.name, **({"plan": used} if used else {})}
        meta = replace(meta, arch=self.built_for, cpu_features=m.cpu_features, extra=extra)
        options.progress("link", 0, 1)
        return program, bundle.write(
            program, objects, directory, model=model, meta=meta, toolchain=toolchain,
            amx=FEATURE in m.cpu_features, storage=options.storage, static=self.static,
            workspace=Workspace.beside(objects), cache=options.cache or default_cache(),
        )  # fmt: skip


def _codes(options: Build) -> bool:
    """Whether constants may be stored in fewer bytes."""
    return options.storage != "plain"


def _counted(progress: Progress, total: int) -> Callable[[str, bool, float], None]:
    """The compiler's progress, as a count of kernels."""
    done: list[str] = []

    def step(key: str, cached: bool, seconds: float) -> None:
        done.append(key)
        progress("compile kernels", len(done), total)

    return step


def _segment(graph: Graph, module: Module) -> bytes:
    """A part of the model as an ONNX model of its own."""
    return to_proto(Module(graph, graph.name, dict(module.opsets))).SerializeToString()


@dataclass(frozen=True)
class _AsWritten:
    """The target, but that no algorithm is chosen: what prices of algorithms are made of."""

    target: Compiled

    def lower(self, module: Module) -> Program:
        """Make a Program of a module."""
        return self.target.lower_priced(module, None)


@lru_cache(maxsize=8)
def _described(target: Compiled) -> ModelCosts:
    """Prices for lowering: of the machine as described, so that all computers choose alike."""
    return ModelCosts(_AsWritten(target), lambda: reference_model(target.machine()))
