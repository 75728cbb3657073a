"""`graphopt optimize`: a model in, a verified bundle and an account of it out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from graphopt.cli import console
from graphopt.cli.options import (
    Data,
    Json,
    Model,
    Passes,
    Shapes,
    Target,
    Threads,
    existing,
    model_file,
    parse_shapes,
    read_passes,
    writable,
)
from graphopt.cli.watch import Watch
from graphopt.errors import InputError, LimitError

if TYPE_CHECKING:
    from graphopt.analysis.bind import Shapes as ShapeMap
    from graphopt.api import Result
    from graphopt.targets.base import Target as TargetSpec


Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="DIR", help="Default: MODEL.graphopt here."),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        metavar="POINTS", min=0,
        help="What lossy passes may cost: points of right answers (data with labels) or of "
        "answers that stay the same. Where it can't be met: exit code 4, the best found in "
        "DIR.best.",
    ),
]  # fmt: skip
Debug = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Keep IR dumps, timing, remarks, errors of each pass."),
]
Tune = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS", min=0,
        help="Try kernels' schedules on this computer for so long (0: use what is known).",
    ),
]  # fmt: skip
Plan = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Use the schedules in the manifest of a tuned bundle."),
]
Storage = Annotated[
    Literal["auto", "coded", "plain"],
    typer.Option(
        metavar="auto|coded|plain",
        help="Weights in the library: in fewer bytes and decoded when it is loaded, where that "
        "pays (auto), wherever it is smaller, or not at all.",
    ),
]


def optimize(
    model: Model,
    target: Target,
    output: Output = None,
    passes: Passes = "default",
    data: Data = None,
    input_shape: Shapes = None,
    max_drop: MaxDrop = None,
    threads: Threads = None,
    debug: Debug = None,
    tune: Tune = None,
    plan: Plan = None,
    storage: Storage = "auto",
    json: Json = False,
) -> None:
    """Optimize and compile a model; verify it; write a bundle that can be shipped."""
    from graphopt.onnx.isolated import start_child

    shapes, stem = parse_shapes(input_shape), model_file(model).stem
    start_child()  # it comes up while this process imports the rest
    from graphopt import api
    from graphopt.targets.base import Build
    from graphopt.targets.tuning import read_plan

    began = time.perf_counter()
    place = _place(output or Path(f"{stem}.graphopt"))
    second = _place(beside(place)) if max_drop is not None else place
    chosen = api.parse_target(target)
    chain = read_passes(passes, chosen)
    if data:
        existing(Path(data))
    build = Build(tune=tune, plan=read_plan(plan) if plan else {}, storage=storage)
    watch = Watch(model, debug)
    with console.Progressing(quiet=json) as progress, watch:
        if debug:
            _check_each(watch, data, shapes)
        result, missed = _best(lambda: api.optimize(
            str(model), chosen, chain, data, shapes, threads,
            hooks=watch.hooks,
            build=replace(build, progress=progress),
            measure=True, max_drop=max_drop,
        ))  # fmt: skip
        place = second if missed else place
        _keep(watch, result, chosen)
        progress("write the bundle", 0, 1)
        result.save(place)
    _show(result, model, place, time.perf_counter() - began, json)
    if missed:
        missed.add_note(f"the best found is in {place}")
        raise missed


def _best(work: Callable[[], Result]) -> tuple[Result, LimitError | None]:
    """A result; with the error where it misses a limit."""
    try:
        return work(), None
    except LimitError as error:
        if error.best is None:
            raise
        return error.best, error


def beside(place: Path) -> Path:
    """Where a bundle goes that misses a limit: so that nobody ships it by mistake.

    What is at the place that was asked for stays as it is.
    """
    named = place.resolve() if place.name in ("", "..") else place
    return named.with_name(f"{named.name}.best")


def _place(path: Path) -> Path:
    """The bundle's folder, checked before the long work begins.

    Raises:
        InputError: it is something else, or can't be written.
    """
    from graphopt.targets.bundle import is_bundle

    if not path.exists():
        return writable(path)
    if not path.is_dir() or (any(path.iterdir()) and not is_bundle(path)):
        raise InputError(f"{path} exists and is not a graphopt bundle: it is left as it is")
    return path


def _check_each(watch: Watch, data: str | None, shapes: ShapeMap | None) -> None:
    """Check IR and numbers after each pass, not only at the end."""
    from graphopt import api
    from graphopt.analysis.bind import bind
    from graphopt.hooks import VerifyEach

    module = api.load(watch.model)
    bind(module, shapes)
    watch.extra.append(VerifyEach())
    watch.check_numbers(module, data)


def _keep(watch: Watch, result: Result, target: TargetSpec) -> None:
    """Put what the hooks saw into the report, and the debug folder."""
    report = result.report
    report.pass_seconds = [s for _, s in watch.timing.seconds]
    report.pass_errors = watch.numbers.errors if watch.numbers else []
    report.source_bytes = source_bytes(watch.model, report.before.weight_bytes)
    watch.keep(report.passes)
    if watch.folder and result.program:
        (watch.folder / "program.txt").write_text(str(result.program), "utf-8")


def source_bytes(model: Path, weights: int) -> int:
    """Bytes of a model's file, and of its weights where they lie outside it."""
    size = model.stat().st_size
    return size if size >= weights else size + weights


def _show(result: Result, model: Path, place: Path, seconds: float, json: bool) -> None:
    from graphopt.report.screen import screen

    if json:
        told = {**result.report.to_json(), "output": str(place), "total_seconds": seconds}
        console.show_json(told)
    else:
        console.show(screen(result.report, model=model, place=place, seconds=seconds))
