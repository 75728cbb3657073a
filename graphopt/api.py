"""The library's front door: load, optimize, and the result."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from graphopt import onnx as onnx_io
from graphopt.analysis.bind import Shapes, bind
from graphopt.analysis.memory import check_memory
from graphopt.data import Feed, load_samples, sample_shapes, seeded_runs
from graphopt.errors import InputError, MismatchError
from graphopt.exact import check_integers
from graphopt.hooks import Kept, Records, Shifted
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Module
from graphopt.ir.parser import parse as parse
from graphopt.ir.store import load_gir, save_gir
from graphopt.ir.types import TensorType
from graphopt.ir.verify import verify
from graphopt.measure import interleave, latency
from graphopt.onnx.isolated import run_bundle, start_child
from graphopt.passes import DEFAULT
from graphopt.pipeline import (
    Context,
    Hook,
    Pass,
    Record,
    parse_pipeline,
    run_pipeline,
)
from graphopt.profiler import Profile, profile_session
from graphopt.report.html import html_page
from graphopt.report.model import Fallback, Latency, Report, Size
from graphopt.runtime import Session
from graphopt.runtime.manifest import Manifest, TensorSpec
from graphopt.targets import bundle
from graphopt.targets.base import Build, Progress, Target, parse_target
from graphopt.targets.bundle import Meta
from graphopt.targets.program import Program
from graphopt.targets.x86 import X86 as X86
from graphopt.verify import Check, Feeds, Tolerance, compare, response, tolerance

SEEDED_SAMPLES = 3
DATA_SAMPLES = 16


def load(source: Any, *, input_shapes: Shapes | None = None) -> Module:
    """Read a model.

    Args:
        source: a path of an ONNX file or of IR text (.gir), the bytes of a model, or a ModelProto.
        input_shapes: shapes to fix, by input name; the others stay as the model says.

    Raises:
        InputError: not a valid model.
        UnsupportedError: an opset that is too old or too new.
    """
    path = _path(source)
    if path and path.suffix == ".gir":
        module = load_gir(path)
        verify(module)
    else:
        module = onnx_io.load(path or source)
    if input_shapes:
        bind(module, input_shapes)
    return module


def save(module: Module, path: str | os.PathLike[str], *, opset: int | None = None) -> None:
    """Write a module as ONNX, or as IR text where the name ends in .gir.

    Raises:
        InputError: the path can't be written.
    """
    if Path(path).suffix == ".gir":
        save_gir(module, Path(path))
    else:
        onnx_io.save(module, Path(path), opset=opset)


def context(**options: Any) -> Context:
    """A Context that can evaluate opaque ops, through ONNX Runtime."""
    return Context(evaluate=onnx_io.evaluate_opaque, **options)


def default_passes(text: str | None, target: Target | None) -> tuple[Pass, ...]:
    """Read pipeline text, None being the target's default pipeline."""
    standard = target.default if target else DEFAULT
    return parse_pipeline(text or "default", standard)


