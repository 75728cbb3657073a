"""half: what is rounded, how it is stored, and what a real model loses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

import graphopt
from graphopt.analysis.interpret import interpret, random_inputs
from graphopt.api import save
from graphopt.errors import GraphoptError
from graphopt.ir.builtin import Const
from graphopt.ir.core import Module
from graphopt.ir.data import Inline
from graphopt.ir.parser import parse
from graphopt.job import runs
from graphopt.onnx import to_proto
from graphopt.passes.half import nearest
from graphopt.pipeline import Context, parse_pipeline, run_pipeline
from graphopt.targets.base import Build
from graphopt.targets.costs import TargetCosts
from graphopt.targets.program import KernelCall, Program
from graphopt.targets.x86 import X86
from graphopt.verify import tolerance

ort: Any = onnxruntime  # its annotations are incomplete
MODELS = Path(__file__).parents[2] / "models"

LAYERS = """graph @main(%x: f32[1,32,6,6], %h: f32[2,64]) {
  %w = const rand 1 : f32[32,32,1,1]
  %c = conv(%x, %w) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "image"
  %p = reduce_mean(%c) {axes=[2,3],keepdims=true} @ "mean"
  %v = const rand 2 : f32[48,32,1,1]
  %d = conv(%p, %v) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "pixel"
  %u = const rand 3 : f32[64,32]
  %e = matmul(%h, %u) @ "product"
  %s = softmax(%e) {axis=1} @ "softmax"
  return(%d, %s) {names=[d, s]}
}"""

POOLED = """graph @main(%x: f32[1,32,16,16]) {
  %w = const rand 1 : f32[32,32,1,1]
  %c = conv(%x, %w) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "conv"
  %r = relu(%c) @ "relu"
  %y = max_pool(%r) {kernel=[2,2],strides=[2,2],pads=[0,0,0,0],dilations=[1,1]} @ "pool"
  return(%y) {names=[y]}
}"""


def halved(text: str, passes: str = "half") -> Module:
    module = parse(text)
    run_pipeline(parse_pipeline(passes), module, Context())
    return module


def lowered(module: Module) -> Program:
    return X86("avx512").lower(module)


def test_finite_numbers_stay_finite() -> None:
    x = np.array([3.4e38, -3.4e38, np.inf, np.nan, 1.00390625, 1.01171875], np.float32)
    largest = np.float32(2.0**127 * (2 - 2.0**-7))
    wanted = np.array([largest, -largest, np.inf, np.nan, 1.0, 1.015625], np.float32)
    np.testing.assert_array_equal(nearest(x).astype(np.float32), wanted)


def test_the_numbers_are_those_of_rounded_weights() -> None:
    rounded = parse(LAYERS)
    for op in rounded.main:
        if isinstance(op.kind, Const):
            op.kind = Const(Inline(nearest(op.kind.data.numpy()).astype(np.float32)))
    module = halved(LAYERS)
    feed = random_inputs(module)
    want, got = interpret(rounded, feed), interpret(module, feed)
    for name in want:
        np.testing.assert_array_equal(want[name], got[name])


def test_weights_are_bfloat16_where_kernels_read_that_faster() -> None:
    """A product, and a convolution to one pixel; not one over an image, whose tiles convert."""
    program = lowered(halved(LAYERS))
    stored = {
        b.name.split("_")[0]: str(b.dtype)
        for b in program.buffers
        if "weight" in str(b.place).lower()
    }
    assert stored == {"w": "f32", "v": "bf16", "u": "bf16"}
    assert not list(program.fallbacks())


def test_no_cast_is_a_kernel_of_its_own() -> None:
    plain, half = lowered(parse(LAYERS)), lowered(halved(LAYERS))
    assert len(half.steps) == len(plain.steps)


def test_activations_are_stored_between_kernels() -> None:
    module = halved(POOLED, "half{activations=true,smallest=64}")
    program = lowered(module)
    (inner,) = [b for b in program.buffers if b.name.endswith("half")]
    assert (str(inner.dtype), len(program.steps)) == ("bf16", len(lowered(parse(POOLED)).steps))
    limit = tolerance(module.main)
    assert limit.few_bits  # a rounding may fall to the other side
    assert not tolerance(halved(POOLED).main).few_bits


CHAIN = """graph @main(%x: f32[1,32,56,56]) {{
  %a = const rand 1 : f32[64,32,1,1]
  %b = conv(%x, %a) {{strides=[1,1],pads=[0,0,0,0],dilations=[1,1]}} @ "first"
  %r = relu(%b) @ "relu"
  %c = const rand 2 : f32[64,64,{kernel},{kernel}]
  %d = conv(%r, %c) {{strides=[1,1],pads=[{pad},{pad},{pad},{pad}],dilations=[1,1]}} @ "second"
  %e = add(%d, %r) @ "residual"
  %f = const rand 3 : f32[32,64,1,1]
  %y = conv(%e, %f) {{strides=[1,1],pads=[0,0,0,0],dilations=[1,1]}} @ "third"
  return(%y) {{names=[y]}}
}}"""


def chosen(cpu: str, text: str, passes: str = "half") -> tuple[list[str], Program]:
    """Which layers got rounded operands, by the machine's description alone; what they became."""
    module, target = parse(text), X86(cpu)
    ctx = Context(costs=TargetCosts(target, 1))
    records = run_pipeline(parse_pipeline(passes), module, ctx)
    told = [r for record in records for r in record.remarks if r.rule == "half-products"]
    return [str(r.loc) for r in told], target.lower(module)


