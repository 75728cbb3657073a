"""equalize, smooth, adaround, bias_correct: the float function stays, the error gets smaller."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphopt.activations import SampleRuns
from graphopt.analysis.interpret import interpret, random_inputs
from graphopt.errors import InputError
from graphopt.ir.builtin import Const
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.ir.types import Array
from graphopt.ir.verify import verify
from graphopt.onnx.evaluate import evaluate_opaque
from graphopt.ops.quant import Dequantize
from graphopt.passes.layers.unfold import columns, positions, rows, unrows
from graphopt.passes.quantize.bias import shift
from graphopt.passes.quantize.nearer import kept_if_nearer
from graphopt.passes.quantize.rounding import cost, damped, descend
from graphopt.pipeline import Context, PassResult, parse_pipeline, run_pipeline
from graphopt.rewrite import Remark
from graphopt.rewrite.match import array
from tests.changed import changed, constants

RUNS = 24

NETWORK = """graph @main(%x: f32[1,6,8,8]) {
  %w0 = const rand 1 : f32[8,6,3,3]
  %b0 = const rand 2 : f32[8]
  %y0 = conv(%x, %w0, %b0) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "first"
  %r0 = relu(%y0) @ "relu"
  %w1 = const rand 3 : f32[8,1,3,3]
  %y1 = conv(%r0, %w1) {strides=[2,2],pads=[0,0,1,1],dilations=[1,1],group=8} @ "depthwise"
  %r1 = relu(%y1) @ "relu2"
  %w2 = const rand 4 : f32[12,4,1,1]
  %y2 = conv(%r1, %w2) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1],group=2} @ "grouped"
  %p = reduce_mean(%y2) {axes=[2,3],keepdims=false} @ "mean"
  %w3 = const rand 5 : f32[12,5]
  %z = matmul(%p, %w3) @ "product"
  %w4 = const rand 6 : f32[3,5]
  %b4 = const rand 7 : f32[3]
  %o = gemm(%z, %w4, %b4) {trans_b=true} @ "last"
  return(%o) {names=[o]}
}"""

NORM = """graph @main(%x: f32[1,10,16]) {
  %g = const rand 1 : f32[16]
  %b = const rand 2 : f32[16]
  %n = layer_norm(%x, %g, %b) @ "norm"
  %w = const rand 3 : f32[16,24]
  %c = const rand 4 : f32[24]
  %m = matmul(%n, %w) @ "product"
  %y = add(%m, %c) @ "bias"
  return(%y) {names=[y]}
}"""

ONE = """graph @main(%x: f32[1,6,8,8]) {
  %w = const rand 1 : f32[8,6,3,3]
  %b = const rand 2 : f32[8]
  %y = conv(%x, %w, %b) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "only"
  return(%y) {names=[y]}
}"""


def samples(module: Module, count: int = RUNS) -> SampleRuns:
    """Seeded inputs whose elements go together, and aren't 0 on average."""
    copy = clone_module(module)
    feeds = [random_inputs(copy, seed) for seed in range(count + 3)]
    shares = np.random.default_rng(0).normal(0.5, 1, (count, 3)).astype(np.float32)
    mixed: list[dict[str, Array]] = []
    for i in range(count):
        parts = zip(shares[i], feeds[count:], strict=True)
        mixed.append({"x": 0.3 * feeds[i]["x"] + sum(s * part["x"] for s, part in parts)})
    return SampleRuns(lambda: mixed, count, "seeded")


def run(module: Module, passes: str, given: SampleRuns | None) -> tuple[Remark, ...]:
    """Run passes in place; give the last one's remarks."""
    ctx = Context(evaluate=evaluate_opaque, samples=given)
    records = run_pipeline(parse_pipeline(passes), module, ctx)
    verify(module)
    return records[-1].remarks


def outputs(module: Module, given: SampleRuns) -> Array:
    """The first output for all samples."""
    found = [interpret(module, feed, opaque=evaluate_opaque) for feed in given.feeds()]
    return np.stack([next(iter(f.values())) for f in found]).astype(np.float64)


def noise(module: Module, original: Module, given: SampleRuns) -> float:
    """The squared error of the outputs on samples."""
    return float(np.mean((outputs(module, given) - outputs(original, given)) ** 2))


def weights(module: Module) -> dict[str, Array]:
    """The constant weights of layers, by the layer's node."""
    found = [op for op in module.main if op.kind.name in ("conv", "matmul", "gemm")]
    made = [(op.loc.nodes[0], op.operand(1).op) for op in found]
    return {name: op.kind.data.numpy() for name, op in made if op and isinstance(op.kind, Const)}


