"""The exported QDQ file in ONNX Runtime against the compiled integers, layer by layer."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.onnx import to_proto

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"
UP = """graph @main(%x: f32[1,8,6,7]) {
  %u = const rand 2 : f32[8,6,3,3]
  %b = const rand 3 : f32[6]
  %d = conv_transpose(%x, %u, %b) {strides=[2,2],pads=[1,1,1,1],dilations=[1,1],output_padding=[1,1]} @ "up"
  %r = relu(%d) @ "relu"
  %w = const rand 4 : f32[4,6,1,1]
  %y = conv(%r, %w) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "last"
  return(%y) {names=[y]}
}"""


@pytest.fixture(scope="module")
def tool() -> Any:
    sys.path.append(str(ROOT / "tools"))
    return importlib.import_module("check_qdq")


def samples(path: Path, count: int) -> list[dict[str, Any]]:
    with np.load(path) as file:
        return [{"input": x[None]} for x in file["input"][:count]]


def quantized(model: Any, data: Any) -> Module:
    return graphopt.optimize(model, None, "default,calibrate,quantize", data, check=False).module


@pytest.mark.parametrize("model", ["fmnist_resnet8", "fmnist_mobilenetv2"])
def test_given_the_same_integers_both_give_the_same(tool: Any, model: str) -> None:
    """Requantisation is one float32 product here, and another sequence of roundings there."""
    data = samples(MODELS / "data" / "fmnist.npz", 16)
    found = tool.compare(quantized(MODELS / f"{model}.onnx", data), data[3:4])
    assert len(found) >= 8
    for part in found:
        assert part.optimized.ok and part.plain.ok, part.op.loc


def test_transposed_convolutions_give_the_same(tool: Any) -> None:
    rng = np.random.default_rng(0)
    data = [{"x": rng.normal(size=(1, 8, 6, 7)).astype(np.float32)} for _ in range(8)]
    found = tool.compare(quantized(to_proto(parse(UP)), data), data[:3])
    assert [part.kinds for part in found] == ["conv_transpose relu"]
    assert all(a.ok and a.count == 3 * 6 * 12 * 14 for a in (found[0].optimized, found[0].plain))


def test_what_is_apart_is_told(tool: Any) -> None:
    apart = tool.Apart()
    apart.add(np.arange(2000, dtype=np.uint8), np.arange(2000, dtype=np.uint8))
    assert (apart.ok, apart.most) == (True, 0)
    far = np.full(4, 255, np.uint8)
    apart.add(far, np.array([254, 253, 0, 250], np.uint8))
    assert (apart.count, apart.equal, apart.near, apart.most) == (2004, 2000, 2001, 255)
    assert not apart.ok


def test_the_tool_reads_a_model_and_fails_where_nothing_is_quantized(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = samples(MODELS / "data" / "fmnist.npz", 4)
    np.savez(tmp_path / "d.npz", input=np.concatenate([d["input"] for d in data]))
    args = ["check_qdq.py", str(MODELS / "fmnist_resnet8.onnx"), str(tmp_path / "d.npz")]
    monkeypatch.setattr(sys, "argv", [*args, "--runs", "1"])
    assert tool.main() == 0
    assert "0 of them not within 1" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*args, "--passes", ""])
    assert tool.main() == 1
    assert "nothing is quantized" in capsys.readouterr().out
