"""The figures of `tools/bench_compress.py`: samples kept apart, rows and their tables, failures."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(scope="module", autouse=True)
def on_path() -> None:
    sys.path.append(str(TOOLS))


def part(name: str) -> ModuleType:
    return importlib.import_module(name)


def row(**values: Any) -> Any:
    table = part("compress_bench.table")
    told = {"task": "t", "family": "f", "metric": "top-1", "samples": 9, "calibration": 5}
    return table.Row(**{**told, "method": "m", **values})


def test_samples_that_are_tested_are_taken_out() -> None:
    x, y = np.arange(12, dtype=np.float32).reshape(6, 2), np.arange(6)
    tested = {"x": x[[4, 1]], "y": y[[4, 2]]}  # the second is no twin: its y is another
    kept = part("compress_bench.tasks").apart({"x": x, "y": y}, tested)
    assert kept["y"].tolist() == [0, 1, 2, 3, 5]
    assert kept["x"].tolist() == x[[0, 1, 2, 3, 5]].tolist()


def test_every_row_has_a_name_of_its_own() -> None:
    found = list(part("compress_bench.methods").methods())
    names = [m.name for m in found]
    assert len(set(names)) == len(names)
    passes = {m.name: m.options.get("passes") for m in found}
    assert passes["prune-30+reconstruct"].endswith("reconstruct},reconstruct{samples=1024}")
    assert passes["l1-50"] == "default,prune{ratio=0.5,criterion=l1}"


def test_every_pipeline_is_one() -> None:
    from graphopt.api import default_passes

    for method in part("compress_bench.methods").methods():
        if method.ours:
            assert default_passes(method.options["passes"], None)


def test_a_row_is_read_as_it_was_written() -> None:
    table, metrics = part("compress_bench.table"), part("quant_bench.metrics")
    made = part("quant_bench.methods").Made(1.5, notes=["a"])
    whole = row(
        weight=table.Weight(10, 20, 30), timing=table.Timing((4.0, 3.0), (2.0, 1.0)), score=90.0,
        drop=metrics.Drop(1.0, 0.5, 1.5, 0.01), agreement=99.0, sqnr=20.0, made=made,
    )  # fmt: skip
    for one in (whole, row()):
        assert table.Row.read(json.loads(json.dumps(asdict(one)))) == one
    assert whole.timing.faster == (2, 3)


def test_the_table_counts_from_the_original() -> None:
    table, made = part("compress_bench.table"), part("quant_bench.methods").Made
    rows = [
        row(method="original", weight=table.Weight(2_000_000, 3000, 4000)),
        row(method="half", weight=table.Weight(1_000_000, 1500, 2000)),
        row(method="gone", made=made(error="out of memory (8 GB)")),
    ]
    (sheet,) = table.sheets(rows)
    assert sheet.rows[1][:5] == ["half", "1.00", "50.0", "1.5", "2"]
    assert sheet.rows[2][:2] == ["gone", "out of memory (8 GB)"]
    assert {len(r) for r in sheet.rows} == {len(sheet.heads)}
    lines = part("tables").markdown([sheet]).splitlines()
    assert lines[2].count("|") == lines[3].count("|") == len(sheet.heads) + 1


def test_a_row_measured_again_takes_the_place_of_the_old_one() -> None:
    bench = part("bench_compress")
    rows = [row(method="a"), row(method="b")]
    again = row(method="a", score=1.0)
    assert bench.merged(rows, again) == [again, rows[1]]
    assert bench.merged(rows, row(method="c"))[-1].method == "c"


def test_a_method_that_fails_says_why(tmp_path: Path) -> None:
    methods, children = part("quant_bench.methods"), part("compress_bench.methods")
    job = {
        "model": str(tmp_path / "none.onnx"),
        "data": "",
        "out": "",
        "target": "x86",
        "threads": 1,
    }
    made = methods.make(
        children.ours("x", "default,no-such-pass"),
        job,
        sys.executable,
        children.CHILDREN["graphopt"],
    )
    assert made.error == "not there: no-such-pass"
