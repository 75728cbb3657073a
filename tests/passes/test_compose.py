"""factorize, lowrank, prune and quantize one after the other, on shipped models of four families."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import graphopt
from graphopt.api import Result
from graphopt.cli import app
from graphopt.ops.quant import Quantize
from graphopt.targets.base import Build

MODELS = Path(__file__).parents[2] / "models"
SAMPLES = 96
LOSSY = ["factorize", "lowrank", "prune", "quantize"]
PIPELINE = (
    "default,factorize{ratio=0.1,aim=macs},lowrank{ratio=0.1,aim=macs},"
    "prune{ratio=0.1,aim=macs},calibrate,quantize"
)
# The data, the shape of the input, what is saved at least (a transformer has no K x K convolution
# whose factors would save anything), and what may be lost, in points of the metric.
CASES = {
    "fmnist_resnet8": ("fmnist", None, 0.25, 10),  # residual
    "fmnist_mobilenetv2": ("fmnist", None, 0.15, 10),  # inverted residual
    "shapes_unet": ("shapes", {"image": (1, 3, 64, 64)}, 0.25, 10),  # concatenations
    "fmnist_vit": ("fmnist", None, 0.15, 10),  # attention
}


def samples(name: str, folder: Path) -> Path:
    """The first of a model's data."""
    with np.load(MODELS / "data" / f"{CASES[name][0]}.npz") as file:
        kept = {key: file[key][:SAMPLES] for key in file.files}
    np.savez(folder / "few.npz", allow_pickle=False, **kept)
    return folder / "few.npz"


@cache
def composed(name: str, folder: Path) -> Result:
    """Compressed, and verified in ONNX Runtime against the original."""
    return graphopt.optimize(MODELS / f"{name}.onnx", None, PIPELINE, samples(name, folder),
                             CASES[name][1], build=Build(jobs=2))  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compose")


@pytest.mark.parametrize("name", CASES)
def test_every_pass_has_its_part(name: str, folder: Path) -> None:
    result = composed(name, folder)
    done = {r.text.split("{")[0]: r.changed for r in result.report.passes}
    expected = set(LOSSY) - ({"factorize"} if "mobilenet" in name or "vit" in name else set())
    assert expected <= {p for p in LOSSY if done[p]}
    assert any(isinstance(op.kind, Quantize) for op in result.module.main)


@pytest.mark.parametrize("name", CASES)
def test_it_saves_and_keeps_the_answers(name: str, folder: Path) -> None:
    _, _, saved, lost = CASES[name]
    report = composed(name, folder).report
    assert report.before.macs * (1 - saved) > report.after.macs
    (loss,) = report.losses
    assert loss.drop.mean <= lost
    assert loss.sqnr_db > 5


def test_the_command_line_makes_a_verified_bundle(tmp_path: Path) -> None:
    data, out = samples("fmnist_resnet8", tmp_path), tmp_path / "small.graphopt"
    told = CliRunner().invoke(app, [
        "optimize", str(MODELS / "fmnist_resnet8.onnx"), "--target", "x86", "--passes", PIPELINE,
        "--data", str(data), "-o", str(out),
    ])  # fmt: skip
    assert told.exit_code == 0, told.output
    assert "the compiled bundle" in told.output
    with graphopt.Session(out, threads=1) as session:
        (logits,) = session.run({"input": np.zeros((1, 1, 28, 28), np.float32)}).values()
    assert np.isfinite(logits).all()
