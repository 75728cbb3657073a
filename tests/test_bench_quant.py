"""The figures of `tools/bench_quant.py`: intervals, SQNR, CTC, failures told in a word."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import graphopt

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(scope="module", autouse=True)
def on_path() -> None:
    sys.path.append(str(TOOLS))


def part(name: str) -> ModuleType:
    return importlib.import_module(f"quant_bench.{name}")


def test_nothing_changed_leaves_an_interval() -> None:
    drop = part("metrics").paired_drop(np.ones(100), np.ones(100))
    assert drop.points == 0 and drop.p == 1
    assert drop.low == pytest.approx(-drop.high)
    assert 1 < drop.high < 4  # Bonett and Price: one added to each discordant count


def test_a_drop_of_right_answers() -> None:
    before, after = np.ones(1000), np.ones(1000)
    after[:20], before[20:25] = 0, 0  # 20 lost, 5 won
    drop = part("metrics").paired_drop(before, after)
    assert drop.points == pytest.approx(1.5)
    half = 1.96 * math.sqrt((21 + 6 - 15**2 / 1002) / 1002**2) * 100
    assert (drop.low, drop.high) == pytest.approx((1.497 - half, 1.497 + half), abs=0.01)
    assert drop.p == pytest.approx(2 * sum(math.comb(25, k) for k in range(6)) / 2**25)


def test_a_drop_of_graded_scores_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        before = rng.uniform(0.3, 1, 100)
        drop = part("metrics").paired_drop(before, before - rng.normal(0.01, 0.05, 100))
        covered += drop.low <= 1 <= drop.high
    assert 180 <= covered <= 199


def test_graded_scores_that_all_lose_the_same() -> None:
    drop = part("metrics").paired_drop(np.full(8, 0.75), np.full(8, 0.5))
    assert (drop.points, drop.low, drop.high, drop.p) == (25, 25, 25, 0)


def test_sqnr() -> None:
    sqnr = part("metrics").sqnr
    x = np.random.default_rng(0).normal(size=(50, 10)).astype(np.float32)
    assert sqnr(x, 1.1 * x) == pytest.approx(20, abs=1e-3)
    assert sqnr(x, x) == math.inf
    assert sqnr(x, x * np.nan) == -math.inf


def test_ctc_merges_repeats_and_drops_blanks() -> None:
    steps = np.array([[0, 1, 1, 0, 1, 2, 2, 0], [3, 3, 3, 3, 0, 0, 3, 2]])
    assert part("metrics").ctc_decode(np.eye(4)[steps], "ab ") == ["aab", "  b"]


def test_iou_of_an_empty_scene() -> None:
    masks = np.zeros((2, 1, 4, 4))
    masks[1, 0, :2] = 1
    logits = np.where(np.arange(4)[:, None] < 1, 1.0, -1.0) * np.ones((2, 1, 4, 4))
    logits[0] = -1
    assert part("metrics").iou(logits, masks).tolist() == [1, 0.5]


def test_a_method_that_fails_makes_a_row(tmp_path: Path) -> None:
    methods = part("methods")
    job = {"model": str(tmp_path / "none.onnx"), "data": "", "out": "", "memory": 0}
    gone = methods.Method("x", "graphopt", {"passes": "default,no-such-pass"})
    assert methods.make(gone, job, sys.executable).error == "not there: no-such-pass"


def test_wordpiece(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "play", "##ing", "##s", ".", "plays"]
    file.write_text(
        '{"model": {"vocab": {' + ",".join(f'"{n}": {i}' for i, n in enumerate(names)) + "}}}"
    )
    found = part("sentences").Tokenizer(file).encode(["Playing plays.", "zzz"])
    assert found["input_ids"][:, :7].tolist() == [[2, 4, 5, 8, 7, 3, 0], [2, 1, 3, 0, 0, 0, 0]]
    assert found["attention_mask"].sum(1).tolist() == [6, 3]


def test_integer_layers(tmp_path: Path) -> None:
    module = graphopt.parse("""
graph @main(%x: f32[2,4]) {
  %s = const dense [0.5] : f32[]
  %z = const dense [0] : i8[]
  %v = const dense [1, 2, 3, 4] : i8[4,1]
  %w = dequantize(%v, %s, %z)
  %q = quantize(%x, %s, %z) {dtype=i8}
  %d = dequantize(%q, %s, %z)
  %t = reshape(%d) {shape=[2, 4]}
  %one = matmul(%t, %w)
  %two = matmul(%x, %w)
  return(%one, %two) {names=[one, two]}
}
""")
    graphopt.save(module, tmp_path / "m.onnx")
    assert part("integers").integer_layers(tmp_path / "m.onnx") == (1, 2)


def test_a_last_softmax_and_what_rounds_it_are_cut_off(tmp_path: Path) -> None:
    onnx: Any = importlib.import_module("onnx")
    text = """<ir_version: 9, opset_import: ["" : 17]>
    m (float[1,4] x) => (float[1,4] y) <float s = {0.004}, uint8 z = {0}> {
      p = Softmax <axis = -1> (x)
      q = QuantizeLinear (p, s, z)
      y = DequantizeLinear (q, s, z)
    }"""
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    evaluate = part("evaluate")
    x = np.array([[-3, 0, 2, 9]], np.float32)
    (got,) = evaluate.open_session(evaluate.without_softmax(path)).run(None, {"x": x})
    np.testing.assert_array_equal(got, x)
