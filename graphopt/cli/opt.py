"""`graphopt opt`: passes only, with all the fine controls (the mlir-opt of graphopt)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import console, debugging
from graphopt.cli.options import (
    Data,
    Json,
    Shapes,
    existing,
    model_file,
    parse_shapes,
    read_passes,
    writable,
)
from graphopt.cli.watch import Watch
from graphopt.errors import InputError, one_line

if TYPE_CHECKING:
    from graphopt.ir.core import Module
    from graphopt.pipeline import Pass, Record

SUFFIXES = (".onnx", ".gir")


@dataclass(frozen=True)
class Controls:
    """The options of `opt` that watch or limit the pipeline."""

    print_after: str | None
    dump_dir: Path | None
    check_each: bool
    bisect_limit: int | None
    stop_after: str | None
    data: str | None


def opt(
    model: Annotated[Path, typer.Argument(metavar="IN", show_default=False, help=".onnx or .gir")],
    passes: Annotated[
        str, typer.Option(metavar="TEXT", show_default=False, help="See `graphopt passes`.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT", help=".onnx or .gir; default: print the IR, "
                     "large constants left out."),
    ] = None,
    print_after: Annotated[
        str | None, typer.Option(metavar="PASS|all", help="Print the IR after it, on stderr.")
    ] = None,
    dump_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the IR after each change, remarks.")
    ] = None,
    check_each: Annotated[
        bool,
        typer.Option("--check-each", help="After each pass, check the IR, and the numbers against "
                     "the original's; name the first op that differs."),
    ] = False,
    timing: Annotated[bool, typer.Option("--timing", help="Show the time of each pass.")] = False,
    bisect_limit: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Allow only the first N rewrites.")
    ] = None,
    stop_after: Annotated[str | None, typer.Option(metavar="PASS", help="End after it.")] = None,
    data: Data = None,
    input_shape: Shapes = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Run passes on a model: no target, no compiling. Verifies the IR at the end."""
    from graphopt import api

    place = _out(output)
    controls = Controls(print_after, dump_dir, check_each, bisect_limit, stop_after, data)
    chain = _chain(read_passes(passes), controls)
    shapes = parse_shapes(input_shape)
    module = api.load(model_file(model), input_shapes=shapes)
    watch = Watch(model, dump_dir)
    with watch:
        records = _run(module, chain, controls, watch)
    if place:
        api.save(module, place)
    _tell(module, place, records, watch, timing, json)


def _out(path: Path | None) -> Path | None:
    if path is None:
        return None
    if path.suffix not in SUFFIXES:
        raise InputError(f"-o {path}: the name must end in .onnx or .gir")
    if path.is_dir():
        raise InputError(f"-o {path} is a folder")
    return writable(path)


def _chain(chain: Sequence[Pass], controls: Controls) -> tuple[Pass, ...]:
    """The passes to run, checked against the names that the controls mention."""
    from graphopt.spec import nearest

    names = [p.name for p in chain]
    wanted = {"--stop-after": controls.stop_after, "--print-after": controls.print_after}
    for option, name in wanted.items():
        every = option == "--print-after" and name == "all"
        if name and name not in names and not every:
            raise InputError(f"{option}: the pipeline has no pass {name!r}{nearest(name, names)}")
    last = names.index(controls.stop_after) + 1 if controls.stop_after else len(names)
    return tuple(chain[:last])


def _run(module: Module, chain: Sequence[Pass], controls: Controls, watch: Watch) -> list[Record]:
    from graphopt import api
    from graphopt.data import load_samples
    from graphopt.generate import Generated, sample_runs
    from graphopt.hooks import BisectLimit, PrintAfter, VerifyEach
    from graphopt.ir.verify import verify
    from graphopt.pipeline import run_pipeline

    if controls.data:
        existing(Path(controls.data))
    if controls.print_after:
        watch.extra.append(PrintAfter(controls.print_after, sys.stderr.write))
    if controls.check_each:
        watch.extra.append(VerifyEach())
        watch.check_numbers(module, controls.data)
    options: dict[str, Any] = {}
    if controls.bisect_limit is not None:
        options["permit"] = BisectLimit(controls.bisect_limit)
    given = load_samples(controls.data, module.main) if controls.data else None
    samples = sample_runs(module, given, lambda: api.load(watch.model))
    records = run_pipeline(chain, module, api.context(samples=samples, **options), watch.hooks)
    verify(module)
    watch.keep(records)
    notes = [samples.note] if isinstance(samples, Generated) and samples.used else []
    for note in dict.fromkeys([*notes, *(n for r in records for n in r.notes)]):
        sys.stderr.write(f"note: {one_line(note)}\n")
    return records


def _tell(
    module: Module,
    place: Path | None,
    records: list[Record],
    watch: Watch,
    timing: bool,
    json: bool,
) -> None:
    if json:
        console.show_json(_document(module, place, records, watch))
        return
    if place is None:
        sys.stdout.write(module.to_text(elide=True))
    if timing:
        sys.stderr.write(debugging.timing_text(watch.timing.seconds))
    if watch.numbers:
        sys.stderr.write(debugging.errors_text(watch.numbers.errors))


def _document(
    module: Module, place: Path | None, records: list[Record], watch: Watch
) -> dict[str, Any]:
    import dataclasses

    from graphopt.analysis import cost

    seconds = [s for _, s in watch.timing.seconds]
    return {
        "output": str(place) if place else None,
        "operators": cost.operators(module.main),
        "passes": [{**dataclasses.asdict(r), "seconds": s}
                   for r, s in zip(records, seconds, strict=True)],
        "errors": [dataclasses.asdict(e) for e in (watch.numbers.errors if watch.numbers else [])],
    }  # fmt: skip
