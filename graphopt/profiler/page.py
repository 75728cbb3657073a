"""A profile as one self-contained HTML page (no network)."""

from __future__ import annotations

from graphopt.profiler.model import Profile
from graphopt.report.html import template, time_bars
from graphopt.report.roofline import roofline_plot
from graphopt.report.units import count, milliseconds


def profile_page(profile: Profile) -> str:
    """Give the page: bars by time, the roofline, totals by family, every layer."""
    told = profile.to_json()
    return template("profile.html.j2").render(
        p=profile,
        layers=told["layers"],
        times=time_bars(told["layers"]),
        plot=roofline_plot(told["layers"], told["roofline"]),
        count=count,
        milliseconds=milliseconds,
    )
