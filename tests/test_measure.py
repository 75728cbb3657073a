"""Measuring takes turns, and doesn't repeat what is slow."""

from __future__ import annotations

import time

import pytest

from graphopt.measure import interleave


def test_runs_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only the runs move: a busy machine's would count its other work."""
    seen: list[str] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def take(name: str) -> None:
        seen.append(name)
        time.sleep(0.015)

    times = interleave({"a": lambda: take("a"), "b": lambda: take("b")}, 0.05, least=3, most=3)
    assert all(len(v) == 6 for v in times.values())  # two calls of 15 ms in each turn of 20
    assert "".join(seen) == "ab" + "aaabbb" * 3  # first calls and those of each turn warm up


def test_threads_of_the_last_may_come_to_rest() -> None:
    ended: list[float] = []
    waited: list[float] = []

    def take() -> None:
        if ended:
            waited.append(time.perf_counter() - ended[-1])
        ended.append(time.perf_counter())

    interleave({"a": take, "b": lambda: take()}, 0.01, least=2, most=2)
    assert sum(w > 0.03 for w in waited) == 4  # ONNX Runtime's spin for 27 ms


def test_a_slow_run_is_timed_once() -> None:
    seen: list[int] = []

    def slow() -> None:
        seen.append(1)
        time.sleep(0.05)

    times = interleave({"slow": slow}, 0.01)
    assert len(times["slow"]) == 1
    assert len(seen) == 2
