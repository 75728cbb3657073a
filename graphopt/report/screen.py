"""The before/after screen that `graphopt optimize` ends with."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from graphopt.errors import one_line
from graphopt.report.model import Latency, Report
from graphopt.report.units import at_least, count, milliseconds, size


def screen(report: Report, *, model: Path, place: Path, seconds: float) -> RenderableType:
    """Lay out a finished optimization.

    Args:
        report: the account of it.
        model: the original, as the next commands to type name it.
        place: the bundle that was written.
        seconds: the whole took.
    """
    parts: list[RenderableType] = [_numbers(report), Text()]
    parts += [_line(text) for text in _sentences(report)]
    parts += [_line(f"limit missed: {text}", "red") for text in report.missed]
    parts += [_line(f"note: {text}", "yellow") for text in report.notes]
    parts += [Text(), _line(_output(report, place, seconds)), _files(place), Text()]
    parts += [_line("next:", "bold"), *(_line(f"  {text}") for text in _next(report, model, place))]
    return Padding(Group(*parts), (0, 0, 0, 2), expand=False)


def _line(text: str, style: str = "") -> Text:
    """One line; what names in models may hold to steer a terminal is escaped."""
    return Text(one_line(text), style=style, overflow="fold")


def _numbers(report: Report) -> Table:
    """The table: one line a quantity, before and after."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    table.add_column("")
    for name in ("before", "after"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for row in _rows(report):
        table.add_row(*map(Text, row))
    return table


def _rows(report: Report) -> Iterator[tuple[str, str, str, str]]:
    a, b = report.before, report.after
    yield "operators", str(a.operators), str(b.operators), _fewer(a.operators, b.operators)
    if report.calls:
        yield "kernel calls", "-", str(report.calls), _compiled(report)
    before, after = (at_least(count(s.macs), s.dynamic) for s in (a, b))
    unknown = "sizes known only in a run count as 1" if a.dynamic or b.dynamic else ""
    yield "MACs", before, after, unknown
    yield "parameters", count(a.parameters), count(b.parameters), ""
    model = report.files.get("model.onnx", 0)
    if report.source_bytes and model:
        yield "model.onnx", size(report.source_bytes), size(model), ""
    if report.storage:
        stored = size(report.storage.stored_bytes)
        yield "weights", size(a.weight_bytes), stored, str(report.storage)
    if library := report.files.get("libmodel.so"):
        yield "library", "-", size(library), "code and weights; needs only libc"
    if report.calls:
        yield "peak memory", size(a.activation_bytes), size(report.arena_bytes), _memory(report)
    yield from _latency(report)
    for one in report.losses:
        limit = f" (limit: drop {report.max_drop:g})" if report.max_drop is not None else ""
        where = f"{one.samples} {one.data} samples{limit}"
        if one.before is not None and one.after is not None:
            yield "right answers", f"{one.before:.1f} %", f"{one.after:.1f} %", where
        yield _KEPT[one.how], "-", str(one.kept), f"{where}; SQNR {one.sqnr_db:.1f} dB"


_KEPT = {"classes": "agreement", "sides": "agreement", "direction": "cosine", "values": "nearness"}


def _fewer(before: int, after: int) -> str:
    return f"{100 * (before - after) / before:.0f} % fewer" if 0 < after < before else ""


def _compiled(report: Report) -> str:
    outside = report.fallback.segments if report.fallback else 0
    text = f"{report.kernels} different kernels"
    plural = "s" if outside > 1 else ""
    return f"{text}; {outside} segment{plural} in ONNX Runtime" if outside else text


def _memory(report: Report) -> str:
    """What the two numbers are."""
    return "activations; after: the library's arena, without inputs and outputs"


def _latency(report: Report) -> Iterator[tuple[str, str, str, str]]:
    """One line: the peer's median before, ours after."""
    by_name = {one.what: one for one in report.latency}
    ours, peer = by_name.get("graphopt"), by_name.get("onnxruntime")
    if ours is None:
        return
    if ours.estimate:
        yield "latency (model)", "-", milliseconds(ours.median_ms), f"1 thread; {ours.estimate}"
        return
    where = f"{report.target}, {ours.threads} thread{'s' if ours.threads > 1 else ''}"
    before = milliseconds(peer.median_ms) if peer else "-"
    note = f"{_ratio(peer, ours)}; {where}" if peer else where
    yield "latency", before, milliseconds(ours.median_ms), note


def _ratio(peer: Latency, ours: Latency) -> str:
    """Faster or slower than ONNX Runtime with all its optimizations, by the medians."""
    ratio = peer.median_ms / ours.median_ms if ours.median_ms else 0.0
    if ratio >= 1:
        return f"{ratio:.2f}x as fast as ONNX Runtime (before; its optimizer on)"
    return f"{1 / ratio if ratio else 0:.2f}x slower than ONNX Runtime (before; its optimizer on)"


def _sentences(report: Report) -> Iterator[str]:
    """What was verified, what isn't compiled."""
    for check in report.checks:
        yield str(check)
    if report.instructions:
        yield report.instructions
    for one in report.losses:
        if one.before is not None:
            yield str(one)
    if report.fallback is None:
        return
    f = report.fallback
    time = "" if f.time_share is None else f" and {100 * f.time_share:.0f} % of the time"
    share = f"{100 * f.macs_share:.0f} % of the counted MACs{time}"
    yield f"{share} run in ONNX Runtime, which the bundle needs:"
    for kind, why in sorted(f.reasons.items()):
        yield f"  {kind}: {why}"


def _output(report: Report, place: Path, seconds: float) -> str:
    longest = sorted(report.seconds.items(), key=lambda item: -item[1])[:3]
    parts = ", ".join(f"{name} {spent:.1f} s" for name, spent in longest if spent >= 0.05)
    return f"{place}/   in {seconds:.1f} s{f' ({parts})' if parts else ''}"


def _files(place: Path) -> Table:
    """The bundle's files and their sizes."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 2))
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    for path in sorted(p for p in place.rglob("*") if p.is_file()):
        name = path.relative_to(place).as_posix()
        table.add_row(Text(name), Text(size(path.stat().st_size)))
    return table


def _next(report: Report, model: Path, place: Path) -> Iterator[str]:
    """Commands that exist, worth typing now."""
    bundle, original = shlex.quote(str(place)), shlex.quote(str(model))
    if any(check.data == "seeded" for check in report.checks):
        yield f"graphopt verify {bundle} {original} --data samples.npz   on your own data"
    if not report.losses:
        yield (f"graphopt optimize {original} --target {report.target} --data samples.npz "
               "--max-drop 0.5 --passes default,int8   int8")  # fmt: skip
    elsewhere = bool(report.ran) or any(one.estimate for one in report.latency)
    if not elsewhere:
        yield f"graphopt bench {bundle} --vs onnxruntime   percentiles"
    yield f"graphopt profile {bundle}   time by layer"
    yield f"graphopt run {bundle} --input x.npz --output y.npz"