def test_operands_are_rounded_where_products_of_bfloat16_are_faster() -> None:
    text = CHAIN.format(kernel=1, pad=0)
    layers, program = chosen("znver4", text)
    assert [name.strip('"') for name in layers] == ["first", "second", "third"]
    kernels = [s for s in program.steps if isinstance(s, KernelCall) and s.ops != ("reorder",)]
    assert len(kernels) == 4  # the residual joins the second; the input's cast alone is a kernel
    assert sum(":ABcd8b16a2b]" in k.text for k in program.kernels) == 3
    found = [str(b.dtype) for b in program.buffers if b.name.endswith("half")]
    assert found == ["bf16"] * 4  # the input's twice: as it is, and in blocks
    assert chosen("avx512bf16", text)[0] == []
    assert chosen("znver4", text, "half{products=false}")[0] == []


def test_minimal_filtering_in_float32_is_faster_than_a_direct_sum_in_bfloat16() -> None:
    layers, program = chosen("znver4", CHAIN.format(kernel=3, pad=1))
    assert [name.strip('"') for name in layers] == ["first", "third"]
    assert sum("conv_winograd" in k.text for k in program.kernels) == 1


def test_minimal_filtering_is_priced_against_tiles_though_a_residual_reads_the_operand() -> None:
    layers, program = chosen("amx", CHAIN.format(kernel=3, pad=1))
    assert [name.strip('"') for name in layers] == ["first", "second", "third"]
    assert not any("conv_winograd" in k.text for k in program.kernels)


def test_the_first_layer_runs_on_tiles() -> None:
    """Of three channels: its input is rounded, and the interface stays float32."""
    text = CHAIN.format(kernel=1, pad=0).replace("%x: f32[1,32", "%x: f32[1,3").replace(
        "f32[64,32,1,1]", "f32[64,3,3,3]").replace("pads=[0,0,0,0],dilations=[1,1]} @ \"first\"",
        "pads=[1,1,1,1],dilations=[1,1]} @ \"first\"").replace("{{", "{").replace("}}", "}")  # fmt: skip
    layers, program = chosen("amx", text)
    assert [name.strip('"') for name in layers] == ["first", "second", "third"]
    assert str(program.buffers[program.inputs[0]].dtype) == "f32"
    assert any("bf16[64,3,3,3:ABcd2b16a2b]" in k.text for k in program.kernels)


def test_attention_is_rounded_where_products_of_bfloat16_are_faster() -> None:
    """And reads what a projection made in 16 bits: on tiles, or by vectors in pairs."""
    text = """graph @main(%x: f32[1,64,96]) {
      %h = relu(%x) @ "h"
      %w = const rand 1 : f32[96,96]
      %p = matmul(%h, %w) @ "projection"
      %q, %k, %v = split(%p) {axis=2,sizes=[32,32,32]} @ "split"
      %y = attention(%q, %k, %v) {scale=0.2} @ "attention"
      return(%y) {names=[y]}
    }"""
    for cpu in ("amx", "znver4"):
        layers, program = chosen(cpu, text)
        assert [name.strip('"') for name in layers] == ["projection", "attention"]
        (kernel,) = (k for k in program.kernels if k.family == "attention")
        assert "rounded=true" in kernel.text and kernel.text.count(": bf16[1,64,32]") == 3
    assert chosen("avx512bf16", text)[0] == []


