"""calibrate, quantize and choices: ranges, where integers stand, what is taken back and why."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.activations import SampleRuns
from graphopt.analysis.interpret import interpret
from graphopt.errors import InputError
from graphopt.ir.builtin import Const
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Loc, Module, Op, Value
from graphopt.ir.data import Inline
from graphopt.ir.parser import parse
from graphopt.loss import decibels, share
from graphopt.ops.quant import Calibrated, Quantize
from graphopt.passes.quantize.account import layer_errors
from graphopt.passes.quantize.calibrate import Calibrate
from graphopt.passes.quantize.insert import QuantizePass
from graphopt.pipeline import Context, parse_pipeline
from graphopt.targets.base import Build
from graphopt.targets.x86 import X86

MODELS = Path(__file__).parents[2] / "models"

BRANCHES = """graph @main(%x: f32[1,4,8,8]) {
  %w = const rand 1 : f32[8,4,3,3]
  %c = conv(%x, %w) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "first"
  %r = relu(%c) @ "relu"
  %p = max_pool(%r) {kernel=[2,2],strides=[2,2],pads=[0,0,0,0],dilations=[1,1]} @ "pool"
  %v = const rand 2 : f32[8,8,1,1]
  %b = const rand 3 : f32[8]
  %d = conv(%p, %v, %b) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "second"
  %u = const rand 4 : f32[8,8,1,1]
  %e = conv(%p, %u) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "third"
  %j = concat(%d, %e) {axis=1} @ "join"
  %t = const rand 5 : f32[4,16,1,1]
  %y = conv(%j, %t) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "last"
  return(%y) {names=[y]}
}"""


def samples(count: int, shape: tuple[int, ...] = (4, 8, 8)) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(1, *shape)).astype(np.float32)} for _ in range(count)]


def quantized(text: str, passes: str, data: Iterable[Any] | None = None) -> Module:
    module = parse(text)
    return graphopt.optimize(_file(module), None, passes, data, check=False).module


def _file(module: Module) -> bytes:
    from graphopt.onnx import to_proto

    return to_proto(module).SerializeToString()


@dataclass
class Streamed(SampleRuns):
    """Arrays as a model's runs give them, made one after another; `seen` counts them."""

    seen: int = 0

    def watch(
        self, module: Module, values: Sequence[Value], runs: int | None = None, own: bool = False
    ) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
        rng = np.random.default_rng(0)
        for _ in range(runs or self.runs):
            self.seen += 1
            for i, value in enumerate(values):
                yield i, rng.normal(size=value.tensor.static or ()).astype(np.float32)


def test_calibration_takes_the_same_memory_for_10000_samples_as_for_100() -> None:
    """A histogram a value, and the values of one run: nothing grows with the samples."""
    peaks: list[int] = []
    for count in (100, 100, 10_000):  # what is imported or cached on the way isn't counted
        module = parse(BRANCHES)
        runs = Streamed(lambda: [], count, "given")
        tracemalloc.start()
        Calibrate(method="mse", samples=count).run(module, Context(samples=runs))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        noted = sum(isinstance(op.kind, Calibrated) for op in module.main)
        assert runs.seen == count // 2 and noted == 6  # the other half tells the loss
    # the values of 4,950 runs more would be 60 MB; searching fuller histograms takes 2 MB
    assert peaks[2] < peaks[1] + 4_000_000


def test_layers_without_a_name_are_named_by_calibrate() -> None:
    """It is by the names of their results that layers are found again beside the float model."""
    module = parse(BRANCHES)
    layers = {op.loc.nodes[0]: op for op in module.main if op.kind.name == "conv"}
    layers["second"].result.hint = layers["third"].result.hint = ""
    layers["third"].loc = layers["second"].loc  # two nodes of one name
    layers["first"].result.hint = ""
    layers["first"].loc = Loc()
    data = SampleRuns(lambda: samples(4), 4, "given")
    Calibrate().run(module, Context(samples=data))
    hints = [layers[n].result.hint for n in ("first", "second", "third", "last")]
    assert hints == ["conv_out", "second_out", "second_out_2", "y"]
    before = clone_module(module)
    QuantizePass().run(module, Context(samples=data, before=before))
    errors = layer_errors(module, before, data)
    assert len(errors) == 4 and all(row.own_db > 20 for row in errors)


