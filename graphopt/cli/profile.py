"""`graphopt profile`: where the time goes, one line a layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import console
from graphopt.cli.options import Bundle, Json, Threads, existing

if TYPE_CHECKING:
    from graphopt.ir.types import Array
    from graphopt.runtime import Session


def profile(
    bundle: Bundle,
    input: Annotated[
        Path | None, typer.Option(metavar="X.npz", help="Arrays by input name. Default: seeded.")
    ] = None,
    threads: Threads = None,
    repeats: Annotated[int, typer.Option(min=1, max=10000, help="Runs; medians are shown.")] = 20,
    json: Json = False,
) -> None:
    """Time each layer (one fused op, one kernel, one line). GFLOP/s count 2 a multiply-add."""
    from graphopt.runtime import Session

    with Session(existing(bundle), threads=threads) as session:
        layers = rows(session, feed_for(bundle, input), repeats)
        count = session.threads
    if json:
        console.show_json({"threads": count, "repeats": repeats, "layers": layers})
        return
    shown = [
        (r["name"], r["kernel"], f"{r['us']:.1f}", f"{100 * r['share']:.1f} %",
         f"{r['macs'] / 1e6:.2f}", f"{r['gflops']:.1f}") for r in layers
    ]  # fmt: skip
    head = ("layer", "kernel", "us", "share", "MMACs", "GFLOP/s")
    total = sum(r["us"] for r in layers)
    told = f"{len(layers)} layers, {total / 1000:.3f} ms in all, threads: {count}"
    console.show(console.table(head, shown, left=2), told)


def feed_for(bundle: Path, path: Path | None) -> dict[str, Array]:
    """Inputs from a file; else seeded ones, which suit the bundle's own model.onnx."""
    from graphopt.cli.run_bundle import read_npz

    if path:
        return read_npz(path)
    from graphopt import api
    from graphopt.data import seeded_runs
    from graphopt.onnx import Reference

    module = api.load(bundle / "model.onnx")
    (feed,), _ = seeded_runs(module, Reference(module).run, 1)
    return feed


def rows(session: Session, feed: dict[str, Array], repeats: int) -> list[dict[str, Any]]:
    """`[{name, nodes, kernel, us, macs, gflops, share}]`, in the order that they run."""
    layers = session.profile(feed, repeats)
    total = sum(layer.median_us for layer in layers) or 1
    return [
        {"name": n.name, "nodes": list(n.nodes), "kernel": n.kernel, "us": n.median_us,
         "macs": n.macs, "gflops": 2e-3 * n.macs / n.median_us if n.median_us else 0.0,
         "share": n.median_us / total}
        for n in layers
    ]  # fmt: skip
