"""Both operands of a residual addition in integers, as ONNX Runtime wants them."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt.passes  # noqa: F401  # pyright: ignore[reportUnusedImport]  # registers them
from graphopt.activations import SampleRuns
from graphopt.analysis.interpret import interpret, random_inputs
from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.onnx import ort, to_proto
from graphopt.ops.elementwise import Add
from graphopt.ops.quant import Dequantize
from graphopt.pipeline import Context, parse_pipeline, run_pipeline

BLOCK = """graph @main(%x: f32[1,8,8,8]) {
  %w0 = const rand 1 : f32[8,8,3,3]
  %y0 = conv(%x, %w0) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "first"
  %r0 = relu(%y0) @ "relu"
  %w1 = const rand 3 : f32[8,8,3,3]
  %y1 = conv(%r0, %w1) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "second"
  %s = add(%y1, %r0) @ "sum"
  %r1 = relu(%s) @ "relu2"
  %w2 = const rand 5 : f32[8,8,1,1]
  %y2 = conv(%r1, %w2) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "third"
  return(%y2) {names=[y]}
}"""


MOVED = BLOCK.replace(
    "add(%y1, %r0)",
    "add(%y1, %p)",
).replace(
    "  %s = add",
    "  %c = slice(%r0) {starts=[0],ends=[6],axes=[1],steps=[1]}\n"
    "  %p = pad(%c) {pads=[0,0,0,0,0,2,0,0]}\n  %s = add",
)  # a shortcut without weights, that loses and gets channels


def quantized(residual: str, text: str = BLOCK) -> Module:
    module = parse(text)
    feeds = [random_inputs(module, seed) for seed in range(8)]
    ctx = Context(samples=SampleRuns(lambda: feeds, len(feeds), "given"))
    option = f"{{residual={residual}}}"
    run_pipeline(parse_pipeline(f"calibrate{option},quantize{option}"), module, ctx)
    return module


@pytest.mark.parametrize(
    ("text", "residual", "integers"),
    [(BLOCK, "one", 1), (BLOCK, "both", 2), (MOVED, "one", 0), (MOVED, "both", 2)],
)
def test_operands_of_an_addition(text: str, residual: str, integers: int) -> None:
    module = quantized(residual, text)
    (add,) = (op for op in module.main if isinstance(op.kind, Add))
    made = [v.op for v in add.operands if v]
    assert sum(bool(op and isinstance(op.kind, Dequantize)) for op in made) == integers
    x = random_inputs(module, 9)
    want, got = (interpret(m, x)["y"] for m in (parse(text), module))
    assert 0 < np.square(got - want).sum() < 1e-3 * np.square(want).sum()


def test_onnx_runtime_adds_integers() -> None:
    proto = to_proto(quantized("both"))
    assert sum(n.op_type == "QuantizeLinear" for n in proto.graph.node) == 4
    x = random_inputs(quantized("both"), 9)
    session = ort.open_session(proto.SerializeToString(), optimize=True, threads=1)
    (got,) = session.run(None, x)
    want = interpret(quantized("both"), x)["y"]
    assert np.square(got - want).sum() < 1e-3 * np.square(want).sum()
