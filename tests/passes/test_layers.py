"""What lossy passes know of layers: Gram matrices of their inputs, sensitivities, gains."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphopt import parse
from graphopt.activations import SampleRuns
from graphopt.analysis.bind import bind
from graphopt.analysis.interpret import interpret
from graphopt.analysis.price import graph_of
from graphopt.errors import InputError
from graphopt.generate import noise, sample_runs
from graphopt.ir.clone import returning
from graphopt.ir.core import Module, Op
from graphopt.ops.nn import Conv
from graphopt.passes.layers.gain import gain
from graphopt.passes.layers.gram import grams, row_length
from graphopt.passes.layers.sensitivity import sensitivities
from graphopt.pipeline import Context, parse_pipeline, run_pipeline

TEXT = """graph @main(%x: f32[1,4,6,6]) {
  %w = const rand 1 : f32[8,2,3,3]
  %c = conv(%x, %w) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1],group=2} @ "first"
  %r = relu(%c)
  %v = const rand 2 : f32[3,8,1,1]
  %y = conv(%r, %v) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "last"
  return(%y) {names=[y]}
}"""


def module_and_samples() -> tuple[Module, SampleRuns, list[np.ndarray]]:
    xs = [np.random.default_rng(i).normal(size=(1, 4, 6, 6)).astype(np.float32) for i in range(12)]
    return parse(TEXT), SampleRuns(lambda: [{"x": x} for x in xs], len(xs), "given"), xs


def test_gram_matrices_are_those_of_the_windows() -> None:
    module, samples, xs = module_and_samples()
    first, last = [op for op in module.main if op.kind.name == "conv"]
    found = list(grams(module, [first, last], samples))
    assert (row_length(first), row_length(last)) == (18, 8)
    windows = np.concatenate([
        np.stack([np.pad(x[0], ((0, 0), (1, 1), (1, 1)))[:, i : i + 3, j : j + 3]
                  for i in range(6) for j in range(6)])
        for x in xs
    ])  # fmt: skip
    assert found[0].count == len(windows)  # few enough to take them all
    for g, moment in enumerate(found[0].moments()):
        rows = windows[:, 2 * g : 2 * g + 2].reshape(len(windows), -1)
        np.testing.assert_allclose(moment, rows.T @ rows / len(rows), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found[0].mean()[g], rows.mean(0), rtol=1e-5, atol=1e-5)
    (covariance,) = found[1].covariances()
    assert np.linalg.eigvalsh(covariance).min() > 0


@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0])
def test_what_hardly_varies_about_a_large_mean_is_not_lost_in_rounding(spread: float) -> None:
    """Else a covariance has negative eigenvalues, and nothing can be solved with it."""
    module = parse(TEXT)
    xs = [
        (300 + spread * np.random.default_rng(i).normal(size=(1, 4, 6, 6))).astype(np.float32)
        for i in range(12)
    ]
    samples = SampleRuns(lambda: [{"x": x} for x in xs], len(xs), "given")
    pixels = replace_pads(module)
    (found,) = grams(module, [pixels], samples)
    windows = np.concatenate([
        np.stack([x[0, 2:, i : i + 3, j : j + 3] for i in range(4) for j in range(4)]) for x in xs
    ])  # fmt: skip
    rows = windows.reshape(len(windows), -1).astype(np.float64)
    _, covariance = found.covariances()
    tolerance = 1e-5 * spread**2  # float32 products of what differs from the mean
    np.testing.assert_allclose(covariance, np.cov(rows.T, bias=True), atol=tolerance)
    _, moment = found.moments()
    np.testing.assert_allclose(moment, rows.T @ rows / len(rows), rtol=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e25])
def test_what_cannot_be_squared_is_said_of_the_layer_that_reads_it(value: float) -> None:
    module, _, xs = module_and_samples()
    xs[5][0, 1, 2, 3] = value
    samples = SampleRuns(lambda: [{"x": x} for x in xs], len(xs), "given")
    first = next(op for op in module.main if op.kind.name == "conv")
    (found,) = grams(module, [first], samples)
    with pytest.raises(InputError, match="what first reads on the samples isn't finite, or too"):
        list(found.covariances())


def test_outputs_that_are_not_finite_tell_nothing() -> None:
    module, _, xs = module_and_samples()
    values = [op.result for op in module.main if op.kind.name == "conv"]
    bad = [{"x": x * np.float32(np.nan)} for x in xs]
    with pytest.raises(InputError, match="no output of the model is finite on the samples"):
        sensitivities(module, values, SampleRuns(lambda: bad, len(bad), "given"))
    some = [{"x": x if i % 2 else x * np.float32(np.nan)} for i, x in enumerate(xs)]
    found = sensitivities(module, values[1:], SampleRuns(lambda: some, len(some), "given"))
    np.testing.assert_allclose(found, 1.0, rtol=0.2)  # noise of another sum of numbers


def replace_pads(module: Module) -> Op:
    """The first convolution, which pads no more."""
    first = next(op for op in module.main if op.kind.name == "conv")
    assert isinstance(first.kind, Conv)
    first.kind = replace(first.kind, pads=(0, 0, 0, 0))
    return first


def test_noise_on_an_output_stays_as_it_is() -> None:
    module, samples, _ = module_and_samples()
    values = [op.result for op in module.main if op.kind.name == "conv"]
    before = module.to_text()
    first, last = sensitivities(module, values, samples)
    assert last == pytest.approx(1, rel=0.15)  # 108 numbers: their power is off by 1 / sqrt(54)
    assert 0.05 < first < 2  # the last layer averages it, relu takes half
    assert module.to_text() == before


@pytest.mark.parametrize("end", [
    "%y = softmax(%s) {axis=1}",
    "%a = sigmoid(%s)\n  %y = transpose(%a) {perm=[0,2,3,1]}",
    "%a = softmax(%s) {axis=1}\n  %b = transpose(%a) {perm=[0,2,3,1]}\n"
    "  %y = arg_max(%b) {axis=3,keepdims=false}",
])  # fmt: skip
def test_noise_is_measured_before_a_softmax_hides_it(end: str) -> None:
    """A model that is sure of all its answers: noise on its logits wouldn't reach its outputs."""
    module, samples, _ = module_and_samples()
    sure = parse(
        TEXT.replace(
            "  return",
            f"  %k = const splat 1000.0 : f32[1]\n  %s = mul(%y0, %k)\n  {end}\n  return",
        ).replace("%y = conv", "%y0 = conv")
    )
    both = [sensitivities(m, [op.result for op in m.main if op.kind.name == "conv"], samples)
            for m in (module, sure)]  # fmt: skip
    assert both[0] == pytest.approx(both[1], rel=1e-3)  # times 1000 in float32


