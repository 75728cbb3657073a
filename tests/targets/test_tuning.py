"""Tuning: trials in worker processes, the database, plans that are replayed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import graphopt
from graphopt.errors import InputError
from graphopt.ir.parser import parse
from graphopt.onnx import save
from graphopt.targets import machine
from graphopt.targets.base import Build
from graphopt.targets.lower import text_key
from graphopt.targets.program import Kernel
from graphopt.targets.tuning import Database, Found, Tuner, read_plan
from graphopt.targets.tvm import build
from graphopt.targets.x86 import X86

M = X86().machine()
CONV = """graph @main(%x: f32[1,16,9,9]) {
  %w = const rand 1 : f32[32,16,5,5]
  %a = conv(%x, %w) {strides=[1,1],pads=[2,2,2,2],dilations=[1,1]} @ "conv"
  %y = relu(%a) @ "relu"
  return(%y) {names=[y]} }"""


@pytest.fixture
def kernel() -> Kernel:
    """The one kernel of the model that multiplies."""
    program = X86().lower(parse(CONV))
    return next(k for k in program.kernels if k.family == "conv")


def test_trials_give_a_schedule_that_is_no_slower(kernel: Kernel, tmp_path: Path) -> None:
    found = Tuner(M, 1, Database(M, 1, tmp_path)).tune(kernel, 3.0)
    assert found is not None
    assert found.trials > 1
    assert 0 < found.us <= found.rule_us
    choices = build.choices(parse(kernel.text).main, M)
    assert len(set(choices)) == len(choices) > 4
    assert found.knobs in ("", *choices)


def test_a_schedule_that_kills_its_process_is_skipped(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doomed = build.choices(parse(kernel.text).main, M)[1]
    monkeypatch.setenv("GRAPHOPT_TEST_ABORT", doomed)
    found = Tuner(M, 1, Database(M, 1, tmp_path)).tune(kernel, 1.5)
    assert found is not None
    assert found.knobs != doomed


def test_results_are_kept_by_cpu_threads_and_templates(tmp_path: Path) -> None:
    found = Found('{"columns": 7}', 10.0, 12.5, 5)
    Database(M, 1, tmp_path).put("key", found)
    assert Database(M, 1, tmp_path).get("key") == found
    assert Database(M, 2, tmp_path).get("key") is None
    assert Database(machine.load("x86-64-v2"), 1, tmp_path).get("key") is None
    (file,) = tmp_path.rglob("*.json")
    file.write_text("{")
    assert Database(M, 1, tmp_path).get("key") is None


def test_the_same_plan_gives_the_same_bundle(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save(parse(CONV), path)
    knobs = build.choices(parse(kernel.text).main, M)[3]
    plan = {text_key(kernel.text): knobs, "unknown": "{}"}
    for name in "ab":
        result = graphopt.optimize(path, "x86", build=Build(jobs=1, plan=plan))
        result.save(tmp_path / name)
    first, second = ((tmp_path / n / "libmodel.so").read_bytes() for n in "ab")
    assert first == second
    manifest = tmp_path / "a" / "manifest.json"
    assert read_plan(manifest) == {text_key(kernel.text): knobs}
    graphopt.optimize(path, "x86", build=Build(jobs=1)).save(tmp_path / "plain")
    assert (tmp_path / "plain" / "libmodel.so").read_bytes() != first
    assert "plan" not in json.loads((tmp_path / "plain" / "manifest.json").read_text())["extra"]


def test_a_plan_that_other_templates_made_is_left_out(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save(parse(CONV), path)
    plan = {text_key(kernel.text): '{"rows": 3}'}
    result = graphopt.optimize(path, "x86", build=Build(jobs=1, plan=plan))
    assert result.program is not None
    assert not list(result.program.fallbacks())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"plan": {"a": 1}}'])
def test_what_is_no_plan_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(InputError, match="plan"):
        read_plan(path)


def test_the_report_says_what_tuning_gave(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save(parse(CONV), path)
    knobs = build.choices(parse(kernel.text).main, M)[3]
    chosen = Build(jobs=1, plan={text_key(kernel.text): knobs})
    notes = graphopt.optimize(path, "x86", build=chosen).report.notes
    assert any(re.match(r"1 of \d kernels run a schedule that tuning found", n) for n in notes)
