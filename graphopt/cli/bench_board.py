"""`graphopt bench --ssh`: the times of a bundle on a board."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.cli import console
from graphopt.errors import InputError, MismatchError

if TYPE_CHECKING:
    from graphopt.verify import Check


def bench_board(
    bundle: Path,
    host: str,
    options: Sequence[str],
    before: str,
    threads: int | None,
    seconds: float,
    json: bool,
) -> None:
    """Time a bundle on a board, check what it computes there, and tell both.

    Raises:
        MismatchError: the outputs are wrong.
    """
    if not bundle.is_dir():
        raise InputError("--ssh takes a bundle: `graphopt optimize MODEL --target arm` makes one")
    with console.Progressing(quiet=json) as progress:
        progress(f"measure on {host}", 0, 1)
        told, check = _measure(bundle, host, tuple(options), before, threads, seconds)
    if json:
        console.show_json(told)
    else:
        from graphopt.cli.bench import table

        where = f"threads: {threads or 'all'}; on {host}{f' by {before}' if before else ''}"
        console.show(table(told["results"]), f"{where}; seeded inputs", str(check))
    if not check.ok:
        raise MismatchError(f"on {host}: {check}")


def _measure(
    bundle: Path,
    host: str,
    options: tuple[str, ...],
    before: str,
    threads: int | None,
    seconds: float,
) -> tuple[dict[str, Any], Check]:
    from graphopt import api
    from graphopt.cli.bench import summary
    from graphopt.cli.numbers import trial
    from graphopt.report.model import check_json
    from graphopt.runtime import Manifest
    from graphopt.targets.board import Board, time_on

    Manifest.load(bundle)  # says so if it isn't a bundle
    own = bundle / "model.onnx"
    t = trial(own, api.load(own), None, samples=1)
    found = time_on(Board(host, options, before), bundle, t.feeds[0], threads or 0, seconds)
    check = t.hold(f"the compiled bundle, on {host},", [found.outputs])
    row = {"what": "graphopt", **summary(found.seconds)}
    return {
        "model": str(bundle), "host": host, "before": before, "threads": threads,
        "results": [row], "checks": [check_json(check)],
    }, check  # fmt: skip