def test_a_transposed_convolution_runs_on_tiles() -> None:
    """As one convolution of all phases; what follows is computed before they are spread."""
    text = """graph @main(%x: f32[1,32,12,12]) {
      %r = relu(%x) @ "r"
      %w = const rand 1 : f32[32,24,2,2]
      %b = const rand 2 : f32[24]
      %t = conv_transpose(%r, %w, %b) {strides=[2,2],pads=[0,0,0,0],dilations=[1,1],output_padding=[0,0]} @ "up"
      %h = relu(%t) @ "h"
      %v = const rand 3 : f32[16,24,3,3]
      %y = conv(%h, %v) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "conv"
      return(%y) {names=[y]}
    }"""
    layers, program = chosen("amx", text)
    assert [name.strip('"') for name in layers] == ["up", "conv"]
    texts = [k.text for k in program.kernels]
    assert not any("conv_transpose" in t for t in texts)
    assert any("bf16[96,32,1,1:ABcd16b16a2b]" in t and "relu" in t for t in texts)
    assert any("depth_to_space" in t and "f32" not in t for t in texts)
    assert chosen("avx512bf16", text)[0] == []


@pytest.mark.parametrize(("size", "kernel", "stride", "pad", "more"), [
    (7, 2, 2, 0, 0), (7, 3, 2, 1, 1), (6, 4, 2, 1, 0), (5, 5, 3, 2, 0), (6, 3, 1, 1, 0)])  # fmt: skip
def test_phases_are_the_transposed_convolution(size: int, kernel: int, stride: int, pad: int, more: int) -> None:
    out = (size - 1) * stride + kernel - 2 * pad + more
    module = parse(f"""graph @main(%x: bf16[2,6,{size},{size}]) {{
      %f = cast(%x) {{to=f32}}
      %w = const rand 1 : bf16[6,5,{kernel},{kernel}]
      %g = cast(%w) {{to=f32}}
      %b = const rand 2 : f32[5]
      %t = conv_transpose(%f, %g, %b) {{strides=[{stride},{stride}],pads=[{pad},{pad},{pad},{pad}],dilations=[1,1],output_padding=[{more},{more}]}}
      %r = relu(%t)
      %h = cast(%r) {{to=bf16}}
      %y = cast(%h) {{to=f32}}
      return(%y) {{names=[y]}}
    }}""")
    feed = random_inputs(module)
    (want,) = interpret(module, feed).values()
    run_pipeline(parse_pipeline("widen-constants,phased"), module, Context())
    assert not any(op.kind.name == "conv_transpose" for op in module.main)
    (got,) = interpret(module, feed).values()
    assert got.shape == want.shape == (2, 5, out, out)
    # Sums in another order, rounded: a unit of bfloat16 at most.
    np.testing.assert_allclose(got, want, rtol=2.0**-7, atol=1e-6)
    assert np.mean(got != want) < 0.02


def test_layers_that_fill_a_block_in_part_are_multiplied_as_bfloat16_where_that_is_faster() -> None:
    """Their results fill blocks inside a model; minimal filtering computes the zeros, too."""
    around = "{strides=[1,1],pads=[1,1,1,1],dilations=[1,1]}"
    text = f"""graph @main(%x: f32[1,24,96,96]) {{
      %a = const rand 1 : f32[12,24,3,3]
      %b = conv(%x, %a) {around} @ "first"
      %c = relu(%b) @ "r"
      %d = const rand 2 : f32[12,12,3,3]
      %e = conv(%c, %d) {around} @ "second"
      %f = relu(%e) @ "s"
      %g = const rand 3 : f32[32,12,3,3]
      %y = conv(%f, %g) {around} @ "third"
      return(%y) {{names=[y]}}
    }}"""
    layers, program = chosen("amx", text)
    assert [name.strip('"') for name in layers] == ["first", "second", "third"]
    assert {k.family for k in program.kernels} == {"conv", "elementwise"}
    assert "winograd" in {k.family for k in X86("amx").lower(parse(text)).kernels}


