"""Measuring latency: in turns with peers, so that what disturbs one disturbs all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from graphopt.report.model import Latency

PAUSE = 0.04  # seconds: ONNX Runtime's threads go on spinning for 27 ms after a run (1.31)
BURST = 0.02  # seconds of timed calls in one turn


def interleave(
    runs: Mapping[str, Callable[[], Any]],
    seconds: float = 0.6,
    least: int = 5,
    most: int = 2000,
    calm: Collection[str] = (),
) -> dict[str, list[float]]:
    """Time callables in turn, A B A B ..., so that drift hits all alike; seconds a call.

    Each turn begins with a pause, in which threads of the one before stop spinning (they would hold
    a core for as long as a whole run takes), and a call that isn't timed, since the other's data
    fill the caches; then come timed ones, one after another, for BURST seconds. Where first calls
    take over `seconds` each, the second ones are all that is timed. `least` and `most` are rounds.
    After those that are `calm`, whose threads soon sleep, there is no pause.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    first = sum(_timed(run) for run in runs.values())  # these allocate
    if first > seconds * len(runs):
        return {name: [_timed(run)] for name, run in runs.items()}
    until, rounds = time.perf_counter() + seconds * len(runs), 0
    while rounds < least or (time.perf_counter() < until and rounds < most):
        _round(runs, times, calm)
        rounds += 1
    return times


def _round(
    runs: Mapping[str, Callable[[], Any]], times: dict[str, list[float]], calm: Collection[str]
) -> None:
    before = [*runs][-1]
    for name, run in runs.items():
        if len(runs) > 1 and before not in calm:
            time.sleep(PAUSE)
        before = name
        run()
        until = time.perf_counter() + BURST
        while True:
            times[name].append(_timed(run))
            if time.perf_counter() > until:
                break


def _timed(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def latency(what: str, threads: int, seconds: Sequence[float]) -> Latency:
    """Sum up measured runs."""
    milliseconds = [1000 * s for s in seconds]
    return Latency(what, threads, statistics.median(milliseconds), min(milliseconds), len(seconds))
