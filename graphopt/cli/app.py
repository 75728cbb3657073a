"""The commands, put together. Nothing heavy is imported here: `graphopt --help` is fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from graphopt.cli import (
    bench,
    debug_bisect,
    debug_diff,
    debug_explain,
    debug_reduce,
    inspect,
    opt,
    optimize,
    passes,
    profile,
    run_bundle,
    targets,
    verify,
)
from graphopt.cli.guard import TRACEBACK, guarded
from graphopt.cli.limits import stated

HELP = """Take a trained ONNX model; give back a faster one, compiled, verified and explained.

Exit codes: 0 done and verified (opt: done and well-formed), 1 the numbers differ, 2 bad usage or
input, 3 unsupported, 4 a stated limit can't be met, 70 a bug in graphopt, 130 interrupted.
"""

app = typer.Typer(
    name="graphopt", help=HELP, add_completion=False, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
debug = typer.Typer(help="Find out which rewrite, op or part of a model makes the trouble.")

COMMANDS: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("optimize", optimize.optimize),
    ("opt", opt.opt),
    ("inspect", inspect.inspect),
    ("run", run_bundle.run),
    ("bench", bench.bench),
    ("verify", verify.verify),
    ("profile", profile.profile),
    ("passes", passes.passes),
    ("targets", targets.targets),
)
DEBUG: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("bisect", debug_bisect.bisect),
    ("reduce", debug_reduce.reduce),
    ("diff", debug_diff.diff),
    ("explain", debug_explain.explain),
)
for _name, _command in COMMANDS:
    app.command(_name)(_command)
for _name, _command in DEBUG:
    debug.command(_name)(_command)
app.add_typer(debug, name="debug")


def _version(value: bool) -> None:
    if value:
        from importlib import metadata

        try:
            typer.echo(f"graphopt {metadata.version('graphopt')}")
        except metadata.PackageNotFoundError:
            typer.echo("graphopt, run from its sources")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option(TRACEBACK, help="With any command: show where an error came from.")
    ] = False,
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="GB", help="With any command: the most memory that running the model "
                     "may take. Default: 90 % of what is free. Or set $GRAPHOPT_MAX_MEMORY."),
    ] = None,
    max_seconds: Annotated[
        str | None,
        typer.Option(metavar="S", help="With any command: the most time that one run of the "
                     "reference, or one kernel's compilation, may take. Default: 600. Or set "
                     "$GRAPHOPT_MAX_SECONDS."),
    ] = None,
) -> None:  # fmt: skip
    """The options of every command (they are taken out before typer sees them)."""


def run(args: list[str]) -> int:
    """Run a command line; give the exit code."""
    return guarded(_limited, args)


def _limited(args: list[str]) -> object:
    with stated(args) as rest:
        return app(rest, prog_name="graphopt", standalone_mode=False)
