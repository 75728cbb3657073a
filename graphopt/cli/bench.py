"""`graphopt bench`: latency, interleaved with peers on the same threads."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli import console
from graphopt.cli.bench_board import bench_board
from graphopt.cli.options import Either, Json, Shapes, Threads, existing, parse_shapes
from graphopt.cli.peers import PEERS, installed, peer_run
from graphopt.errors import InputError, UnsupportedError

Runs = dict[str, Callable[[], Any]]


def bench(
    path: Either,
    vs: Annotated[
        str | None, typer.Option(metavar="PEER,...", help=f"Compare with: {', '.join(PEERS)}.")
    ] = None,
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(min=0.01, max=3600, help="For each contestant.")] = 2.0,
    input_shape: Shapes = None,
    ssh: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Copy an ARM bundle's program to a board, time it there "
                     "and check what it computes. HOST is as for ssh."),
    ] = None,
    ssh_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Of ssh (its -o), as Port=2222; may be repeated."),
    ] = None,
    ssh_run: Annotated[
        str,
        typer.Option(metavar="COMMAND", help="Goes before the program there, as 'taskset -c 3'."),
    ] = "",
    json: Json = False,
) -> None:  # fmt: skip
    """Time a bundle; a model is compiled for this computer first. Runs take turns, A B A B.

    Peers run the same ONNX file (of a bundle: its model.onnx) with their own optimizers on, on as
    many threads, from the same arrays. OpenVINO (of the extra `bench`) computes in float32, but in
    the 16-bit floats of a file that holds some, and in a quantized one's integers.
    """
    if ssh:
        if vs or input_shape:
            raise InputError("--ssh times a bundle alone: without --vs and --input-shape")
        bench_board(existing(path), ssh, ssh_option or (), ssh_run, threads, seconds, json)
        return
    peers = _peers(vs)
    shapes = parse_shapes(input_shape)
    with console.Progressing(quiet=json) as progress, _bundle(path, shapes, progress) as bundle:
        progress("measure", 0, 1)
        told = _measure(path, bundle, peers, threads, seconds)
    if json:
        console.show_json(told)
        return
    console.show(table(told["results"]), f"threads: {told['threads']}; seeded inputs")


def table(results: list[dict[str, Any]]) -> Any:
    """Percentiles, one line a contestant."""
    head = ("", "p50", "p90", "p99", "min", "mean", "runs", "")
    rows = [(r["what"], *(f"{r[k]:.3f} ms" for k in ("p50", "p90", "p99", "min", "mean")),
             r["runs"], _versus(r, results[0])) for r in results]  # fmt: skip
    return console.table(head, rows)


def _peers(text: str | None) -> list[str]:
    from graphopt.spec import nearest

    names = [n.strip() for n in (text or "").split(",") if n.strip()]
    for name in names:
        if name not in PEERS:
            raise InputError(f"--vs: no peer named {name!r}{nearest(name, PEERS)}")
    for name in names:
        installed(name)
    return list(dict.fromkeys(names))


@contextmanager
def _bundle(path: Path, shapes: Any, progress: console.Progressing) -> Generator[Path]:
    """The bundle itself, or one compiled from the model for as long as the `with` lasts."""
    from graphopt.runtime import Manifest
    from graphopt.runtime.cpu import is_native

    if existing(path).is_dir():
        if shapes:
            raise InputError("--input-shape is for a model; a bundle has its shapes")
        arch = Manifest.load(path).arch  # says so if it isn't a bundle
        if not is_native(arch):
            raise UnsupportedError(
                f"the bundle is for {arch}: --ssh HOST times it there, and `graphopt profile` "
                "estimates its time here"
            )
        yield path
        return
    from graphopt import api
    from graphopt.targets.base import Build

    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        result = api.optimize(str(path), "x86", input_shapes=shapes, build=Build(progress=progress))
        yield result.save(Path(folder) / "bundle")


def _measure(
    path: Path, bundle: Path, peers: list[str], threads: int | None, seconds: float
) -> dict[str, Any]:
    from graphopt import measure
    from graphopt.cli.profile import feed_for
    from graphopt.runtime import Session

    feed = feed_for(bundle, None)
    with Session(bundle, threads=threads) as session, _peers_file(path) as model:
        runs: Runs = {"graphopt": lambda: session.run(feed)}
        for peer in peers:
            runs[peer] = peer_run(peer, model, feed, session.threads)
        times = measure.interleave(runs, seconds, most=1_000_000)
        count = session.threads
    return {
        "model": str(path), "peer_model": str(_peers_model(path)), "threads": count,
        "results": [{"what": name, **summary(t)} for name, t in times.items()],
    }  # fmt: skip


def _peers_model(path: Path) -> Path:
    """The model that peers run: a bundle's, or the one given."""
    return path / "model.onnx" if path.is_dir() else path


@contextmanager
def _peers_file(path: Path) -> Generator[Path]:
    """A file of it that peers can read: IR text is written as ONNX."""
    if path.is_dir() or path.suffix != ".gir":
        yield _peers_model(path)
        return
    from graphopt import api

    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        file = Path(folder) / "model.onnx"
        api.save(api.load(path), file)
        yield file


def summary(seconds: list[float]) -> dict[str, Any]:
    """Percentiles, in milliseconds."""
    import numpy as np

    ms = 1000 * np.asarray(seconds)
    p50, p90, p99 = (float(p) for p in np.percentile(ms, [50, 90, 99]))
    return {"p50": p50, "p90": p90, "p99": p99, "min": float(ms.min()), "mean": float(ms.mean()),
            "runs": len(seconds), "unit": "ms"}  # fmt: skip


def _versus(row: dict[str, Any], ours: dict[str, Any]) -> str:
    """How much faster we are than a peer, by the medians."""
    if row is ours:
        return ""
    ratio = row["p50"] / ours["p50"]
    return f"graphopt is {ratio:.2f}x as fast"
