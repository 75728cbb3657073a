"""Transposed convolutions in integers: convolutions of all phases, spread out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.activations import SampleRuns
from graphopt.analysis.interpret import interpret
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.ir.verify import verify
from graphopt.onnx import Reference, to_proto
from graphopt.ops.quant import Dequantize
from graphopt.passes.integers import Integers
from graphopt.passes.quantize.account import layer_errors
from graphopt.pipeline import Context
from graphopt.targets import machine
from graphopt.targets.base import Build
from graphopt.targets.x86 import X86
from tests.crosscheck import emulated
from tests.kernelcheck import runnable


def integers(kernel: tuple[int, ...], strides: tuple[int, ...], pad: int, more: int = 0,
             group: int = 1, channels: int = 4, outs: int = 6) -> str:  # fmt: skip
    """A transposed convolution of integers, with Relu, as QDQ."""
    n = len(kernel)

    def ints(many: Any) -> str:
        return ",".join(map(str, many))

    return f"""graph @main(%x: u8[2,{channels},{ints((5, 6)[:n])}]) {{
  %s = const dense [0.5] : f32[]
  %z = const dense [117] : u8[]
  %w = const rand 3 : i8[{channels},{outs // group},{ints(kernel)}]
  %t = const dense [{ints(0.1 + 0.01 * i for i in range(outs // group))}] : f32[{outs // group}]
  %b = const rand 5 : f32[{outs}]
  %u = const dense [0.7314159] : f32[]
  %v = const dense [100] : u8[]
  %xf = dequantize(%x, %s, %z)
  %wf = dequantize(%w, %t) {{axis=1}}
  %y = conv_transpose(%xf, %wf, %b) {{strides=[{ints(strides)}],pads=[{ints([pad] * 2 * n)}],
    dilations=[{ints([1] * n)}],output_padding=[{ints([more] * n)}],group={group}}}
  %r = relu(%y)
  %q = quantize(%r, %u, %v) {{dtype=u8}}
  return(%q) {{names=[q]}}
}}"""


def sizes() -> Iterator[tuple[Any, ...]]:
    """Kernels, strides, pads, output padding, groups that give a result of some size."""
    kernels = [(1, 1), (2, 2), (3, 3), (4, 4), (5, 2), (3,)]
    for k, s, p, o, g in itertools.product(
        kernels, [(1, 1), (2, 2), (3, 3), (2, 1), (2,)], [0, 1], [0, 1], [1, 2]
    ):
        fits = len(k) == len(s) and o < min(s)
        if fits and all(p <= (a - 1) // b * b or p < a for a, b in zip(k, s, strict=True)):
            yield k, s, p, o, g


@pytest.mark.parametrize("case", list(sizes()), ids=str)
def test_sums_are_those_of_the_definition(case: tuple[Any, ...]) -> None:
    """Sums are exact; requantization by s_x s_w / s_y rounds to the other side now and then."""
    module = parse(integers(*case))
    lowered = clone_module(module)
    Integers().run(lowered, Context())
    verify(lowered)
    kinds = [op.kind.name for op in lowered.main]
    assert kinds.count("conv_integer") == 1 and kinds.count("requantize") == 1
    assert not {"conv_transpose", "dequantize", "quantize", "relu"} & set(kinds)
    x = np.random.default_rng(0).integers(0, 256, module.main.args[0].tensor.static)
    (want,), (got,) = (interpret(m, {"x": x.astype(np.uint8)}).values() for m in (module, lowered))
    apart = np.abs(want.astype(int) - got)
    assert apart.max() <= 1 and (apart > 0).mean() < 0.05


@pytest.mark.parametrize(("old", "new", "said"), [
    ("dilations=[1,1]", "dilations=[2,2]", "not a convolution for each phase"),
    ("pads=[0,0,0,0]", "pads=[2,2,2,2]", "not a convolution for each phase"),
    ("{axis=1}", "{axis=0}", "along another axis"),
])  # fmt: skip
def test_what_stays_in_floats_says_why(old: str, new: str, said: str) -> None:
    text = integers((2, 2), (2, 2), 0, channels=6)
    module = parse(text.replace(old, new, 1))
    result = Integers().run(module, Context())
    assert "conv_transpose" in {op.kind.name for op in module.main}
    assert any(said in str(remark) for remark in result.remarks)


UP = """graph @main(%x: f32[1,20,6,7]) {
  %w = const rand 1 : f32[24,20,3,3]
  %c = conv(%x, %w) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "down"
  %r = relu(%c) @ "relu"
  %u = const rand 2 : f32[24,20,2,2]
  %b = const rand 3 : f32[20]
  %d = conv_transpose(%r, %u, %b) {strides=[2,2],pads=[0,0,0,0],dilations=[1,1],output_padding=[0,0]} @ "up"
  %v = const rand 4 : f32[20,16,4,4]
  %e = conv_transpose(%d, %v) {strides=[2,2],pads=[1,1,1,1],dilations=[1,1],output_padding=[0,0]} @ "upper"
  %q = relu(%e) @ "clip"
  %t = const rand 5 : f32[4,16,1,1]
  %y = conv(%q, %t) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "last"
  return(%y) {names=[y]}
}"""


def samples(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(1, 20, 6, 7)).astype(np.float32)} for _ in range(count)]


def quantized(passes: str) -> Module:
    proto = to_proto(parse(UP)).SerializeToString()
    return graphopt.optimize(proto, None, passes, samples(24), check=False).module


def test_quantize_writes_qdq_that_onnx_runtime_computes() -> None:
    """A scale for each output channel, along the second axis of the weight."""
    module = quantized("calibrate,quantize")
    found = [op for op in module.main if op.kind.name == "conv_transpose"]
    makers = [op.operand(1).op for op in found]
    assert [isinstance(op.kind, Dequantize) and op.kind.axis for op in makers if op] == [1, 1]
    (feed,) = samples(1)
    (want,) = interpret(module, feed).values()
    (got,) = Reference(to_proto(module)).run(feed).values()
    assert np.abs(want - got).max() <= 2e-2 * np.abs(want).max()
    (plain,) = interpret(parse(UP), feed).values()
    assert 10 * np.log10(np.sum(plain**2) / np.sum((plain - got) ** 2)) > 30


def test_passes_around_quantize_know_transposed_convolutions() -> None:
    """Each makes, or keeps, layers of at least the quality that rounding alone gives them."""
    plain = parse(UP)
    for before, after in (("", ""), ("equalize,", ""), ("", ",bias_correct"), ("", ",adaround")):
        module = quantized(f"{before}calibrate,quantize{after}")
        for feed in samples(3):
            (want,), (got,) = (interpret(m, feed).values() for m in (plain, module))
            assert 10 * np.log10(np.sum(want**2) / np.sum((want - got) ** 2)) > 30, after


def test_adaround_lowers_the_noise_of_a_transposed_convolution() -> None:
    before, fresh = parse(UP), SampleRuns(lambda: samples(16), 16, "")
    plain, better = (
        {row.nodes: row.own_db for row in layer_errors(quantized(passes), before, fresh)}
        for passes in ("calibrate,quantize", "calibrate,quantize,adaround")
    )
    assert {nodes[-1] for nodes in plain} == {"down", "up", "upper", "last"}
    ups = [nodes for nodes in plain if nodes[-1] in ("up", "upper")]
    assert all(better[nodes] > plain[nodes] + 0.2 for nodes in ups)


@pytest.mark.parametrize("name", runnable())
def test_compiled_integers_are_those_of_numpy(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gir"
    path.write_text(quantized("calibrate,quantize").to_text())
    result = graphopt.optimize(path, X86(name), build=Build(cache=tmp_path / "cache"), threads=1)
    _exact(result)


@pytest.mark.parametrize("target", ["arm:cortex-a72", "c"])
def test_other_targets_compute_the_same(target: str, tmp_path: Path) -> None:
    if target != "c":
        emulated(machine.load(target.partition(":")[2]))
    path = tmp_path / "m.gir"
    path.write_text(quantized("calibrate,quantize").to_text())
    _exact(graphopt.optimize(path, target, threads=1))


def _exact(result: Any) -> None:
    checks = {c.what.split(",")[1].strip(): c for c in result.report.checks if "," in c.what}
    assert checks["against numpy in integers"].ok
    ops = [op for layer in result.manifest.layers for op in layer.ops]
    assert ops.count("conv_integer") == 4
    assert "conv_transpose" not in ops
