"""Measuring latency: in turns with peers, so that what disturbs one disturbs all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphopt.report.model import Latency
from graphopt.runtime import Session


def interleave(
    runs: Mapping[str, Callable[[], Any]], seconds: float = 0.6, least: int = 5, most: int = 2000
) -> dict[str, list[float]]:
    """Time callables in turn, A B A B ..., so that drift hits all alike; seconds a call.

    Before each timed call goes one that isn't: threads of the other may still spin, and its data
    fill the caches. Where one round takes over `seconds` a callable, a single one is timed.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    began = time.perf_counter()
    _round(runs, times)
    slow = time.perf_counter() - began > 2 * seconds * len(runs)
    if slow:
        return times
    for found in times.values():
        found.clear()  # the first round warms up
    until, rounds = time.perf_counter() + seconds * len(runs), 0
    while rounds < least or (time.perf_counter() < until and rounds < most):
        _round(runs, times)
        rounds += 1
    return times


def _round(runs: Mapping[str, Callable[[], Any]], times: dict[str, list[float]]) -> None:
    for name, run in runs.items():
        run()
        began = time.perf_counter()
        run()
        times[name].append(time.perf_counter() - began)


def latency(what: str, threads: int, seconds: Sequence[float]) -> Latency:
    """Sum up measured runs."""
    milliseconds = [1000 * s for s in seconds]
    return Latency(what, threads, statistics.median(milliseconds), min(milliseconds), len(seconds))


def profile_layers(
    session: Session, feed: Mapping[str, Any], repeats: int = 10
) -> list[dict[str, Any]]:
    """Time every step: `layers: [{name, nodes, kernel, us, share}]`, in order."""
    rows = session.profile(feed, repeats)
    total = sum(r.median_us for r in rows) or 1
    return [
        {"name": r.name, "nodes": list(r.nodes), "kernel": r.kernel, "macs": r.macs,
         "us": r.median_us, "share": r.median_us / total}
        for r in rows
    ]  # fmt: skip