@pytest.mark.parametrize(
    "passes", ["equalize", "smooth", "smooth{alpha=0.7}", "smooth{makers=all}"]
)
@pytest.mark.parametrize("text", [NETWORK, NORM])
def test_scales_leave_the_float_function(text: str, passes: str) -> None:
    module = parse(text)
    given = samples(module)
    before = outputs(module, given)
    run(module, passes, given)
    near = 1e-5 * np.abs(before).max()
    np.testing.assert_allclose(outputs(module, given), before, rtol=1e-4, atol=near)


def test_powers_of_two_leave_every_bit() -> None:
    module = parse(NETWORK)
    given = samples(module)
    before = outputs(module, given)
    assert any(r.applied for r in run(module, "equalize{exact=true}", given))
    np.testing.assert_array_equal(outputs(module, given), before)


def test_equalized_ranges_are_equal() -> None:
    module = parse(NETWORK)
    run(module, "equalize", None)
    w = weights(module)
    first = np.abs(w["first"]).max(axis=(1, 2, 3))
    second = np.abs(w["depthwise"]).max(axis=(1, 2, 3))
    np.testing.assert_allclose(first, second, rtol=0.01)
    third = np.abs(w["grouped"]).reshape(2, 6, 4).max(axis=1).reshape(-1)
    np.testing.assert_allclose(second, third, rtol=0.01)


def test_equalizing_saves_scales_for_a_whole_weight() -> None:
    spoilt = NETWORK.replace(
        "%r1 =", "%k = const rand 9 : f32[1,8,1,1]\n  %y = mul(%y1, %k)\n  %r1 ="
    )
    spoilt = spoilt.replace("relu(%y1) @", "relu(%y) @")
    original, plain, equal = parse(spoilt), parse(spoilt), parse(spoilt)
    given = samples(original)
    run(plain, "calibrate,quantize{weights=per_tensor}", given)
    run(equal, "equalize,calibrate,quantize{weights=per_tensor}", given)
    assert noise(equal, original, given) < noise(plain, original, given)


def test_values_that_are_scaled_have_other_names() -> None:
    module = parse(NETWORK)
    before = {r.hint for op in module.main for r in op.results}
    run(module, "equalize", None)
    kept = before & {r.hint for op in module.main for r in op.results}
    assert kept == {"b4", "o"}


@pytest.mark.parametrize("passes", ["equalize", "smooth{makers=all}"])
def test_ranges_noted_before_are_no_more(passes: str) -> None:
    module = parse(NETWORK)
    with pytest.raises(InputError, match="put `calibrate` before `quantize`"):
        run(module, f"calibrate,{passes},quantize", samples(module))


def test_smoothing_moves_outliers_into_weights() -> None:
    text = NORM.replace("%g = const rand 1", "%g = const dense [40.0" + ", 1.0" * 15 + "]")
    original, plain, smooth = parse(text), parse(text), parse(text)
    given = samples(original)
    run(plain, "calibrate,quantize", given)
    run(smooth, "smooth,calibrate,quantize", given)
    assert noise(smooth, original, given) < 0.3 * noise(plain, original, given)


GELU = """graph @main(%x: f32[1,24,16]) {
  %w0 = const rand 1 : f32[16,32]
  %h = matmul(%x, %w0) @ "first"
  %far = const dense [LIST] : f32[32]
  %m = mul(%h, %far) @ "outlier"
  %a = gelu(%m) @ "gelu"
  %w1 = const rand 2 : f32[32,8]
  %o = matmul(%a, %w1) @ "second"
  return(%o) {names=[o]}
}""".replace("LIST", ", ".join(["60.0"] + ["1.0"] * 31))


def test_an_outlier_channel_of_an_activation_function_gets_a_factor() -> None:
    original, plain, smooth = parse(GELU), parse(GELU), parse(GELU)
    given = samples(original)
    run(plain, "calibrate{method=minmax},quantize", given)
    remarks = run(smooth, "smooth", given)
    assert any(r.applied for r in remarks)
    near = 1e-5 * np.abs(outputs(original, given)).max()
    np.testing.assert_allclose(outputs(smooth, given), outputs(original, given), 1e-4, near)
    run(smooth, "calibrate{method=minmax},quantize", given)
    # 3 dB: the channel's weights are the largest of their rows now, which costs some of it
    assert noise(smooth, original, given) < 0.5 * noise(plain, original, given)


