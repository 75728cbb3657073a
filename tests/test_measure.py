"""Measuring takes turns, and doesn't repeat what is slow."""

from __future__ import annotations

import time

from graphopt.measure import interleave


def test_runs_take_turns() -> None:
    seen: list[str] = []
    times = interleave({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 0.01, least=3, most=3)
    assert {k: len(v) for k, v in times.items()} == {"a": 3, "b": 3}
    assert "".join(seen) == "aabb" * 4  # the first round warms up


def test_a_slow_run_is_timed_once() -> None:
    seen: list[int] = []

    def slow() -> None:
        seen.append(1)
        time.sleep(0.05)

    times = interleave({"slow": slow}, 0.01)
    assert len(times["slow"]) == 1
    assert len(seen) == 2