def test_a_small_filter_is_rounded_where_its_layer_is_faster_so() -> None:
    """Of 432 numbers, fewer than are worth it for their bytes; few channels fill a block."""
    text = """graph @main(%x: f32[1,3,64,64]) {
      %w = const rand 1 : f32[12,3,3,3]
      %c = conv(%x, %w) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "first"
      %r = relu(%c) @ "r"
      %v = const rand 2 : f32[32,12,3,3]
      %y = conv(%r, %v) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "second"
      return(%y) {names=[y]}
    }"""
    layers, program = chosen("amx", text)
    assert [name.strip('"') for name in layers] == ["first", "second"]
    assert any("bf16[12,3,3,3:ABcd2b16a2b]" in k.text for k in program.kernels)
    assert chosen("avx512bf16", text)[0] == []


def test_the_products_are_those_of_rounded_operands() -> None:
    """Against numpy's, run by the kernels, where this computer has the instruction."""
    target = X86("znver4")
    if target.costs(1) is None:
        pytest.skip("this CPU can't multiply bfloat16")
    result = graphopt.optimize(to_proto(parse(CHAIN.format(kernel=1, pad=0))), "x86:znver4", "default,half",
                               threads=1, build=Build(jobs=2))  # fmt: skip
    assert all(c.ok for c in result.report.checks)


def test_onnx_runtime_runs_the_model(tmp_path: Path) -> None:
    """Weights are BFLOAT16 with a Cast after them: ONNX Runtime has few kernels of bfloat16."""
    module, path = halved(LAYERS), tmp_path / "half.onnx"
    save(module, path)
    model = onnx.ModelProto.FromString(path.read_bytes())
    assert [t.data_type for t in model.graph.initializer] == [TensorProto.BFLOAT16] * 3
    assert sum(n.op_type == "Cast" for n in model.graph.node) == 3
    feed = random_inputs(module)
    want = interpret(module, feed)
    session: Any = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    got: list[Any] = session.run(None, feed)
    for a, b in zip(want.values(), got, strict=True):
        np.testing.assert_allclose(np.asarray(b), a, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "loss"), [("digits_bilstm", 0.5), ("fmnist_vit", 0.5), ("digits_dscnn", 0.5)]
)
def test_a_real_model_keeps_its_answers(name: str, loss: float) -> None:
    """Verified against the rounded model; right answers within half a point of the original's."""
    data = MODELS / "data" / ("fmnist.npz" if name.startswith("fmnist") else "digits.npz")
    result = graphopt.optimize(MODELS / f"{name}.onnx", "x86", "default,half", data=data,
                               threads=1, build=Build(jobs=2))  # fmt: skip
    report = result.report
    assert [c.ok for c in report.checks] == [True, True]
    (lost,) = report.losses
    assert lost.before is not None and lost.after is not None
    assert lost.before - lost.after <= loss
    assert 40 < lost.sqnr_db < 80
    assert result.manifest
    (kept,) = result.manifest.extra["losses"]
    assert (kept["sqnr_db"], kept["samples"]) == (lost.sqnr_db, lost.samples)
    assert report.after.weight_bytes < 0.6 * report.before.weight_bytes
    assert result.program and not list(result.program.fallbacks())


def test_a_recurrence_of_large_weights_reads_bfloat16() -> None:
    text = """graph @main(%x: f32[3,1,16]) {
      %w = const rand 1 : f32[1,2048,16]
      %r = const rand 2 : f32[1,2048,512]
      %y = opaque(%x, %w, %r) {op_type=LSTM,version=14,attrs=[[hidden_size,512]]} : f32[3,1,1,512]
      return(%y) {names=[y]}
    }"""
    program = lowered(halved(text))
    assert not list(program.fallbacks())
    assert sorted(w.nbytes for w in program.weights) == [
        4 * 2048,
        2 * 16 * 2048,
        2 * 2048 * 512,
    ]  # biases first
    assert runs(halved(text), [random_inputs(halved(text))])


@pytest.mark.parametrize(
    "text", ["half{type=f8}", "half{type=8}", "half{smallest=many}", "half{bits=16}"]
)
def test_bad_options_end_in_a_sentence(text: str) -> None:
    with pytest.raises(GraphoptError, match="half"):
        parse_pipeline(text)
