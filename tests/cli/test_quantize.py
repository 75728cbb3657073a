"""Quantization through the command line: the account, the limit, and what is told of bad data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.passes import PIPELINES
from tests.cli.conftest import Cli

MODELS = Path(__file__).parents[2] / "models"
MODEL, DATA = MODELS / "fmnist_resnet8.onnx", MODELS / "data" / "fmnist.npz"
INT8 = "default,calibrate{samples=32},quantize"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred samples and forty, with labels."""
    path = tmp_path_factory.mktemp("data") / "few.npz"
    with np.load(DATA) as file:
        np.savez(path, input=file["input"][:140], labels=file["labels"][:140])
    return path


def test_opt_writes_qdq_and_inspect_tells_each_layers_error(
    cli: Cli, tmp_path: Path, small: Path
) -> None:
    out = tmp_path / "q.onnx"
    done = cli("opt", MODEL, "--passes", INT8, "--data", small, "-o", out)
    assert done.code == 0, done.err
    told = cli("inspect", out, "--quant", MODEL, "--data", small, "--json")
    layers = json.loads(told.out)["layers"]
    own = [row["own_db"] for row in layers]
    assert len(layers) == sum(row["kind"] in ("conv", "gemm") for row in layers) >= 9
    assert own == sorted(own)
    assert 25 < own[0] < own[-1] < 60
    assert all(row["cosine"] > 0.99 for row in layers)
    shown = cli("inspect", out, "--quant", MODEL, "--data", small)
    assert "total SQNR" in shown.out


def test_a_limit_keeps_layers_in_float(cli: Cli, tmp_path: Path, small: Path) -> None:
    done = cli("optimize", MODEL, "--target", "x86", "--passes", INT8, "--data", small,
               "--max-drop", "100", "-o", tmp_path / "out", "--json")  # fmt: skip
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["max_drop"] == 100
    assert any("in int8" in note for note in told["notes"])
    again = cli("verify", tmp_path / "out", MODEL, "--data", small, "--json")
    assert again.code == 0, again.err
    known = json.loads(again.out)
    assert known["verified"]
    assert known["losses"][0]["samples"] == 140
    (loss,) = told["losses"]
    assert loss["samples"] == (140 - 32) // 2  # half of what calibration left; half chose


def test_without_samples_int8_is_calibration_alone_and_says_so(cli: Cli, tmp_path: Path) -> None:
    done = cli("opt", MODEL, "--passes", "default,int8", "-o", tmp_path / "int8.gir")
    assert done.code == 0, done.err
    notes = [line for line in done.err.splitlines() if "no --data" in line]
    assert len(notes) == 2
    assert "passes see" in notes[0]
    assert "smooth, adaround and bias_correct" in notes[1]
    plain = cli("opt", MODEL, "--passes", "default,calibrate,quantize", "-o", tmp_path / "q.gir")
    assert plain.code == 0, plain.err
    texts = [graphopt.load(tmp_path / name).to_text() for name in ("int8.gir", "q.gir")]
    assert texts[0] == texts[1]
    assert "quantize" in texts[0]


def test_int8_from_python_is_what_it_stands_for(small: Path) -> None:
    made = [graphopt.optimize(MODEL, passes=p, data=small, check=False).module.to_text()
            for p in ("default,int8", f"default,{PIPELINES['int8']}")]  # fmt: skip
    assert made[0] == made[1]
    assert "quantize" in made[0]


Change = Callable[[Any], dict[str, Any]]
BAD: list[tuple[Change, str]] = [
    (lambda x: {"image": x}, "no data for input 'input'; it has image"),
    (lambda x: {"input": x[:, :, :20]}, "has shape [140, 1, 20, 28], but a sample is"),
    (lambda x: {"input": x.astype(np.float64)}, "is f64, but the model takes f32"),
    (lambda x: {"input": np.where(x > 1, np.nan, x)}, "has NaN or infinite values"),
    (lambda x: {"input": x[:0]}, "has no samples"),
    (lambda x: {"input": x, "labels": np.zeros(3, int)}, "bad.npz: 3 labels for 140 samples"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_calibration_data_is_one_sentence(
    cli: Cli, tmp_path: Path, small: Path, change: Change, message: str
) -> None:
    with np.load(small) as file:
        np.savez(tmp_path / "bad.npz", **change(file["input"]))
    out = tmp_path / "q.onnx"
    out.write_bytes(b"mine")
    done = cli("opt", MODEL, "--passes", INT8, "--data", tmp_path / "bad.npz", "-o", out)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert out.read_bytes() == b"mine"


def test_inspect_quant_wants_a_quantized_model(cli: Cli) -> None:
    done = cli("inspect", MODEL, "--quant", MODEL)
    assert done.code == 2
    assert "no layer is quantized" in done.err
    assert cli("inspect", MODEL, "--data", DATA).code == 2
