"""The library's front door: load, optimize, and the result."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt import onnx as onnx_io
from graphopt.account import name_of, path_of
from graphopt.analysis.bind import Shapes, bind
from graphopt.errors import LimitError, path_from, want
from graphopt.ir.builtin import name_ends
from graphopt.ir.core import Module
from graphopt.ir.parser import parse as parse
from graphopt.ir.store import load_gir, save_gir
from graphopt.ir.verify import verify
from graphopt.job import Job
from graphopt.onnx.isolated import start_child
from graphopt.passes import PIPELINES
from graphopt.pipeline import Context, Hook, Pass, parse_pipeline
from graphopt.report.html import html_page
from graphopt.report.model import Report
from graphopt.request import checked_passes, checked_target, request
from graphopt.runtime.manifest import Manifest
from graphopt.targets import bundle
from graphopt.targets.base import Build, Target, parse_target
from graphopt.targets.program import Program
from graphopt.verify import Tolerance

if TYPE_CHECKING:
    from graphopt.targets.arm import Arm as Arm
    from graphopt.targets.portable import C as C
    from graphopt.targets.x86 import X86 as X86

_TARGETS = {"Arm": "arm", "C": "c", "X86": "x86"}


def __getattr__(name: str) -> Any:
    """Import a target when it is first asked for."""
    if name not in _TARGETS:
        raise AttributeError(f"module 'graphopt.api' has no attribute {name!r}")
    return getattr(import_module(Target.homes[_TARGETS[name]]), name)


def load(source: Any, *, input_shapes: Shapes | None = None) -> Module:
    """Read a model.

    Args:
        source: a path of an ONNX file or of IR text (.gir; ends without a name get one), the bytes
            of a model, or a ModelProto.
        input_shapes: shapes to fix, by input name; the others stay as the model says.

    Raises:
        InputError: not a valid model.
        UnsupportedError: an opset that is too old or too new.
    """
    path = path_of(source)
    if path and path.suffix == ".gir":
        module = load_gir(path)
        verify(module)
        name_ends(module.main)
    else:
        module = onnx_io.load(path or source)
    if input_shapes:
        bind(module, input_shapes)
    return module


def save(module: Module, path: str | os.PathLike[str], *, opset: int | None = None) -> None:
    """Write a module as ONNX, or as IR text where the name ends in .gir.

    Raises:
        InputError: the path can't be written; an argument isn't what it should be.
        UnsupportedError: the model can't be expressed at the opset.
    """
    want("the module", isinstance(module, Module), "a Module", module)  # pyright: ignore[reportUnnecessaryIsInstance]
    want("opset", opset is None or isinstance(opset, int), "an integer", opset)  # pyright: ignore[reportUnnecessaryIsInstance]
    place = path_from("the path to save to", path)
    if place.suffix == ".gir":
        save_gir(module, place)
    else:
        onnx_io.save(module, place, opset=opset)


def context(**options: Any) -> Context:
    """A Context that can evaluate opaque ops, through ONNX Runtime."""
    return Context(evaluate=onnx_io.evaluate_opaque, **options)


def default_passes(text: str | None, target: Target | None) -> tuple[Pass, ...]:
    """Read pipeline text, None being the target's default pipeline."""
    return parse_pipeline(text or "default", target.pipelines if target else PIPELINES)


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
        place = path_from("the path to save to", path)
        if self.bundle is None:
            save(self.module, place)
        else:
            page = {"report.html": html_page(self.report).encode()}
            bundle.publish(self.bundle, place, page)
        return place


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
    max_drop: float | None = None,
) -> Result:
    """Optimize a model, and compile it for a target.

    Args:
        model: what `load` takes.
        target: `x86`, `x86:avx2`, ... or a Target; None: passes only.
        passes: pipeline text or passes; None: the target's default, which is exact.
        data: samples to verify on: an .npz, a folder of them, or `{name: array}`s; None: seeded.
        input_shapes: shapes to fix, by input name.
        threads: of the Session that verifies and measures; None: all cores.
        check: verify against the original in ONNX Runtime with its optimizer off. (`max_drop` is
            held all the same.)
        hooks: watch the pipeline.
        build: parallel compilations, cache, progress.
        measure: time the bundle and ONNX Runtime, and profile the layers.
        max_drop: points that lossy passes may cost (`graphopt.loss`): of right answers where the
            data has labels, else of answers that stay the same; None: as many as they do.

    Raises:
        InputError, UnsupportedError: what was given can't be used.
        MismatchError: the numbers differ from the original's.
        LimitError: running it takes more memory or time than the limits (graphopt.limits); or
            lossy passes cost more than `max_drop`, or can't save within it what they were asked
            for: then `best` of the error is the result that comes nearest, compiled and verified.
    """
    chosen = parse_target(target) if isinstance(target, str) else checked_target(target)
    if passes is None or isinstance(passes, str):
        chain = default_passes(passes, chosen)
    else:
        chain = checked_passes(passes)
    asked = request(model, lambda: load(model), chosen, chain, data, input_shapes, threads,
                    hooks, build, max_drop)  # fmt: skip
    if check:
        start_child()  # it is ready by the time that the model is read
    job = Job(asked)
    try:
        _make(job, check, measure)
        if job.target and check:
            job.verify_bundle()
        if job.target and measure:
            job.measure()
    except BaseException:
        job.cleanup()
        raise
    return _handed_over(job)


def _make(job: Job, check: bool, measure: bool) -> None:
    """Run passes and compile, while the original and what becomes of it are run and compared.

    Of several errors the comparison's is raised: the others may follow from it.
    """
    if check:
        job.run_original()
    try:
        job.run_passes(check)
        if check:
            job.verify_model()
        if job.target:
            if measure:
                job.open_peer()
            job.compile()
    except Exception:
        job.await_checks()
        raise
    job.await_checks()


def _handed_over(job: Job) -> Result:
    """What was made.

    Raises:
        LimitError: it misses a limit of the user's, and is the `best` there is.
    """
    result = Result(job.module, job.report(), job.manifest, job.program, job.staged)
    if job.missed:
        error = LimitError(f"{name_of(job.request.source)}: {'; '.join(job.missed)}")
        error.best = result
        raise error
    return result


__all__ = ["Result", "Tolerance", "load", "optimize", "parse", "save"]
