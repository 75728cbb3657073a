"""The shipped models, end to end: verified, nothing left outside, the same predictions, the same bytes."""

from __future__ import annotations

import filecmp
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.api import Result
from graphopt.ir.types import Array
from graphopt.onnx import Reference
from graphopt.targets.base import Build

MODELS = Path(__file__).parent.parent / "models"
ENTRIES: list[dict[str, Any]] = tomllib.loads((MODELS / "MANIFEST.toml").read_text("utf-8"))[
    "model"
]
NAMES = [e["name"] for e in ENTRIES]
SHAPES = {"shapes_unet": {"image": (1, 3, 64, 64)}}
LEFT: dict[str, set[str]] = {}  # what may run in ONNX Runtime
SAMPLES = 60

# The pipeline is exact up to rounding: a prediction may change only where the reference's two best
# classes (a pixel's logit and 0) are this close, relative to the largest logit.
TIE = 1e-4


@cache
def optimized(name: str) -> Result:
    return graphopt.optimize(
        MODELS / f"{name}.onnx",
        "x86",
        input_shapes=SHAPES.get(name),
        threads=1,
        build=Build(jobs=2),
    )


def entry(name: str) -> dict[str, Any]:
    return next(e for e in ENTRIES if e["name"] == name)


def samples(name: str) -> tuple[str, Array, Array]:
    """The input's name, samples and labels."""
    with np.load(MODELS / entry(name)["data"]) as file:
        data = {k: file[k] for k in file.files}
    labels = data.pop("labels")
    ((key, x),) = data.items()
    return key, x[:SAMPLES], labels[:SAMPLES]


@cache
def outputs(name: str) -> tuple[Array, Array]:
    """The logits of the reference and of the bundle, of each sample by itself."""
    key, x, _ = samples(name)
    result = optimized(name)
    assert result.bundle is not None
    (out,) = Reference(MODELS / f"{name}.onnx").outputs
    run = Reference(MODELS / f"{name}.onnx").run
    want = [run({key: x[i : i + 1]})[out] for i in range(len(x))]
    with graphopt.Session(result.bundle, threads=1) as session:
        got = [session.run({key: x[i : i + 1]})[out] for i in range(len(x))]
    return np.concatenate(want), np.concatenate(got)


@pytest.mark.parametrize("name", NAMES)
def test_verified_and_compiled(name: str) -> None:
    result = optimized(name)
    assert result.program is not None
    assert [c.ok for c in result.report.checks] == [True, True]
    outside = {kind for call in result.program.fallbacks() for kind, _ in call.reasons}
    assert outside <= LEFT.get(name, set())


@pytest.mark.parametrize("name", NAMES)
def test_same_predictions(name: str) -> None:
    want, got = outputs(name)
    assert not np.any((predicted(name, want) != predicted(name, got)) & (margin(name, want) > TIE))


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_is_the_reference_s(name: str) -> None:
    labels = samples(name)[2]
    want, got = (score(name, predicted(name, y), labels) for y in outputs(name))
    assert got == pytest.approx(want, abs=0.01)
    assert want > 80


def score(name: str, found: Array, labels: Array) -> float:
    """The metric of the manifest, in percent."""
    if entry(name)["metric"] == "top1":
        return 100 * float(np.mean(np.equal(found, labels)))
    truth = labels.reshape(found.shape) > 0
    both = np.logical_and(found, truth).sum((1, 2))
    either = np.logical_or(found, truth).sum((1, 2))
    shares: Array = np.where(either == 0, 1.0, both / np.maximum(either, 1))
    return 100 * float(np.mean(shares))


def predicted(name: str, logits: Array) -> Array:
    """Classes, or a mask of bools."""
    if entry(name)["metric"] == "mean_iou":
        return logits.reshape(len(logits), *logits.shape[-2:]) > 0
    return np.argmax(logits, axis=1)


def margin(name: str, logits: Array) -> Array:
    """How far a prediction is from another, relative to the largest logit."""
    largest = np.max(np.abs(logits))
    if entry(name)["metric"] == "mean_iou":
        return np.abs(logits.reshape(len(logits), *logits.shape[-2:])) / largest
    first, second = np.sort(logits, axis=1)[:, -1], np.sort(logits, axis=1)[:, -2]
    return (first - second) / largest


@pytest.mark.parametrize("name", ["fmnist_resnet8", "digits_bilstm"])
def test_two_builds_are_the_same_bytes(name: str, tmp_path: Path) -> None:
    """The library, the model, the segments and the manifest; report.html tells times."""
    bundles: list[Path] = []
    for i in "ab":  # two caches: each compiles every kernel
        result = graphopt.optimize(MODELS / f"{name}.onnx", "x86", threads=1, check=False,
                                   build=Build(jobs=2, cache=tmp_path / f"cache-{i}"))  # fmt: skip
        bundles.append(result.save(tmp_path / i))
    files = [sorted(p.relative_to(b) for p in b.rglob("*") if p.is_file()) for b in bundles]
    assert files[0] == files[1]
    compared = [f for f in files[0] if f.name != "report.html"]
    assert {"libmodel.so", "model.onnx", "manifest.json"} <= {f.name for f in compared}
    different = [f for f in compared if not filecmp.cmp(*(b / f for b in bundles), shallow=False)]
    assert different == []


def test_the_second_run_is_served_from_the_cache(tmp_path: Path) -> None:
    def run() -> float:
        result = graphopt.optimize(MODELS / "digits_dscnn.onnx", "x86", threads=1, check=False,
                                   build=Build(jobs=2, cache=tmp_path))  # fmt: skip
        return result.report.seconds["compile"]

    first = run()
    objects = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.o")}
    second = run()
    assert objects
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.o")} == objects
    assert second < first / 2