def test_a_value_that_others_read_gets_no_factor() -> None:
    text = GELU.replace("return(%o) {names=[o]}", "return(%o, %a) {names=[o,a]}")
    module = parse(text)
    assert not any(r.applied for r in run(module, "smooth{makers=norms}", samples(module)))


@pytest.mark.parametrize("seed", range(5))
def test_descent_is_never_worse_than_the_nearest_integers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(150, 300)) + rng.normal(size=(1, 300))  # inputs that go together
    h, w = damped(x @ x.T / 300, 3000)[None], rng.uniform(-127, 127, (1, 20, 150))
    q = np.rint(w)
    found = descend(w, q, h, 127, 8)
    assert (cost(w, found, h) <= cost(w, q, h) * (1 + 1e-6)).all()
    assert cost(w, found, h).sum() < 0.7 * cost(w, q, h).sum()
    assert np.abs(found).max() <= 127
    np.testing.assert_array_equal(found, np.rint(found))


def test_descent_finds_the_best_of_a_small_weight() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4, 40)) + 2 * rng.normal(size=(1, 40))
    h, w = damped(x @ x.T / 40, 400)[None], rng.uniform(-7, 7, (1, 30, 4))
    corners = np.stack(np.meshgrid(*[[0, 1]] * 4), -1).reshape(-1, 4)
    best = np.min([cost(w, np.floor(w) + c, h) for c in corners], axis=0)
    found = cost(w, descend(w, np.rint(w), h, 127, 50), h)
    assert found.mean() < 1.2 * best.mean()


def test_groups_descend_alike_together_and_alone() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(6, 9, 60)) + 2 * rng.normal(size=(6, 1, 60))
    h = np.stack([damped(one @ one.T / 60, 600) for one in x])
    w = rng.uniform(-127, 127, (6, 3, 9))
    together = descend(w, np.rint(w), h, 127, 8)
    assert (together != np.rint(w)).any(axis=(1, 2)).all()
    for g in range(6):
        alone = descend(w[g : g + 1], np.rint(w[g : g + 1]), h[g : g + 1], 127, 8)
        np.testing.assert_array_equal(together[g], alone[0])


