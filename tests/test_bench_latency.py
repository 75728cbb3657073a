"""The inputs and the peers' files of `tools/bench_latency.py`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

import graphopt
from graphopt.ir.parser import parse
from graphopt.onnx import to_proto

TOOLS = Path(__file__).parents[1] / "tools"

CONV = """graph @main(%x: f32[N,3,H,W]) {
  %w = const rand 1 : f32[8,3,3,3]
  %c = conv(%x, %w) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]}
  %y = relu(%c)
  return(%y) {names=[y]}
}"""


@pytest.fixture
def latency(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setattr(sys, "path", [str(TOOLS), *sys.path])
    yield importlib.import_module("bench_latency")
    sys.modules.pop("bench_latency", None)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "open.onnx"
    path.write_bytes(to_proto(parse(CONV)).SerializeToString())
    return path


def test_open_sizes_are_given_and_the_batch_is_its_own(latency: ModuleType, model: Path) -> None:
    shapes = {"x": (1, 3, 16, 12), "of another model": (1, 2)}
    assert latency.fixed_feed(model, 8, shapes)["x"].shape == (8, 3, 16, 12)
    assert latency.fixed_feed(model, 1, shapes)["x"].shape == (1, 3, 16, 12)
    with pytest.raises(graphopt.GraphoptError, match="the sizes of x are open: --input-shape"):
        latency.fixed_feed(model, 8)


def test_what_onnxruntime_quantizes_of_an_old_opset_runs(
    latency: ModuleType, model: Path, tmp_path: Path
) -> None:
    feed = latency.fixed_feed(model, 1, {"x": (1, 3, 16, 12)})
    fixed, old, out = (str(tmp_path / name) for name in ("fixed.onnx", "old.onnx", "out.onnx"))
    graphopt.load(model, input_shapes={"x": (1, 3, 16, 12)}).save(fixed)
    files: Any = onnx  # its annotations are incomplete
    made = files.load(fixed)
    made.opset_import[0].version = 11  # a conv and a relu are the same there
    files.save(made, old)
    latency.quantize(old, out)
    (y,) = latency.onnxruntime_run(out, feed, 1)()
    assert y.shape == (1, 8, 16, 12)