def test_what_moves_connect_shares_a_range() -> None:
    module = quantized(BRANCHES, "calibrate", samples(4))
    found = {op.operand(0).hint: op.kind for op in module.main if isinstance(op.kind, Calibrated)}
    assert set(found) == {"x", "r", "p", "d", "e", "j"}
    assert found["r"] == found["p"]
    assert found["d"] == found["e"] == found["j"]
    assert found["x"] != found["r"]


def test_calibrating_again_forgets_the_first_ranges() -> None:
    once = quantized(BRANCHES, "calibrate{method=minmax}", samples(4))
    twice = quantized(BRANCHES, "calibrate,calibrate{method=minmax}", samples(4))
    assert twice.to_text() == once.to_text()


@pytest.mark.parametrize(
    ("method", "most"),
    # 30 dB: three layers of 8 bits; entropy clips more where it sees few numbers (2,000 here).
    [("minmax", 0.03), ("percentile", 0.03), ("mse", 0.03), ("entropy", 0.1)],
)
def test_quantized_answers_are_near(method: str, most: float) -> None:
    data = samples(8)
    module = quantized(BRANCHES, f"calibrate{{method={method},percent=99.9}},quantize", data)
    for feed in data[:3]:
        want, got = interpret(parse(BRANCHES), feed)["y"], interpret(module, feed)["y"]
        power = [float((v * v).mean()) for v in (got - want, want)]
        assert 0 < power[0] < most**2 * power[1]


def test_options_of_activations() -> None:
    data = samples(4)
    for options, dtype, zeros in (
        ("activations=s8", "i8", None), ("activations=s8,scheme=symmetric", "i8", {0}),
        ("scheme=symmetric", "u8", {0, 128}),
    ):  # fmt: skip
        module = quantized(BRANCHES, f"calibrate,quantize{{{options}}}", data)
        ops = [op for op in module.main if isinstance(op.kind, Quantize)]
        assert {str(op.kind.dtype) for op in ops if isinstance(op.kind, Quantize)} == {dtype}
        points = {int(op.operand(2).op.kind.data.numpy()) for op in ops}  # type: ignore[union-attr]  # pyright: ignore
        assert zeros is None or points <= zeros


