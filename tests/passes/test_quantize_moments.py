"""Moments from BatchNorm, and `bias_correct{method=analytic}`, which needs no samples."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt.passes  # noqa: F401  # pyright: ignore[reportUnusedImport]  # registers them
from graphopt.activations import SampleRuns
from graphopt.analysis.interpret import interpret
from graphopt.analysis.moments import Moments, clipped, moments
from graphopt.ir.builtin import Const
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.ir.types import Array
from graphopt.onnx.evaluate import evaluate_opaque
from graphopt.pipeline import Context, parse_pipeline, run_pipeline

TEXT = """graph @main(%x: f32[256,8,6,6]) {
  %g = const dense [1.0, 0.5, 2.0, 1.5, 0.1, 3.0, 0.7, 1.2] : f32[8]
  %b = const dense [0.5, -0.5, 0.0, 1.0, 3.0, -2.0, 5.0, 0.2] : f32[8]
  %m = const dense [0.5, -1.0, 0.0, 2.0, 0.0, 1.0, -0.5, 0.25] : f32[8]
  %v = const dense [1.0, 4.0, 0.25, 1.0, 9.0, 1.0, 0.5, 2.0] : f32[8]
  %n = batch_norm(%x, %g, %b, %m, %v) {epsilon=0.0} @ "norm"
  %r = clip(%n) {lo=0.0,hi=6.0} @ "relu6"
  %w = const rand 3 : f32[16,8,1,1]
  %c = const rand 4 : f32[16]
  %y = conv(%r, %w, %c) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "conv"
  return(%y) {names=[y]}
}"""


def normal(seed: int) -> dict[str, Array]:
    """What the BatchNorm was trained on: independent normals of its mean and variance."""
    mean = np.array([0.5, -1.0, 0.0, 2.0, 0.0, 1.0, -0.5, 0.25]).reshape(8, 1, 1)
    std = np.sqrt([1.0, 4.0, 0.25, 1.0, 9.0, 1.0, 0.5, 2.0]).reshape(8, 1, 1)
    x = np.random.default_rng(seed).normal(size=(256, 8, 6, 6)) * std + mean
    return {"x": x.astype(np.float32)}


def output(module: Module, feed: dict[str, Array]) -> Array:
    return interpret(module, feed)["y"].astype(np.float64)


@pytest.mark.parametrize(("low", "high"), [(0.0, np.inf), (0.0, 6.0), (-1.0, 0.5), (-np.inf, 0.2)])
def test_a_clipped_normal_has_the_moments_of_numerical_integration(low: float, high: float) -> None:
    mean, s = np.array([-8.0, -1.0, 0.0, 0.3, 5.0, 40.0]), np.array([1.0, 2.0, 0.5, 1e-6, 4.0, 1.0])
    found = clipped(Moments(mean, s**2), low, high)
    z = np.linspace(-12, 12, 400_001)
    for i in range(len(mean)):
        y = np.clip(mean[i] + s[i] * z, low, high)
        p = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
        first = np.trapezoid(y * p, z)
        second = np.trapezoid(y * y * p, z) - first**2
        # the grid's own error at the kinks is about 1e-9 of the range
        assert found.mean[i] == pytest.approx(first, abs=1e-7)
        assert found.variance[i] == pytest.approx(second, abs=1e-6)


def test_moments_are_those_of_normal_data() -> None:
    module = parse(TEXT)
    (found,) = [m for name, m in moments(module.main).items() if name == "r"]
    n = normal(0)["x"]
    k = {name: a.reshape(1, 8, 1, 1) for name, a in constants(module).items() if a.shape == (8,)}
    r = np.clip((n - k["m"]) / np.sqrt(k["v"]) * k["g"] + k["b"], 0, 6)
    count = 256 * 36
    near = 5 * r.std((0, 2, 3)) / np.sqrt(count)  # five standard errors
    assert (np.abs(r.mean((0, 2, 3)) - found.mean) <= near + 1e-6).all()
    np.testing.assert_allclose(r.var((0, 2, 3)), found.variance, rtol=0.15, atol=1e-4)


def constants(module: Module) -> dict[str, Array]:
    found = {r.hint: op.kind for op in module.main for r in op.results}
    return {name: kind.data.numpy() for name, kind in found.items() if isinstance(kind, Const)}


def test_analytic_correction_takes_the_mean_error_out() -> None:
    original, module = parse(TEXT), parse(TEXT)
    calibration = SampleRuns(lambda: [normal(1)], 1, "seeded", origin=parse(TEXT))
    ctx = Context(evaluate=evaluate_opaque, samples=calibration)
    run_pipeline(parse_pipeline("calibrate{method=minmax},quantize{bits=3}"), module, ctx)
    plain = clone_module(module)
    run_pipeline(parse_pipeline("bias_correct{method=analytic}"), module, ctx)
    fresh = normal(2)
    want = output(original, fresh)
    before, after = (np.abs((output(m, fresh) - want).mean((0, 2, 3))) for m in (plain, module))
    # what is left is the rounding of activations and the sample's own mean, both far smaller
    assert after.max() < 0.1 * before.max()


def test_without_batch_norm_a_sentence_says_so() -> None:
    text = "\n".join(line for line in TEXT.splitlines() if "batch_norm" not in line)
    module = parse(text.replace("clip(%n)", "clip(%x)"))
    given = SampleRuns(lambda: [normal(1)], 1, "seeded", origin=clone_module(module))
    ctx = Context(evaluate=evaluate_opaque, samples=given)
    passes = "calibrate,quantize,bias_correct{method=analytic}"
    records = run_pipeline(parse_pipeline(passes), module, ctx)
    assert any("no BatchNorm tells" in note for note in records[-1].notes)