def test_columns_are_what_the_layers_multiply() -> None:
    module = parse(NETWORK)
    (feed,) = samples(module, 1).feeds()
    values: dict[Any, Array] = {}
    interpret(
        module, feed, observe=lambda op, found: values.update(zip(op.results, found, strict=True))
    )
    values.update({a: feed[a.hint] for a in module.main.args})
    for op in [op for op in module.main if op.kind.name in ("conv", "matmul", "gemm")]:
        x, w = (values[op.operand(i)] for i in (0, 1))
        taken = columns(op, x, np.arange(positions(op, x)))
        y = rows(op, w) @ taken
        made = (
            np.moveaxis(values[op.result], 1, 0) if op.kind.name == "conv" else values[op.result].T
        )
        bias = values[op.operands[2]] if len(op.operands) > 2 and op.operands[2] else np.zeros(1)
        got = y.reshape(-1, y.shape[-1]) + bias.reshape(-1, 1)
        np.testing.assert_allclose(got, made.reshape(len(got), -1), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(unrows(op, rows(op, w), w.shape), w)


@pytest.mark.parametrize(("text", "least"), [(NETWORK, 1.0), (NORM, 1.0), (ONE, 0.8)])
@pytest.mark.parametrize("activations", ["u8", "f32"])
def test_adaround_lowers_the_error(text: str, least: float, activations: str) -> None:
    original, plain, better = parse(text), parse(text), parse(text)
    given = samples(original)
    passes = f"calibrate,quantize{{bits=4,activations={activations}}}"
    run(plain, passes, given)
    remarks = run(better, f"{passes},adaround", given)
    assert any(r.applied for r in remarks)
    assert noise(better, original, given) < least * noise(plain, original, given)


@pytest.mark.parametrize("text", [NETWORK, NORM])
def test_bias_correction_takes_the_mean_error_away(text: str) -> None:
    original, plain, better = parse(text), parse(text), parse(text)
    given = samples(original)
    passes = "calibrate,quantize{bits=5}"
    run(plain, passes, given)
    run(better, f"{passes},bias_correct", given)
    wanted = outputs(original, given)
    others = tuple(range(wanted.ndim - 1))
    before, after = (np.abs((outputs(m, given) - wanted).mean(others)) for m in (plain, better))
    assert after.sum() < 0.1 * before.sum()


def test_one_layer_is_corrected_exactly() -> None:
    for text in (ONE, ONE.replace(", %b)", ")")):
        original, better = parse(text), parse(text)
        given = samples(original)
        run(better, "calibrate,quantize{bits=4},bias_correct", given)
        error = (outputs(better, given) - outputs(original, given)).mean((0, 1, 3, 4))
        (bias,) = [op.operand(2).op for op in better.main if op.kind.name == "conv"]
        assert bias and isinstance(bias.kind, Dequantize)
        unit = array(bias.operand(1))
        assert (np.abs(error) < 0.51 * unit).all()


def test_of_several_repairs_the_nearest_is_kept() -> None:
    module = parse(ONE)
    given = samples(module)
    ctx = Context(evaluate=evaluate_opaque, samples=given)
    run_pipeline(parse_pipeline("calibrate,quantize"), module, ctx)
    good = outputs(module, given)

    def moved(by: float) -> Callable[[Module], PassResult]:
        def repair(m: Module) -> PassResult:
            (op,) = [op for op in m.main if op.kind.name == "conv"]
            return PassResult(shift(op, np.full(8, by)), notes=(f"{by}",))

        return repair

    undone = kept_if_nearer("mend", module, ctx, moved(-1.0), moved(0.5))
    assert not undone.changed
    np.testing.assert_array_equal(outputs(module, given), good)
    assert moved(1.0)(module).changed
    kept = kept_if_nearer("mend", module, ctx, moved(-0.5), moved(-1.0), moved(-3.0))
    assert kept.notes == ("-1.0",)
    unit = 2e-3  # of the sums, which a bias is a whole number of
    np.testing.assert_allclose(outputs(module, given), good, rtol=0, atol=unit)


@pytest.mark.parametrize(
    ("passes", "told"),
    [
        ("equalize{iterations=0}", "iterations=0"),
        ("smooth{alpha=1.5}", "alpha=1.5 is neither auto nor a number from 0 to 1"),
        ("smooth{samples=0}", "samples=0"),
        ("calibrate,quantize,adaround{samples=0}", "samples=0"),
        ("calibrate,quantize,adaround{iterations=0}", "iterations=0"),
        ("calibrate,quantize,bias_correct{samples=-1}", "samples=-1"),
    ],
)
def test_bad_options_are_one_sentence(passes: str, told: str) -> None:
    module = parse(NORM)
    with pytest.raises(InputError, match=re.escape(told)):
        run(module, passes, samples(module, 2))


@pytest.mark.parametrize("passes", ["smooth", "quantize{activations=f32},adaround"])
def test_without_samples_is_one_sentence(passes: str) -> None:
    with pytest.raises(InputError, match="no samples"):
        run(parse(NORM), passes, None)


@pytest.mark.parametrize("passes", ["adaround", "bias_correct"])
def test_a_model_of_floats_is_left(passes: str) -> None:
    module = parse(NORM)
    text = module.to_text()
    (remark,) = run(module, passes, samples(module, 2))
    assert "goes after `quantize`" in remark.text
    assert module.to_text() == text


def test_a_rewrite_that_is_not_permitted_leaves_the_layer() -> None:
    module = parse(NETWORK)
    text = module.to_text()
    ctx = Context(permit=lambda rule, loc: False, samples=samples(module))
    run_pipeline(parse_pipeline("equalize,smooth"), module, ctx)
    assert module.to_text() == text


def test_a_repair_is_judged_by_what_a_softmax_is_made_of() -> None:
    """The probabilities of a model that is sure of its answers hide a repair that does harm."""
    sure = """%k = const splat 100.0 : f32[]
      %q = mul(%o, %k)
      %e = softmax(%q) {axis=1}
      return(%e)"""
    results = list[PassResult]()
    for text in (NETWORK, NETWORK.replace("return(%o)", sure)):
        before = parse(text)
        ctx = Context(samples=samples(before), before=before)
        slightly, more = (
            changed(before, {"w4": (1 + part) * constants(before)["w4"]}) for part in (1e-3, 2e-3)
        )

        def worse(module: Module, by: Module = more) -> PassResult:
            module.main = by.main
            return PassResult(True)

        text = slightly.to_text()
        results.append(kept_if_nearer("worse", slightly, ctx, worse))
        assert slightly.to_text() == text
    assert not any(r.changed for r in results)
    assert results[0].notes == results[1].notes
    assert "60.0 -> 54.0 dB" in results[0].notes[0]