def test_gains_without_a_target_are_multiply_adds() -> None:
    module, _, _ = module_and_samples()
    first, last = (graph_of([op]) for op in module.main if op.kind.name == "conv")
    assert gain(first, last, None, "time") == (36 * (8 * 18 - 3 * 8), "MACs")
    assert gain(first, last, None, "size") == (4 * (8 * 18 - 3 * 8), "bytes")


NORMED = """graph @main(%x: f32[N,3,16,16]) {
  %w1 = const rand 1 : f32[16,3,3,3]
  %c1 = conv(%x, %w1) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "first"
  %g = const splat 1.0 : f32[16]
  %b = const rand 3 : f32[16]
  %m = const rand 4 : f32[16]
  %v = const splat 2.0 : f32[16]
  %n1 = batch_norm(%c1, %g, %b, %m, %v) {epsilon=1e-5} @ "norm"
  %r1 = relu(%n1) @ "relu"
  %w2 = const rand 5 : f32[16,16,3,3]
  %c2 = conv(%r1, %w2) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "second"
  %p = reduce_mean(%c2) {axes=[2,3],keepdims=false} @ "pool"
  return(%p) {names=[y]}
}"""


def test_without_data_errors_are_those_of_the_changed_model() -> None:
    """Values that the original has too come from it, except where two models are compared."""
    module = parse(NORMED)
    bind(module)
    samples = sample_runs(module, None, lambda: parse(NORMED))
    assert samples.data == "generated"
    run_pipeline(parse_pipeline("fold,fuse"), module, Context())
    found = [op.result for op in module.main if op.kind.name == "conv"]
    first, last = sensitivities(module, [*found, module.main.outputs[0]][1:], samples)
    assert last == pytest.approx(1, rel=0.7)  # 16 numbers: their power is off by 1 / sqrt(8)
    assert 0 < first < 1  # the mean over an image takes most of white noise away


