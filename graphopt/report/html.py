"""report.html: one self-contained page (no network) about one optimization."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from graphopt.ir.core import Loc
from graphopt.pipeline import Record
from graphopt.report.model import Report
from graphopt.report.roofline import roofline_plot
from graphopt.report.units import at_least, count, milliseconds, size
from graphopt.targets.templates import environment

if TYPE_CHECKING:
    from jinja2 import Template

LAYERS = 40  # bars in the chart of times; the table has all layers
KINDS = 30  # bars in the chart of op counts
PLACES = 3  # locations shown of a group of equal remarks


@dataclass(frozen=True)
class Bar:
    """One bar of a chart: `share` of the full width, and what is written beside it.

    `second` is another bar below it; `within` is the part of it that stands out.
    """

    label: str
    share: float
    text: str
    second: float = 0.0
    title: str = ""
    within: float = 0.0


CHOICES = 60  # bars in the chart of choices


def choice_bars(record: Record) -> list[Bar]:
    """A pass's choices by their own error, the worst first: its signal-to-noise ratio in dB."""
    settled = record.settled
    if settled is None:
        return []
    made = set(settled.kept)
    known = [c for c in (*settled.kept, *settled.left) if c.error > 0]
    ranked = sorted(known, key=lambda c: -c.error)[:CHOICES]
    decibels = [-10 * math.log10(c.error) for c in ranked]
    most = max(decibels, default=1) or 1
    bars: list[Bar] = []
    for c, db in zip(ranked, decibels, strict=True):
        share, state = max(db, 0.0) / most, "" if c in made else f", left: {c.refused}"
        told = f"{db:.1f} dB {c.rewrite}{state}"
        bars.append(Bar(str(Loc(c.loc.nodes[:1])), share, told, title=c.rewrite,
                        within=share if c in made else 1e-9))  # fmt: skip
    return bars


@dataclass(frozen=True)
class Group:
    """Equal remarks of a pass: which rule, whether applied, how often, and where (some)."""

    rule: str
    applied: bool
    text: str
    count: int
    places: tuple[str, ...]


def html_page(report: Report) -> str:
    """Give the page."""
    return template("report.html.j2").render(
        r=report,
        times=time_bars(report.layers),
        stored=str(report.storage) if report.storage else "",
        plot=roofline_plot(report.layers, report.roofline),
        kinds=kind_bars(report.before.kinds, report.after.kinds),
        passes=[_pass(report, i, record) for i, record in enumerate(report.passes)],
        count=count,
        at_least=at_least,
        size=size,
        milliseconds=milliseconds,
    )


@cache
def template(name: str) -> Template:
    """A page's template."""
    return environment("graphopt.report", autoescape=True).get_template(name)


def time_bars(layers: list[dict[str, Any]]) -> list[Bar]:
    """The layers that take longest, longest first; the rest as one bar."""
    ranked = sorted(layers, key=lambda row: -row["us"])
    longest = ranked[0]["us"] if ranked else 1
    bars = [
        Bar(
            row["name"],
            row["us"] / (longest or 1),
            f"{row['us']:.1f} us, {100 * row['share']:.1f} %",
            title=f"{row['kernel']}: {' + '.join(row['nodes'])}",
            within=min(row.get("roofline_us") or 0.0, row["us"]) / (longest or 1),
        )
        for row in ranked[:LAYERS]
    ]
    rest = sum(row["us"] for row in ranked[LAYERS:])
    if rest:
        share = min(1.0, rest / (longest or 1))
        bars.append(Bar(f"{len(ranked) - LAYERS} more layers", share, f"{rest:.1f} us"))
    return bars


def kind_bars(before: dict[str, int], after: dict[str, int]) -> list[Bar]:
    """Operators by kind: before, and after as the second bar."""
    kinds = sorted({**before, **after}, key=lambda k: (-before.get(k, 0), -after.get(k, 0), k))
    most = max([*before.values(), *after.values()], default=1)
    return [
        Bar(kind, before.get(kind, 0) / most, f"{before.get(kind, 0)} → {after.get(kind, 0)}",
            second=after.get(kind, 0) / most)
        for kind in kinds[:KINDS]
    ]  # fmt: skip


def groups(record: Record) -> list[Group]:
    """The remarks of a pass, equal ones counted; applied first, most frequent first."""
    counts = Counter((r.rule, r.applied, r.text) for r in record.remarks)
    places: dict[tuple[str, bool, str], list[str]] = defaultdict(list)
    for r in record.remarks:
        found = places[r.rule, r.applied, r.text]
        if len(found) < PLACES:
            found.append(str(r.loc))
    ranked = sorted(counts.items(), key=lambda item: (not item[0][1], -item[1], item[0]))
    return [Group(*key, number, tuple(places[key])) for key, number in ranked]


def _pass(report: Report, index: int, record: Record) -> dict[str, Any]:
    """One line of the account, with its remarks."""
    timed = index < len(report.pass_seconds)
    error = next((e.worst for e in report.pass_errors if e.number == record.number), None)
    return {
        "number": record.number,
        "text": record.text,
        "effect": record.effect,
        "changed": record.changed,
        "applied": sum(r.applied for r in record.remarks),
        "missed": sum(not r.applied for r in record.remarks),
        "ms": f"{1000 * report.pass_seconds[index]:.1f}" if timed else "",
        "error": f"{error.relative:.1e}" if error else "",
        "groups": groups(record),
        "choices": choice_bars(record),
    }
