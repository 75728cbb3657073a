"""`graphopt bench`, and the runtimes it times beside ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from graphopt.cli.bench import summary
from graphopt.cli.peers import peer_run, precision_of
from graphopt.errors import InputError, UnsupportedError

Cli = Callable[..., Any]
QUICK = ("--seconds", 0.1, "--threads", 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small: bytes) -> Path:
    """A folder with small.onnx, small.gir and their bundle; not to be changed."""
    from graphopt.cli import main

    folder = tmp_path_factory.mktemp("made")
    model = folder / "small.onnx"
    model.write_bytes(small)
    assert main(["opt", str(model), "--passes", "dce", "-o", str(folder / "small.gir")]) == 0
    bundle = str(folder / "small.graphopt")
    assert main(["optimize", str(model), "--target", "x86", "-o", bundle, "--json"]) == 0
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder; gives the one with the bundle."""
    monkeypatch.chdir(tmp_path)
    return made


@pytest.mark.parametrize("what", ["small.graphopt", "small.onnx"])
def test_bench(cli: Cli, here: Path, what: str) -> None:
    told = json.loads(cli("bench", here / what, "--vs", "onnxruntime", *QUICK, "--json").out)
    assert [r["what"] for r in told["results"]] == ["graphopt", "onnxruntime"]
    assert told["threads"] == 1
    for row in told["results"]:
        assert row["min"] <= row["p50"] <= row["p90"] <= row["p99"]
    assert not list(Path().iterdir())


@pytest.mark.parametrize("what", ["small.graphopt", "small.onnx", "small.gir"])
def test_bench_beside_several_peers(cli: Cli, here: Path, what: str) -> None:
    pytest.importorskip("openvino")
    done = cli("bench", here / what, "--vs", "openvino, onnxruntime", *QUICK, "--json")
    results = json.loads(done.out)["results"]
    assert [r["what"] for r in results] == ["graphopt", "openvino", "onnxruntime"]
    assert all(r["runs"] > 1 for r in results)


def test_bench_names_what_is_missing(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("bench", here / "small.graphopt", "--vs", "openvno")
    assert done.code == 2
    assert "did you mean 'openvino'?" in done.err
    monkeypatch.setitem(sys.modules, "openvino", None)
    done = cli("bench", here / "small.graphopt", "--vs", "openvino")
    assert done.code == 3
    assert "pip install 'graphopt[bench]'" in done.err


@pytest.mark.parametrize("peer", ["onnxruntime", "openvino"])
def test_a_peer_that_cant_run_the_model_says_so(tmp_path: Path, peer: str) -> None:
    pytest.importorskip(peer)
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2]) for n in "xy")
    node = helper.make_node("Odd", ["x"], ["y"], domain="nowhere")
    graph = helper.make_graph([node], "g", [x], [y])
    path = tmp_path / "odd.onnx"
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nowhere", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())
    with pytest.raises((UnsupportedError, InputError), match=r"odd\.onnx: .*Odd"):
        peer_run(peer, path, {"x": np.zeros(2, np.float32)}, 1)


def test_openvino_computes_in_the_16_bit_floats_that_a_model_holds(
    cli: Cli, here: Path, tmp_path: Path
) -> None:
    assert precision_of(here / "small.onnx") == "f32"
    half = tmp_path / "half.onnx"
    passes = "fold,half{smallest=1}"
    assert cli("opt", here / "small.onnx", "--passes", passes, "-o", half).code == 0
    assert precision_of(half) == "bf16"


def test_openvino_gives_what_onnxruntime_gives(here: Path) -> None:
    pytest.importorskip("openvino")
    feed = {"x": np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)}
    (ours,) = peer_run("onnxruntime", here / "small.onnx", feed, 1)().values()
    (theirs,) = peer_run("openvino", here / "small.onnx", feed, 1)().values()
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)  # bfloat16 would be 1e-2 off


def test_percentiles() -> None:
    told = summary([i / 1000 for i in range(1, 101)])
    assert told == {"p50": 50.5, "p90": pytest.approx(90.1), "p99": pytest.approx(99.01),
                    "min": 1.0, "mean": 50.5, "runs": 100, "unit": "ms"}  # fmt: skip