def test_weights_alone_need_no_samples() -> None:
    module = quantized(BRANCHES, "quantize{activations=f32}")
    assert not any(isinstance(op.kind, Quantize) for op in module.main)
    (feed,) = samples(1)
    want, got = interpret(parse(BRANCHES), feed)["y"], interpret(module, feed)["y"]
    assert 0 < np.abs(got - want).max() < 0.02 * np.abs(want).max()


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        ("quantize", "nothing is calibrated"),
        ("calibrate{percent=20},quantize", "percent=20 isn't between 50 and 100"),
        ("calibrate{samples=0},quantize", "samples=0"),
        ("calibrate,quantize{bits=9}", "bits=9"),
        ("calibrate,quantize{skip=[secnd]}", "no layer's name has 'secnd' in it; did you mean"),
    ],
)
def test_bad_options(passes: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        quantized(BRANCHES, passes, samples(4))


def test_skipped_layers_stay_float_and_say_so() -> None:
    result = graphopt.optimize(_file(parse(BRANCHES)), None,
                               "calibrate,quantize{skip=[second,last]}", samples(4), check=False)  # fmt: skip
    remarks = [r for p in result.report.passes for r in p.remarks if not r.applied]
    assert [(r.loc.nodes, r.text) for r in remarks] == [
        (("second",), "skipped, as asked"), (("last",), "skipped, as asked"),
    ]  # fmt: skip
    convs = {op.result.hint: op for op in result.module.main if op.kind.name == "conv"}
    floats = {n for n, op in convs.items() if op.operand(1).op.kind.name == "const"}  # type: ignore[union-attr]  # pyright: ignore
    assert floats == {"d", "y"}


def test_seven_bits_cannot_saturate() -> None:
    from graphopt.passes.quantize.lint import saturating

    data = samples(4)
    assert saturating(quantized(BRANCHES, "calibrate,quantize", data))
    assert not saturating(quantized(BRANCHES, "calibrate,quantize{bits=7}", data))


POOLED = """graph @main(%x: f32[1,4,16,16]) {
  %w = const rand 1 : f32[16,4,3,3]
  %c = conv(%x, %w) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "first"
  %r = relu(%c) @ "relu"
  %p = max_pool(%r) {kernel=[2,2],strides=[2,2],pads=[0,0,0,0],dilations=[1,1]} @ "pool"
  %v = const rand 2 : f32[16,16,3,3]
  %d = conv(%p, %v) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "second"
  %s = add(%d, %p) @ "sum"
  %u = const rand 4 : f32[8,16,1,1]
  %y = conv(%s, %u) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "last"
  return(%y) {names=[y]}
}"""


def test_a_pool_after_a_sum_is_of_integers_beside_a_residual_addition() -> None:
    """Else the pool works on floats, for the addition alone, and is rounded after it."""
    program = X86("avx512vnni").lower(
        quantized(POOLED, "calibrate,quantize", samples(4, (4, 16, 16)))
    )
    pools = [k for k in program.kernels if "max_pool" in k.text]
    assert [k.text.count("f32[") for k in pools] == [0]


def test_a_bias_that_is_large_for_its_channel_leaves_the_layer_in_integers() -> None:
    """Of a channel without weights the bias is all; so training leaves many of MobileNets'."""
    rng = np.random.default_rng(0)
    module = parse(POOLED)
    data = samples(4, (4, 16, 16))
    (conv,) = (op for op in module.main if op.results and op.result.hint == "d")
    w, b = rng.normal(size=(16, 16, 3, 3)).astype(np.float32), np.ones(16, np.float32)
    w[:4] *= np.float32(1e-12)
    w[4] = 0
    graph = module.main
    made = [graph.insert(Op(Const(Inline(a)), ()), conv).result for a in (w, b)]
    conv.set_operand(1, made[0])
    conv.set_operand(2, made[1])
    result = graphopt.optimize(_file(module), None, "calibrate,quantize", data, check=False)
    kinds = {k for step in X86("avx512vnni").lower(result.module).steps for k in step.ops}
    assert not {"conv", "conv_winograd"} & kinds
    for feed in data:
        (want,), (got,) = (interpret(m, feed).values() for m in (module, result.module))
        assert decibels(np.sum(want**2.0), np.sum((got - want) ** 2.0)) > 30


def test_a_real_model_is_compiled_to_the_integers_that_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without prices every layer is int8; with them some CPUs would keep layers in float."""

    def unpriced(target: X86, threads: int) -> None:
        """What a target says where nothing can be measured."""

    monkeypatch.setattr(X86, "costs", unpriced)
    result = graphopt.optimize(
        MODELS / "fmnist_resnet8.onnx", X86(), "default,calibrate{samples=64},quantize",
        MODELS / "data" / "fmnist.npz", build=Build(cache=tmp_path / "cache"), threads=2,
    )  # fmt: skip
    report = result.report
    assert [c.what for c in report.checks][-1] == "the compiled bundle, against numpy in integers,"
    (loss,) = report.losses
    assert loss.samples == 1000 - 64
    assert loss.before is not None
    assert loss.drop.mean < 0.7
    assert loss.sqnr_db > 28
    assert result.program is not None
    kinds = {k for call in result.program.steps for k in call.ops}
    assert "conv" not in kinds
    assert "conv_integer" in kinds
    assert any("in int8" in note for note in report.notes)


def test_shares_have_wilsons_interval() -> None:
    all_right = share([1.0] * 100)
    assert (all_right.mean, round(all_right.low, 1)) == (100, 96.3)
    assert share([1, 0] * 50).margin == pytest.approx(9.6, abs=0.1)
    assert parse_pipeline("calibrate,quantize")[1].effect == "lossy"


NORMED = """graph @main(%x: f32[N,3,16,16]) {
  %w = const rand 1 : f32[8,3,3,3]
  %c = conv(%x, %w) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "first"
  %s = const dense [2.0,2.0,2.0,2.0,0.5,0.5,0.5,0.5] : f32[8]
  %b = const dense [0.0,1.0,2.0,3.0,0.0,0.0,0.0,0.0] : f32[8]
  %m = const dense [40.0,40.0,40.0,40.0,40.0,40.0,40.0,40.0] : f32[8]
  %v = const dense [900.0,900.0,900.0,900.0,900.0,900.0,900.0,900.0] : f32[8]
  %n = batch_norm(%c, %s, %b, %m, %v) @ "norm"
  %u = const rand 4 : f32[4,8,1,1]
  %y = conv(%n, %u) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "last"
  return(%y) {names=[y]}
}"""


def test_without_data_ranges_come_from_what_batch_norms_remember() -> None:
    """Channels of mean 0 to 3 and deviation 2: nearly all lie in [-8, 11]."""
    result = graphopt.optimize(_file(parse(NORMED)), None,
                               "default,calibrate{method=minmax}", check=False)  # fmt: skip
    found = {op.operand(0).hint: op.kind for op in result.module.main
             if isinstance(op.kind, Calibrated)}  # fmt: skip
    assert -16 < found["n"].low < -5
    assert 8 < found["n"].high < 20
    lossy = graphopt.optimize(_file(parse(NORMED)), None, "default,calibrate,quantize")
    assert any("generated images" in note for note in lossy.report.notes)
    assert lossy.report.losses[0].data == "generated"


def test_without_data_or_batch_norms_the_note_warns() -> None:
    result = graphopt.optimize(_file(parse(BRANCHES)), None, "calibrate,quantize")
    assert any("ranges may be far from real ones" in note for note in result.report.notes)


def test_generated_images_are_what_the_first_layer_expects() -> None:
    from graphopt.generate import inputs

    images = inputs(parse(NORMED.replace("N,3", "4,3")), 0)["x"]
    y = parse(NORMED.replace("N,3", "4,3"))
    seen: dict[str, Any] = {}
    interpret(y, {"x": images}, observe=lambda op, rs: seen.update({op.results[0].hint: rs[0]})
              if op.results else None)  # fmt: skip
    assert float(seen["c"].var()) == pytest.approx(900, rel=0.5)


def test_what_repairs_leave_no_dead_weights() -> None:
    data = samples(6)
    kinds = [
        sum(op.kind.name == "const" and not op.result.use_count for op in quantized(BRANCHES, p, data).main)
        for p in ("calibrate,quantize", "calibrate,quantize,adaround,bias_correct")
    ]  # fmt: skip
    assert kinds == [0, 0]


def test_weights_that_meet_floats_stay_bytes_in_the_library() -> None:
    """A matrix product of float activations by s8 weights reads the bytes themselves."""
    text = """graph @main(%x: f32[1,64]) {
  %w = const rand 1 : f32[64,96]
  %y = matmul(%x, %w) @ "product"
  return(%y) {names=[y]}
}"""
    module = quantized(text, "quantize{activations=f32}")
    program = X86().lower(module)
    (step,) = program.steps
    assert "i8[64,96" in str(getattr(step, "operands", ""))
    assert set(getattr(step, "ops", ())) == {"cast", "matmul", "mul"}
