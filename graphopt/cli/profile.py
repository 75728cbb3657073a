"""`graphopt profile`: where the time goes, one line a layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from graphopt.cli import console
from graphopt.cli.files import write_text
from graphopt.cli.options import Bundle, Json, Threads, existing, writable

if TYPE_CHECKING:
    from graphopt.ir.types import Array
    from graphopt.profiler import LayerTimes, Profile
    from graphopt.targets.roofline import Roofline

LEVELS = (1 << 15, 1 << 20, 1 << 24, 1 << 28)  # working sets whose bandwidth is told
WIDEST = 24  # columns for the ops of a kernel
NUMBERS = ("us", "share", "GFLOP/s", "GB/s", "of roofline")


def profile(
    bundle: Bundle,
    input: Annotated[
        Path | None, typer.Option(metavar="X.npz", help="Arrays by input name. Default: seeded.")
    ] = None,
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(min=0.01, max=3600, help="How long to time.")] = 1.0,
    runs: Annotated[
        int | None,
        typer.Option(min=1, max=10000, show_default=False, help="How many runs to time instead."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Layers shown; the rest is summed up.")] = 30,
    order: Annotated[
        Literal["time", "program"], typer.Option(help="How the layers are sorted.")
    ] = "time",
    details: Annotated[
        bool, typer.Option("--details", help="Also ONNX nodes, functions and types of each layer.")
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Write Chrome trace events, for ui.perfetto.dev."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with charts.")
    ] = None,
    remeasure: Annotated[
        bool, typer.Option("--remeasure", help="Measure what this machine can do anew.")
    ] = False,
    json: Json = False,
) -> None:
    """Time each layer of a bundle, and compare it with what this machine can do at best.

    A layer is one kernel call, named by its ONNX nodes. GFLOP/s count 2 a multiply-add; GB/s count
    what must be read and written once. The machine's roofline is measured once and kept. Times of a
    bundle for another CPU are estimated from the instructions that qemu counts, on one thread.
    """
    from graphopt.profiler import profile as take
    from graphopt.runtime import Manifest

    Manifest.load(existing(bundle))  # says so if it isn't a bundle
    for path in (trace, html):
        if path:
            writable(path)
    feed = feed_for(bundle, input)
    with console.Progressing(quiet=json) as progress:
        progress("profile", 0, 1)
        found = take(bundle, feed, threads=threads, seconds=seconds, runs=runs, remeasure=remeasure)
    _write(found, trace, html)
    if json:
        console.show_json(found.to_json())
    else:
        console.show(*_screen(found, top, order, details))


def feed_for(bundle: Path, path: Path | None) -> dict[str, Array]:
    """Inputs from a file; else seeded ones, which suit the bundle's own model.onnx."""
    from graphopt.cli.run_bundle import read_npz
    from graphopt.profiler import seeded_inputs

    return read_npz(path) if path else dict(seeded_inputs(bundle))


def _write(found: Profile, trace: Path | None, html: Path | None) -> None:
    """The files that were asked for, each whole or not at all."""
    if trace:
        import json

        from graphopt.profiler.trace import trace as events

        write_text(trace, json.dumps(events(found), indent=0))
    if html:
        from graphopt.profiler.page import profile_page

        write_text(html, profile_page(found))


def _screen(found: Profile, top: int, order: str, details: bool) -> Iterator[Any]:
    """Layers, families, and what the numbers mean."""
    chosen = found.ranked()[:top]
    rest = found.ranked()[top:]
    if order == "program":
        chosen = sorted(chosen, key=lambda layer: layer.index)
    counted = ("instructions",) if found.estimate else ()
    rows = _rows(chosen, rest, details, bool(counted))
    yield console.table(("layer", "kernel", *NUMBERS, *counted), rows, left=2)
    yield ""
    head = ("kernel family", "layers", *NUMBERS)
    yield console.table(head, (
        (f.family, f.layers, *_numbers(f.us, f.share, f.gflops, f.gbs, f.roofline))
        for f in found.families()
    ))  # fmt: skip
    yield ""
    yield from _sentences(found)


def _rows(
    chosen: Sequence[LayerTimes], rest: Sequence[LayerTimes], details: bool, counted: bool
) -> Iterator[tuple[str, ...]]:
    blank = ("",) * (len(NUMBERS) + counted)
    for n in chosen:
        numbers = _numbers(n.us, n.share, n.gflops, n.gbs, n.roofline, n.bound)
        yield (n.name, _kernel(n), *numbers, *_instructions([n], counted))
        if details:
            yield (f"  {' + '.join(n.nodes)}", "", *blank)
            yield (f"  {' '.join(n.ops)}", "", *blank)
            yield (f"  {n.kernel}({', '.join(n.operands)}) -> {', '.join(n.results)}", "", *blank)
    if rest:
        us, share = sum(n.us for n in rest), sum(n.share for n in rest)
        numbers = _numbers(us, share, None, None, None)
        yield (f"{len(rest)} more", "", *numbers, *_instructions(rest, counted))


def _instructions(layers: Sequence[LayerTimes], counted: bool) -> tuple[str, ...]:
    return (f"{sum(n.instructions or 0 for n in layers):,}",) if counted else ()


def _kernel(layer: LayerTimes) -> str:
    """The kernel's family; where that says little, its ops."""
    ops = "+".join(layer.ops)
    return ops if layer.family == "elementwise" and 0 < len(ops) <= WIDEST else layer.family


def _numbers(
    us: float,
    share: float,
    gflops: float | None,
    gbs: float | None,
    roofline: float | None,
    bound: str | None = None,
) -> tuple[str, ...]:
    reached = "" if roofline is None else f"{100 * roofline:.0f} %"
    return (
        f"{us:.1f}",
        f"{100 * share:.1f} %",
        f"{gflops:.1f}" if gflops else "",
        f"{gbs:.1f}" if gbs else "",
        f"{reached} {bound}" if bound else reached,
    )


def _sentences(found: Profile) -> Iterator[str]:
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    if found.estimate:
        ms = found.layers_us / 1000
        yield f"{len(found.layers)} layers: {ms:.3f} ms, {threads}; not measured:"
        yield f"  {found.estimate}"
    else:
        yield from _timed(found)
    if found.reached is not None and found.roofline:
        yield f"{100 * found.reached:.0f} % of the roofline of {found.cpu}, {threads}:"
        yield f"  {_machine(found.roofline)}"
    for note in found.notes:
        yield f"note: {note}"


def _timed(found: Profile) -> Iterator[str]:
    yield (
        f"{len(found.layers)} layers: {found.layers_us / 1000:.3f} ms, the sum of their medians "
        f"over {found.rounds} runs, threads: {found.threads}"
    )
    yield (
        f"a run as its caller sees it: {found.run_us / 1000:.3f} ms, {_more(found.overhead)} "
        "than its layers"
    )


def _more(overhead: float) -> str:
    return f"{100 * abs(overhead):.1f} % {'less' if overhead < 0 else 'more'}"


def _machine(roofline: Roofline) -> str:
    peaks = ", ".join(f"{rate:.0f} G {unit}" for unit, rate in roofline.peaks.items())
    known = dict(roofline.bandwidth)
    levels = [n for n in LEVELS if n in known] or list(known)
    rates = (f"{known[n]:.0f} GB/s in {_size(n)}" for n in levels)
    return f"operations a second: {peaks}; memory: {', '.join(rates)}"


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >> 20 else f"{count >> 10} KiB"
