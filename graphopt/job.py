"""The steps of one optimization, sharing what they have learnt (`graphopt.api.optimize`)."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from graphopt import onnx as onnx_io
from graphopt.account import describe_build, is_gir, name_of, specs, target_text, versions
from graphopt.analysis.bind import bind
from graphopt.analysis.memory import check_memory
from graphopt.attempts import Attempts
from graphopt.data import Feed, load_samples, sample_shapes, seeded_runs
from graphopt.errors import InputError, MismatchError, UnsupportedError
from graphopt.exact import check_integers
from graphopt.generate import Generated, sample_runs
from graphopt.hooks import Kept, Records, Shifted
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Module
from graphopt.judge import SampleJudge
from graphopt.later import Later
from graphopt.loss import Loss
from graphopt.measure import interleave, latency
from graphopt.pipeline import Context, Record, check_pipeline
from graphopt.profiler import Profile, estimated, profile_session
from graphopt.report.model import Latency, Report, Size, before_passes, plain
from graphopt.request import Request
from graphopt.runtime import Session
from graphopt.runtime.cpu import is_native
from graphopt.runtime.manifest import Manifest
from graphopt.targets.base import Progress
from graphopt.targets.bundle import Meta, place_file
from graphopt.targets.program import Program
from graphopt.truth import Truth, runs
from graphopt.verify import Check

SEEDED_SAMPLES = 3
DATA_SAMPLES = 16
TIMED, ROUNDS = 0.2, 3  # seconds of the bundle's runs and of its peer's, and rounds at least
PROFILED = 0.1  # seconds of runs layer by layer


class Job:
    """The steps, in order: read, run the original, run the passes, verify, compile, verify.

    The original, and the optimized model, run in another process while passes and the compiler go
    on: `await_checks` waits for them, and stages' times are those that were waited for.
    """

    def __init__(self, request: Request) -> None:
        """Read the model and the data, check the passes; nothing is run yet.

        Raises:
            InputError, UnsupportedError: they can't be used.
        """
        self.request, self.target = request, request.target
        self.costs = self.target.costs(request.threads) if self.target else None
        self.seconds: dict[str, float] = {}
        self.progress: Progress = request.build.progress
        self.progress("read the model", 0, 1)
        self.module = self.timed("read", request.load)
        data = request.data
        self.samples = load_samples(data, self.module.main) if data is not None else None
        self.notes = self._bind(dict(request.input_shapes))
        check_memory(self.module)
        self.original = clone_module(self.module)
        self.before = before_passes(self.module)
        self.truth: Truth | None = None
        self._original: Later[Truth] | None = None
        self._checked: Later[Check] | None = None
        self._saved: tempfile.TemporaryDirectory[str] | None = None
        self._peer: Later[onnx_io.Reference] | None = None
        self.activations = sample_runs(self.original, self.samples, request.load)
        self.judge = SampleJudge(self.original, self._answer, self.samples, self.activations)
        self.program: Program | None = None
        self.manifest: Manifest | None = None
        self.staged: tempfile.TemporaryDirectory[str] | None = None
        self.records: list[Record] = []
        self.lowering, self.integers = Records(), Kept("integers")
        self.checks: list[Check] = []
        self.losses: tuple[Loss, ...] = ()
        self.missed: tuple[str, ...] = ()
        self.ran = self.instructions = ""
        self.latency: list[Latency] = []
        self.profile: Profile | None = None
        self.asked = Context(
            evaluate=onnx_io.evaluate_opaque, costs=self.costs, samples=self.activations,
            judge=self.judge, max_drop=request.max_drop, progress=self.progress,
            lanes=self.target.lanes if self.target else 0,
        )  # fmt: skip
        check_pipeline(request.passes, self.module, self.asked)
        self.attempts = Attempts(
            request.passes, request.hooks, self.original, self.asked, self.judge, self.timed
        )

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
        """Do some work and add its time to a stage's."""
        began = time.perf_counter()
        result = work()
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - began
        return result

    def run_original(self) -> None:
        """Begin to make the numbers to verify against, on given samples or seeded inputs.

        Lossy passes run the original themselves: then they are made now.
        """
        self.progress("run the original", 0, 1)
        self._original = Later(self._run_original)
        if self.request.lossy:
            self.await_checks()

    def await_checks(self) -> None:
        """Wait until the original has run, and the optimized model, if they were begun.

        Raises:
            InputError, LimitError: the original can't be run.
            MismatchError: the optimized model differs.
        """
        if self._original and self.truth is None:
            self.truth = self.timed("verify", self._original.wait)
        if self._checked:
            checked, self._checked = self._checked, None
            self._passed(self.timed("verify", checked.wait))
        if self._saved:
            self._saved.cleanup()
            self._saved = None

    @cached_property
    def reference(self) -> onnx_io.Reference:
        """What everything else is held against."""
        return onnx_io.Reference(self._source)

    def _answer(self, feed: Feed) -> Mapping[str, Any]:
        return self.reference.run(feed)

    def _run_original(self) -> Truth:
        reference = self.reference
        if self.samples:
            feeds = self._feeds()
            wanted = [reference.run(f) for f in feeds]
        else:
            feeds, wanted = seeded_runs(self.original, reference.run, SEEDED_SAMPLES)
        data = "given" if self.samples else "seeded"
        return Truth(self.original, data, feeds, wanted)

    @property
    def _source(self) -> Any:
        """The original, as the reference reads it."""
        return self.original if is_gir(self.request.source) else self.request.source

    def _feeds(self) -> list[Feed]:
        """The given samples, as the model takes them."""
        assert self.samples
        found = list(self.samples.feeds(self.module.main, DATA_SAMPLES))
        if not found:
            raise InputError("the data has too few samples for one run of the model")
        return found

    def run_passes(self, check: bool = True) -> None:
        """Run the pipeline; what it makes up to its first lossy pass must equal the original.

        Lossy passes may run twice, where the first time they lost more than the user allows.
        """
        self.progress("run the passes", 0, 1)
        one = self.attempts.first()
        if check and (before := one.before):
            self.progress("verify the model before lossy passes", 0, 1)
            self.timed("verify", lambda: self._verify_model("the exact part", before))
        if self.request.lossy and (check or self.request.max_drop is not None):
            one = self.attempts.within(one)
        self.module, self.records, self.losses = one.module, one.records, one.losses
        self.notes += [*one.notes, *dict.fromkeys(self.judge.notes)]
        self.missed = tuple(one.missed(self.request.max_drop))
        if isinstance(self.activations, Generated) and self.activations.used:
            self.notes.append(self.activations.note)

    def verify_model(self) -> None:
        """Begin to check the optimized model. One of lossy passes is its own truth from here on."""
        self.progress("verify the optimized model", 0, 1)
        if self.request.lossy:
            self.timed("verify", self._take_truth)
            return
        self._saved = tempfile.TemporaryDirectory(prefix="graphopt-")
        path = Path(self._saved.name) / "model.onnx"
        self.timed("verify", lambda: onnx_io.save(self.module, path))
        self._checked = Later(lambda: self._verify_file("the optimized model.onnx", path))

    def _verify_model(self, what: str, module: Module) -> None:
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            path = Path(folder) / "model.onnx"
            onnx_io.save(module, path)
            self._passed(self._verify_file(what, path))

    def _verify_file(self, what: str, path: Path) -> Check:
        assert self._original
        truth, again = self._original.wait(), onnx_io.Reference(path)
        return truth.check(what, [again.run(f) for f in truth.feeds])

    def _write_model(self, path: Path) -> None:
        """The file that is verified, with those of its weights if it has some; else write it."""
        if not self._saved:
            onnx_io.save(self.module, path)
            return
        for file in Path(self._saved.name).iterdir():
            place_file(file, path.with_name(file.name))

    def _take_truth(self) -> None:
        """From here on the optimized model's own numbers are what the bundle must give."""
        assert self.truth
        feeds, module = self.truth.feeds, clone_module(self.module)
        self.truth = Truth(module, self.truth.data, feeds, runs(module, feeds))

    def compile(self) -> None:
        """Make the bundle in a folder of its own."""
        target = self.target
        assert target is not None
        self.staged = tempfile.TemporaryDirectory(prefix="graphopt-")
        place = Path(self.staged.name) / "bundle"
        meta = Meta(
            target=target_text(target),
            pipeline=",".join(map(str, self.request.passes)),
            versions=versions(),
            inputs=specs(self.module, outputs=False),
            outputs=specs(self.module, outputs=True),
            extra=self._decided(),
        )
        past = len(self.request.passes)
        hooks = (self.lowering, self.integers, *(Shifted(h, past) for h in self.request.hooks))
        self.progress("plan kernels and memory", 0, 1)
        self.program, self.manifest = self.timed("compile", lambda: target.compile(
            self.module, place, meta=meta, options=self.request.build,
            model=self._write_model, hooks=hooks,
        ))  # fmt: skip

    def _decided(self) -> dict[str, Any]:
        """What the manifest keeps: the costs that decided something, losses, limits missed."""
        costs = {"costs": self.costs.used} if self.costs and self.costs.used else {}
        lost = [plain(dataclasses.asdict(one)) for one in self.losses]
        told = {"losses": lost, "missed": list(self.missed)}
        return {**costs, **{k: v for k, v in told.items() if v}}

    def cleanup(self) -> None:
        """Remove the folders."""
        for folder in (self.staged, self._saved):
            if folder:
                folder.cleanup()

    def verify_bundle(self) -> None:
        """Check what was compiled."""
        self.progress("verify the bundle", 0, 1)
        self.timed("verify", self._verify_bundle)

    def _verify_bundle(self) -> None:
        assert self.staged and self.truth and self.target
        feeds, place = self.truth.feeds, Path(self.staged.name) / "bundle"
        try:
            self.instructions = self.target.examine(place)
        except UnsupportedError as why:
            self.notes.append(f"the compiled instructions were NOT CHECKED: {why}")
        try:
            runner = self.target.runner()
        except UnsupportedError as why:
            self.notes.append(f"the compiled bundle was NOT RUN: {why}")
            return
        self.ran = runner.how
        got = runner.run(place, feeds, self.request.threads)
        what = f"the compiled bundle, {self.ran}," if self.ran else "the compiled bundle"
        self._passed(self.truth.check(what, got))
        if self.integers.module:
            self._passed(check_integers(self.integers.module, feeds[0], got[0], self.truth.data))

    def _passed(self, check: Check | None) -> None:
        """List a check, if there is one.

        Raises:
            MismatchError: it failed.
        """
        if check:
            self.checks.append(check)
        if check and not check.ok:
            raise MismatchError(f"{name_of(self.request.source)}: {check}")

    def open_peer(self) -> None:
        """Begin to open what the bundle will be timed beside, if it is for such a computer."""
        if self.target and is_native(self.target.built_for):
            self._peer = Later(self._optimized)

    def _optimized(self) -> onnx_io.Reference:
        return onnx_io.Reference(self._source, optimize=True, threads=self.request.threads)

    def measure(self) -> None:
        """Time the bundle and ONNX Runtime."""
        self.progress("measure", 0, 1)
        self.timed("measure", self._measure)

    def _measure(self) -> None:
        assert self.staged and self.target and self.manifest
        try:
            feed = self.truth.feeds[0] if self.truth else self._seeded()
            found = self.target.estimate(Path(self.staged.name) / "bundle", feed)
        except UnsupportedError:
            return  # a note says already that nothing here runs it
        if found is None:
            self._time(feed)
            return
        self.profile = estimated(self.manifest, found)
        ms = self.profile.run_us / 1000
        self.latency = [Latency("graphopt", 1, ms, ms, 0, found.how)]

    def _seeded(self) -> Feed:
        (feed,), _ = seeded_runs(self.original, self.reference.run, 1)
        return feed

    def _time(self, feed: Feed) -> None:
        assert self.staged
        place, threads = Path(self.staged.name) / "bundle", self.request.threads
        peer = self._peer.wait() if self._peer else self._optimized()
        with Session(place, threads=threads) as session:
            rows = interleave(
                {"graphopt": lambda: session.run(feed), "onnxruntime": lambda: peer.run(feed)},
                TIMED, ROUNDS, calm=("graphopt",),
            )  # fmt: skip
            self.latency = [latency(n, threads, r) for n, r in rows.items()]
            self.profile = profile_session(session, feed, seconds=PROFILED, settle=False)

    def report(self) -> Report:
        """The account of it all."""
        report = Report(
            model=name_of(self.request.source),
            target=target_text(self.target) if self.target else "",
            pipeline=",".join(map(str, self.request.passes)),
            before=self.before,
            after=Size.of(self.module),
            passes=self.records + self.lowering.records,
            seconds=self.seconds,
            notes=[
                *self.notes,
                *dict.fromkeys(n for r in self.records for n in r.notes),
                *(self.program.notes if self.program else ()),
            ],
            checks=self.checks,
            losses=list(self.losses),
            max_drop=self.request.max_drop,
            missed=list(self.missed),
            ran=self.ran,
            instructions=self.instructions,
            latency=self.latency,
        )
        if self.profile:
            told = self.profile.to_json()
            report.layers, report.roofline = told["layers"], told["roofline"]
        if self.program and self.manifest and self.staged:
            describe_build(report, self.module, self.program, self.manifest)
        return report
