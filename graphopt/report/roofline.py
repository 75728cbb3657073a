"""The roofline chart: operations a second against operations a byte, both logarithmic.

The flat roof is the peak of arithmetic; each slope is a bandwidth: of the caches, of memory. A
layer is a dot whose area is its share of the time; how far it hangs below its roof is what could
still be won (Williams, Waterman, Patterson, CACM 52(4), 2009).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 900.0, 420.0
LEFT, RIGHT, TOP, BOTTOM = 60.0, 20.0, 20.0, 40.0  # margins
LEVELS = ((1 << 15, "32 kB"), (1 << 20, "1 MB"), (1 << 24, "16 MB"), (1 << 28, "256 MB"))
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Tick:
    """A number on an axis, at a place."""

    at: float
    text: str


@dataclass(frozen=True)
class Roof:
    """One line: SVG points, and its name, which stands at its end."""

    points: str
    name: str
    x: float
    y: float


@dataclass(frozen=True)
class Dot:
    """One layer."""

    x: float
    y: float
    radius: float
    title: str
    memory: bool


@dataclass(frozen=True)
class Plot:
    """The chart, in SVG's coordinates."""

    roofs: tuple[Roof, ...]
    dots: tuple[Dot, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    width: float = WIDTH
    height: float = HEIGHT


@dataclass(frozen=True)
class _Axis:
    """Decades [low, high) on the pixels from `start` to `end`."""

    low: int
    high: int
    start: float
    end: float

    def at(self, value: float) -> float:
        part = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + min(max(part, 0.0), 1.0) * (self.end - self.start)

    def ticks(self) -> tuple[Tick, ...]:
        return tuple(Tick(self.at(10.0**n), f"{10.0**n:g}") for n in range(self.low, self.high + 1))


def roofline_plot(layers: Sequence[Json], roofline: Json | None) -> Plot | None:
    """Lay the chart out; None where there is no roofline or no layer with arithmetic."""
    shown = [n for n in layers if n.get("flops") and n.get("bytes") and n["us"]]
    if not roofline or not shown:
        return None
    rates = [float(n["gflops"]) for n in shown] + [float(roofline["peaks"]["f32"])]
    across = _axis([float(n["intensity"]) for n in shown] + [0.1, 99.0], LEFT, WIDTH - RIGHT)
    up = _axis(rates, HEIGHT - BOTTOM, TOP)
    roofs = (*_slopes(roofline, across, up), *_peaks(shown, roofline, across, up))
    dots = tuple(_dot(n, across, up) for n in sorted(shown, key=lambda n: -n["share"]))
    return Plot(roofs, dots, across.ticks(), up.ticks())


def _axis(values: Sequence[float], start: float, end: float) -> _Axis:
    low, high = min(values), max(values)
    return _Axis(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1, start, end)


def _slopes(roofline: Json, across: _Axis, up: _Axis) -> Iterator[Roof]:
    """A bandwidth's line, up to the peak: operations a second = bytes a second * intensity."""
    peak = float(roofline["peaks"]["f32"])
    measured = {int(size): float(rate) for size, rate in roofline["bandwidth"]}
    for size, name in LEVELS:
        if size not in measured:
            continue
        rate = measured[size]
        ridge = peak / rate
        first = max(10.0**across.low, 10.0**up.low / rate)
        last = min(ridge, 10.0**across.high)
        points = ((first, first * rate), (last, last * rate))
        yield _roof(points, f"{rate:.0f} GB/s ({name})", across, up, end=0)


def _peaks(layers: Sequence[Json], roofline: Json, across: _Axis, up: _Axis) -> Iterator[Roof]:
    """The flat roofs of the element types that the layers compute in."""
    nearest = max(float(rate) for _, rate in roofline["bandwidth"])
    for unit in dict.fromkeys(["f32", *(str(n["unit"]) for n in layers)]):
        if unit not in roofline["peaks"]:
            continue
        peak = float(roofline["peaks"][unit])
        first = max(peak / nearest, 10.0**across.low)
        points = ((first, peak), (10.0**across.high, peak))
        yield _roof(points, f"{peak:.0f} G {unit} a second", across, up, end=1)


def _roof(
    points: Sequence[tuple[float, float]], name: str, across: _Axis, up: _Axis, *, end: int
) -> Roof:
    placed = [(across.at(x), up.at(y)) for x, y in points]
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    x, y = placed[end]
    return Roof(text, name, x, y - 6 if end else y + 14)  # over a flat roof, under a slope


def _dot(layer: Json, across: _Axis, up: _Axis) -> Dot:
    reached = layer.get("roofline")
    title = (
        f"{layer['name']}: {layer['us']:.1f} us, {100 * layer['share']:.1f} %, "
        f"{layer['gflops']:.1f} GFLOP/s, {layer['gbs']:.1f} GB/s"
    )
    title += "" if reached is None else f", {100 * reached:.0f} % of the roofline"
    x, y = across.at(float(layer["intensity"])), up.at(max(float(layer["gflops"]), 1e-9))
    radius = max(3.0, 40.0 * math.sqrt(float(layer["share"])))
    return Dot(x, y, radius, title, layer.get("bound") == "memory")
