"""`--max-drop` that can't be met: exit 4, and the best found beside the place that was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from graphopt.cli.optimize import beside
from graphopt.runtime import Session
from tests.cli.conftest import Cli

PASSES = "default,sparsify{ratio=0.9}"


@pytest.fixture
def asked(tmp_path: Path, small: bytes) -> list[object]:
    """Arguments that ask for more zeros than the small model's answers bear."""
    (tmp_path / "m.onnx").write_bytes(small)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3, 8, 8)) + 3 * rng.normal(size=(200, 3, 1, 1))
    np.savez(tmp_path / "x.npz", x=x.astype(np.float32))
    return ["optimize", tmp_path / "m.onnx", "--target", "x86", "--data", tmp_path / "x.npz",
            "--passes", PASSES, "--max-drop", "1", "-o", tmp_path / "out"]  # fmt: skip


def test_the_best_found_lies_beside_what_was_asked_for(
    cli: Cli, tmp_path: Path, asked: list[object]
) -> None:
    done = cli(*asked, "--json")
    best = tmp_path / "out.best"
    assert done.code == 4
    assert done.err.count("\n") == 1
    assert "pass 8 (sparsify{ratio=0.9}): the zeros asked for can't be reached" in done.err
    assert done.err.rstrip().endswith(f"the best found is in {best}")
    told = json.loads(done.out)
    assert told["output"] == str(best) and told["verified"]
    assert len(told["missed"]) == 1 and told["missed"][0] in done.err
    assert told["losses"][0]["drop"]["mean"] <= 1
    assert not (tmp_path / "out").exists()
    with Session(best, verify=True) as session:
        assert session.run({"x": np.zeros((1, 3, 8, 8), np.float32)})["y"].shape == (1, 5)
    assert "Limit missed: pass 8" in (best / "report.html").read_text()
    again = cli("verify", best, tmp_path / "m.onnx", "--data", tmp_path / "x.npz")
    assert again.code == 0, again.err
    assert "a limit was missed when it was made: pass 8" in " ".join(again.out.split())


def test_a_bundle_that_was_there_stays(cli: Cli, tmp_path: Path, asked: list[object]) -> None:
    out = tmp_path / "out"
    exact = ["default" if a == PASSES else a for a in asked]
    assert cli(*exact).code == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    shown = cli(*asked)
    assert shown.code == 4
    assert "limit missed: pass 8" in " ".join(shown.out.split())
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert cli(*asked).code == 4  # over the best found of the run before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "out", "out.best", "x.npz"]


def test_a_folder_that_would_be_lost_is_refused_before_any_work(
    cli: Cli, tmp_path: Path, asked: list[object]
) -> None:
    (tmp_path / "out.best").mkdir()
    (tmp_path / "out.best" / "mine.txt").write_text("kept")
    done = cli(*asked)
    assert done.code == 2
    assert "out.best exists and is not a graphopt bundle" in done.err
    assert (tmp_path / "out.best" / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("place", "best"),
    [("out", "out.best"), ("out/", "out.best"), ("a/out", "a/out.best"), (".", "/here/m.best"),
     ("..", "/here.best"), ("seg/..", "/here/m.best")],
)  # fmt: skip
def test_beside_is_beside_the_folder_itself(
    place: str, best: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "here" / "m"
    (inside / "seg").mkdir(parents=True)
    monkeypatch.chdir(inside)
    wanted = tmp_path / best[1:] if best.startswith("/") else Path(best)
    assert beside(Path(place)) == wanted