@dataclass
class Result:
    """An optimized model: `module`, `report`, and (with a target) a verified bundle to `save`."""

    module: Module
    report: Report
    manifest: Manifest | None = None
    program: Program | None = None
    _staged: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    @property
    def bundle(self) -> Path | None:
        """The verified bundle before it is saved; None without a target."""
        return Path(self._staged.name) / "bundle" if self._staged else None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the bundle's folder (without a target: the ONNX file), all of it or nothing.

        Raises:
            InputError: the path can't be written, or holds something that isn't a bundle.
        """
        if self.bundle is None:
            save(self.module, path)
        else:
            page = {"report.html": html_page(self.report).encode()}
            bundle.publish(self.bundle, Path(path), page)
        return Path(path)


def optimize(
    model: Any,
    target: str | Target | None = None,
    passes: str | Sequence[Pass] | None = None,
    data: Any = None,
    input_shapes: Shapes | None = None,
    threads: int | None = None,
    *,
    check: bool = True,
    hooks: Sequence[Hook] = (),
    build: Build | None = None,
    measure: bool = False,
) -> Result:
    """Optimize a model, and compile it for a target.

    Args:
        model: what `load` takes.
        target: `x86`, `x86:avx2`, ... or a Target; None: passes only.
        passes: pipeline text or passes; None: the target's default, which is exact.
        data: samples to verify on: an .npz, a folder of them, or `{name: array}`s; None: seeded.
        input_shapes: shapes to fix, by input name.
        threads: of the Session that verifies and measures; None: all cores.
        check: verify against the original in ONNX Runtime with its optimizer off.
        hooks: watch the pipeline.
        build: parallel compilations, cache, progress.
        measure: time the bundle and ONNX Runtime, and profile the layers.

    Raises:
        InputError, UnsupportedError: what was given can't be used.
        MismatchError: the numbers differ from the original's.
        LimitError: running it takes more memory or time than the limits (graphopt.limits).
    """
    if check:
        start_child()  # it is ready by the time that the model is read
    job = _Job(model, target, passes, data, input_shapes, threads, hooks, build or Build())
    if check:
        job.run_original()  # first, because what can't be run needn't be compiled
    job.run_passes()
    if check:
        job.verify_model()  # before compiling, for the same reason
    try:
        if job.target:
            job.compile()
        if job.target and check:
            job.verify_bundle()
        if job.target and measure:
            job.measure()
    except BaseException:
        job.cleanup()
        raise
    return job.result()


def runs(module: Module, feeds: Feeds) -> Feeds:
    """The outputs of a module for several inputs, in ONNX Runtime with its optimizer off."""
    reference = onnx_io.Reference(module)
    return [reference.run(feed) for feed in feeds]


class _Job:
    """The steps of `optimize`, sharing what they have learnt."""

    def __init__(
        self,
        model: Any,
        target: str | Target | None,
        passes: str | Sequence[Pass] | None,
        data: Any,
        input_shapes: Shapes | None,
        threads: int | None,
        hooks: Sequence[Hook],
        build: Build,
    ) -> None:
        self.source = model
        self.target = parse_target(target) if isinstance(target, str) else target
        if passes is None or isinstance(passes, str):
            self.passes = default_passes(passes, self.target)
        else:
            self.passes = tuple(passes)
        self.threads = threads or os.cpu_count() or 1
        self.costs = self.target.costs(self.threads) if self.target else None
        self.hooks, self.build = tuple(hooks), replace(build, threads=self.threads)
        self.seconds: dict[str, float] = {}
        self.progress: Progress = build.progress
        self.progress("read the model", 0, 1)
        self.module = self.timed("read", lambda: load(model))
        self.samples = load_samples(data, self.module.main) if data is not None else None
        self.notes = self._bind(dict(input_shapes or {}))
        check_memory(self.module)
        self.original = clone_module(self.module)
        self.before = Size.of(self.module)
        self.program: Program | None = None
        self.manifest: Manifest | None = None
        self.staged: tempfile.TemporaryDirectory[str] | None = None
        self.records: list[Record] = []
        self.lowering, self.integers = Records(), Kept("integers")
        self.data, self.fed, self.wanted = "seeded", list[Feed](), list[Mapping[str, Any]]()
        self.checks: list[Check] = []
        self.latency: list[Latency] = []
        self.profile: Profile | None = None

    def _bind(self, shapes: dict[str, tuple[int, ...]]) -> list[str]:
        """Fix the shapes of inputs: as given, else as the samples have them, else a batch of 1."""
        notes: list[str] = []
        if self.samples:
            for name, shape in sample_shapes(self.samples, self.module.main).items():
                if name not in shapes:
                    shapes[name] = shape
                    text = "x".join(map(str, shape))
                    notes.append(f"input {name!r} takes the shape {text} of the samples")
        return notes + bind(self.module, shapes)

    def timed(self, what: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - began
        return result

    def run_passes(self) -> None:
        self.progress("run the passes", 0, 1)
        asked = context(costs=self.costs)
        run = lambda: run_pipeline(self.passes, self.module, asked, self.hooks)  # noqa: E731
        self.records = self.timed("passes", run)
        verify(self.module)

    def cleanup(self) -> None:
        if self.staged:
            self.staged.cleanup()

    def compile(self) -> None:
        target = self.target
        assert target is not None
        self.staged = tempfile.TemporaryDirectory(prefix="graphopt-")
        place = Path(self.staged.name) / "bundle"
        meta = Meta(
            target=_target_text(target),
            pipeline=",".join(map(str, self.passes)),
            versions=_versions(),
            inputs=_specs(self.module, outputs=False),
            outputs=_specs(self.module, outputs=True),
            extra={"costs": self.costs.used} if self.costs and self.costs.used else {},
        )
        hooks = (self.lowering, self.integers, *(Shifted(h, len(self.passes)) for h in self.hooks))
        self.progress("plan kernels and memory", 0, 1)
        self.program, self.manifest = self.timed("compile", lambda: target.compile(
            self.module, place, meta=meta, options=self.build,
            model=lambda path: onnx_io.save(self.module, path), hooks=hooks,
        ))  # fmt: skip

    def feeds(self) -> list[Feed]:
        """The given samples, as the model takes them."""
        assert self.samples
        found = list(self.samples.feeds(self.module.main, DATA_SAMPLES))
        if not found:
            raise InputError("the data has too few samples for one run of the model")
        return found

    def run_original(self) -> None:
        self.progress("run the original", 0, 1)
        self.timed("verify", self._run_original)

    def _run_original(self) -> None:
        """The numbers to verify against, on given samples or seeded inputs."""
        reference = onnx_io.Reference(self.source if not _is_gir(self.source) else self.original)
        if self.samples:
            self.data, self.fed = "given", self.feeds()
            self.wanted = [reference.run(f) for f in self.fed]
        else:
            self.fed, self.wanted = seeded_runs(self.original, reference.run, SEEDED_SAMPLES)

    def verify_model(self) -> None:
        self.progress("verify the optimized model", 0, 1)
        self.timed("verify", self._verify_model)

    def _verify_model(self) -> None:
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            path = Path(folder) / "model.onnx"
            onnx_io.save(self.module, path)
            again = onnx_io.Reference(path)
            self._check("the optimized model.onnx", [again.run(f) for f in self.fed])

    def verify_bundle(self) -> None:
        self.progress("verify the bundle", 0, 1)
        self.timed("verify", self._verify_bundle)

    def _verify_bundle(self) -> None:
        assert self.staged
        got = run_bundle(Path(self.staged.name) / "bundle", self.fed, self.threads)
        self._check("the compiled bundle", got)
        if self.integers.module:
            self._passed(check_integers(self.integers.module, self.fed[0], got[0], self.data))

    def _check(self, what: str, got: Feeds) -> None:
        """Compare with the original's numbers.

        Raises:
            MismatchError: they differ beyond the tolerance.
        """
        respond = lambda: response(self.original, self.fed, self.wanted, runs)  # noqa: E731
        limit = tolerance(self.original.main, respond)
        self._passed(compare(what, self.data, limit, self.wanted, got))

    def _passed(self, check: Check | None) -> None:
        """List a check, if there is one.

        Raises:
            MismatchError: it failed.
        """
        if check:
            self.checks.append(check)
        if check and not check.ok:
            raise MismatchError(f"{_name(self.source)}: {check}")

    def measure(self) -> None:
        self.progress("measure", 0, 1)
        self.timed("measure", self._measure)

    def _measure(self) -> None:
        assert self.staged
        place = Path(self.staged.name) / "bundle"
        peer = onnx_io.Reference(
            self.source if not _is_gir(self.source) else self.original,
            optimize=True, threads=self.threads,
        )  # fmt: skip
        (feed,), _ = seeded_runs(self.original, peer.run, 1)
        with Session(place, threads=self.threads) as session:
            rows = interleave({"graphopt": lambda: session.run(feed),
                               "onnxruntime": lambda: peer.run(feed)})  # fmt: skip
            self.latency = [latency(n, self.threads, r) for n, r in rows.items()]
            self.profile = profile_session(session, feed, seconds=0.3)

    def result(self) -> Result:
        report = Report(
            model=_name(self.source),
            target=_target_text(self.target) if self.target else "",
            pipeline=",".join(map(str, self.passes)),
            before=self.before,
            after=Size.of(self.module),
            passes=self.records + self.lowering.records,
            seconds=self.seconds,
            notes=[*self.notes, *(self.program.notes if self.program else ())],
            checks=self.checks,
            latency=self.latency,
        )
        if self.profile:
            told = self.profile.to_json()
            report.layers, report.roofline = told["layers"], told["roofline"]
        if self.program and self.manifest and self.staged:
            _describe_build(report, self.program, self.manifest)
        return Result(self.module, report, self.manifest, self.program, self.staged)


def _describe_build(report: Report, program: Program, manifest: Manifest) -> None:
    report.kernels = len(program.kernels)
    report.calls = len(program.steps)
    report.arena_bytes = program.arena_bytes
    report.versions = dict(manifest.versions)
    report.files = {name: info.bytes for name, info in manifest.files.items()}
    outside = list(program.fallbacks())
    if not outside:
        return
    total = sum(s.macs for s in program.steps) or 1
    why = {kind: reason for call in outside for kind, reason in call.reasons}
    share = sum(row["share"] for row in report.layers if row["kernel"] == "onnxruntime")
    report.fallback = Fallback(
        len(outside), sum(c.macs for c in outside) / total, why, share if report.layers else None
    )


def _path(source: Any) -> Path | None:
    """The path that a source is, if it is one."""
    if isinstance(source, str):
        return Path(source)
    return source if isinstance(source, Path) else None


def _is_gir(source: Any) -> bool:
    path = _path(source)
    return path is not None and path.suffix == ".gir"


def _name(source: Any) -> str:
    path = _path(source)
    return path.name if path else "model"


def _target_text(target: Target) -> str:
    return f"{target.name}:{target.cpu}" if target.cpu else target.name


def _versions() -> dict[str, str]:
    packages = ("graphopt", "apache-tvm", "onnx", "onnxruntime", "numpy")
    found: dict[str, str] = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _specs(module: Module, *, outputs: bool) -> tuple[TensorSpec, ...]:
    graph = module.main
    if not outputs:
        return tuple(_spec(a.hint, a.type) for a in graph.args)
    names = getattr(graph.terminator.kind, "names", ())
    return tuple(_spec(n, v.type) for n, v in zip(names, graph.outputs, strict=True))


def _spec(name: str, type_: Any) -> TensorSpec:
    if not isinstance(type_, TensorType):
        return TensorSpec(name, None, None)
    if type_.shape is None:
        return TensorSpec(name, type_.dtype.value[0], None)
    dims = tuple(d if isinstance(d, int) else str(d) for d in type_.shape)
    return TensorSpec(name, type_.dtype.value[0], dims)


__all__ = ["Result", "Tolerance", "load", "optimize", "parse", "save"]
