"""factorize, lowrank, prune and quantize one after the other, on shipped models of four families."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.api import Result
from graphopt.cli import main
from graphopt.ops.quant import Quantize
from graphopt.targets.base import Build

MODELS = Path(__file__).parents[2] / "models"
LOSSY = ["factorize", "lowrank", "prune", "quantize"]
PIPELINE = (
    "default,factorize{ratio=0.1,aim=macs},lowrank{ratio=0.1,aim=macs},"
    "prune{ratio=0.1,aim=macs},reconstruct,int8"
)


@dataclass(frozen=True)
class Case:
    """A model's data and input; `wide`: it has K x K convolutions that factors save something of."""

    data: str
    samples: int = 48
    shapes: dict[str, tuple[int, ...]] | None = None
    wide: bool = True


CASES = {
    "fmnist_resnet8": Case("fmnist"),  # residual
    "fmnist_mobilenetv2": Case("fmnist", wide=False),  # inverted residual
    "shapes_unet": Case("shapes", 12, {"image": (1, 3, 64, 64)}),  # concatenations
    "fmnist_vit": Case("fmnist", wide=False),  # attention
}


def samples(name: str, folder: Path) -> Path:
    """The first of a model's data."""
    case, out = CASES[name], folder / f"{name}.npz"
    with np.load(MODELS / "data" / f"{case.data}.npz") as file:
        kept: Any = {key: file[key][: case.samples] for key in file.files}
    np.savez(out, **kept)
    return out


@cache
def composed(name: str, folder: Path) -> Result:
    """Compressed, and verified in ONNX Runtime against the original."""
    return graphopt.optimize(MODELS / f"{name}.onnx", None, PIPELINE, samples(name, folder),
                             CASES[name].shapes, build=Build(jobs=2))  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compose")


@pytest.mark.parametrize("name", CASES)
def test_every_pass_has_its_part(name: str, folder: Path) -> None:
    result = composed(name, folder)
    done = {r.text.split("{")[0]: r.changed for r in result.report.passes}
    expected = set(LOSSY) - (set() if CASES[name].wide else {"factorize"})
    assert expected <= {p for p in LOSSY if done[p]}
    assert any(isinstance(op.kind, Quantize) for op in result.module.main)


@pytest.mark.parametrize("name", CASES)
def test_it_saves_and_keeps_the_answers(name: str, folder: Path) -> None:
    """Two or three times a tenth is saved of what the exact pipeline computes."""
    exact = graphopt.optimize(
        MODELS / f"{name}.onnx", input_shapes=CASES[name].shapes, check=False
    ).report.after
    report = composed(name, folder).report
    assert report.after.macs < (0.78 if CASES[name].wide else 0.85) * exact.macs
    (loss,) = report.losses
    assert loss.drop.mean <= 7
    assert loss.sqnr_db > 15


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in CASES if name != "fmnist_resnet8"]


@pytest.mark.parametrize("name", ["fmnist_resnet8", *SLOW])
def test_the_command_line_makes_a_verified_bundle(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out, model = samples(name, tmp_path), tmp_path / "small.graphopt", MODELS / f"{name}.onnx"
    shapes = CASES[name].shapes or {"input": (1, 1, 28, 28)}
    ((given, shape),) = shapes.items()
    told = ["--target", "x86", "--passes", PIPELINE, "--data", str(data), "-o", str(out)]
    told += ["--input-shape", f"{given}={'x'.join(map(str, shape))}"]
    assert main(["optimize", str(model), *told]) == 0
    assert "the compiled bundle agrees" in capsys.readouterr().out
    with graphopt.Session(out, threads=1) as session:
        (logits,) = session.run({given: np.zeros(shape, np.float32)}).values()
    assert np.isfinite(logits).all()