@pytest.mark.parametrize("passes", ["sparsify{ratio=0.6}", "cluster{bits=3}"])
def test_generated_samples_are_better_than_none(passes: str) -> None:
    """Weights are fitted to what layers read, which the memory of a BatchNorm tells."""
    offset = np.array([2, 0, -2], np.float32).reshape(1, 3, 1, 1)
    feeds = [{"x": (noise((1, 3, 16, 16), s) + offset).astype(np.float32)} for s in range(32)]
    text = remembering(feeds)
    bind(exact := parse(text))
    wanted, errors = [interpret(exact, feed)["y"] for feed in feeds], list[float]()
    for data in (True, False):
        bind(module := parse(text))
        samples = sample_runs(module, None, lambda: parse(text)) if data else None
        run_pipeline(parse_pipeline(f"fold,fuse,{passes}"), module, Context(samples=samples))
        got = [interpret(module, feed)["y"] for feed in feeds]
        errors.append(float(np.square(np.subtract(got, wanted)).sum()))
    assert 0 < errors[0] < 0.7 * errors[1]


def remembering(feeds: list[dict[str, Any]]) -> str:
    """NORMED with a BatchNorm that has seen these."""
    bind(module := parse(NORMED))
    first = next(op.result for op in module.main if op.kind.name == "conv")
    seen = np.concatenate([interpret(returning(module, [first]), f)["value/0"] for f in feeds])
    text = NORMED
    for old, new in (("rand 4", seen.mean((0, 2, 3))), ("splat 2.0", seen.var((0, 2, 3)))):
        text = text.replace(f"const {old}", f"const dense {new.tolist()}")
    return text


def test_means_of_generated_images_correct_nothing() -> None:
    """They are others than those of real ones: fmnist_resnet8 fell to 15 % right answers by them."""
    module = parse(NORMED)
    bind(module)
    samples = sample_runs(module, None, lambda: parse(NORMED))
    passes = parse_pipeline("fold,fuse,calibrate,quantize,bias_correct")
    records = run_pipeline(passes, module, Context(samples=samples))
    assert [r.changed for r in records[-2:]] == [True, False]
    assert "generated inputs" in records[-1].notes[0]


def test_lowrank_without_data_chooses_by_error() -> None:
    module = parse(NORMED)
    bind(module)
    samples = sample_runs(module, None, lambda: parse(NORMED))
    passes = parse_pipeline("fold,fuse,lowrank{method=svd,ratio=0.3}")
    settled = run_pipeline(passes, module, Context(samples=samples))[-1].settled
    assert settled and settled.kept and all(c.error > 0 for c in settled.kept)


@pytest.mark.parametrize("after", ["cluster{bits=3}", "lowrank{rank=4,method=svd}", "calibrate"])
def test_values_that_lost_channels_are_made_anew_without_data(after: str) -> None:
    """The original's values of these names have other shapes."""
    module = parse(NORMED)
    bind(module)
    samples = sample_runs(module, None, lambda: parse(NORMED))
    passes = parse_pipeline(f"fold,fuse,prune{{ratio=0.3,criterion=l2}},{after}")
    records = run_pipeline(passes, module, Context(samples=samples))
    assert records[-2].changed and records[-1].changed
