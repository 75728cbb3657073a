"""Mutated models through load, opt and optimize (`python tools/fuzz.py` runs as many as wanted)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import models
from tests.fuzz.harness import Outcome, Settings, requests, run, whole


def failures(outcomes: list[Outcome]) -> list[str]:
    return [f"{o.result} at {o.stage}, seed {o.seed} ({o.what}): {o.text[-600:]}"
            for o in outcomes if not o.good]  # fmt: skip


def test_the_models_are_good_before_they_are_mutated(tmp_path: Path) -> None:
    names = set(models.SMALL) - {"custom"}  # which no reference can run
    outcomes = run(whole(sorted(names), "opt"), Settings(jobs=1, cache=tmp_path))
    assert {o.what for o in outcomes if o.result != "ok"} == set[str]()


def test_150_mutated_models(tmp_path: Path) -> None:
    settings = Settings(jobs=1, seconds=40, cache=tmp_path)
    todo = [*requests(range(145), "opt"), *requests(range(145, 150), "optimize")]
    outcomes = run(todo, settings)
    assert failures(outcomes) == []
    assert {o.result for o in outcomes} == {"ok", "refused"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_2000_mutated_models(tmp_path: Path) -> None:
    settings = Settings(seconds=60, cache=tmp_path)  # a busy machine takes 15 for the slowest
    warm = Settings(jobs=1, seconds=300, cache=tmp_path)
    names = sorted({*models.SMALL, *models.real()} - {"custom"})  # which no reference can run
    assert {o.result for o in run(whole(names, "optimize"), warm)} == {"ok"}
    assert failures(run(requests(range(2000), "all"), settings)) == []
