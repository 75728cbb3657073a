"""Layers that lossy passes can propose nothing for are listed, with the reason."""

from __future__ import annotations

import pytest

from graphopt import parse
from graphopt.activations import SampleRuns
from graphopt.analysis.interpret import random_inputs
from graphopt.ir.core import Module
from graphopt.pipeline import Context, parse_pipeline

TEXT = """graph @main(%x: f32[1,8,6,6], %i: i64[6,6]) {
  %w0 = const rand 1 : f32[8,8,3,3]
  %c = conv(%x, %w0) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "plain"
  %xh = cast(%c) {to=f16}
  %w1 = const rand 2 : f16[8,8,3,3]
  %h = conv(%xh, %w1) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "half"
  %xd = cast(%h) {to=f64}
  %w2 = const rand 3 : f64[6,6]
  %d = matmul(%xd, %w2) @ "double"
  %f = cast(%d) {to=f32}
  %w3 = const rand 4 : f32[8,8,2,2]
  %t = conv_transpose(%f, %w3) {strides=[2,2],pads=[0,0,0,0],dilations=[1,1],output_padding=[0,0]} @ "up"
  %w4 = const rand 5 : f32[8,12,10]
  %b = matmul(%t, %w4) @ "batch"
  %w5 = const rand 6 : f32[4,12]
  %l = matmul(%w5, %b) @ "on-the-left"
  %w6 = const rand 7 : bf16[10,9]
  %w7 = cast(%w6) {to=f32}
  %s = matmul(%l, %w7) @ "stored"
  %m = reduce_mean(%s) {axes=[0,1],keepdims=false}
  %w8 = const rand 8 : f32[4,5]
  %b8 = const rand 9 : f32[5]
  %g = gemm(%m, %w8, %b8) {trans_a=true} @ "turned"
  %w9 = const rand 10 : f32[8,5,6]
  %v = reduce_mean(%g) {axes=[1],keepdims=false}
  %w10 = const rand 11 : f32[9,4]
  %u = matmul(%v, %w10) @ "vector"
  %n = matmul(%i, %i) @ "no-layer"
  return(%u, %n) {names=[u,n]}
}"""
HALF, UP = "it computes in f16, not in f32", "a transposed convolution has no rule"
REST = {
    "double": "it computes in f64, not in f32", "batch": "its constant factor is a batch of matrices",
    "on-the-left": "its constant factor is the left one", "stored": "its weights are stored as bf16",
    "turned": "its first factor is transposed", "vector": "it reads one vector",
}  # fmt: skip


def refused(passes: str, module: Module) -> dict[str, str]:
    """The reasons by node, of layers that stay."""
    original = parse(TEXT)
    runs = SampleRuns(lambda: [random_inputs(original, 0)], 1, "given")
    (one,) = parse_pipeline(passes)
    result = one.run(module, Context(samples=runs))
    assert result.settled
    return {c.loc.nodes[0]: c.refused for c in result.settled.left if c.loc.nodes[0] != "plain"}


@pytest.mark.parametrize("passes", ["lowrank{ratio=0.1}", "sparsify{ratio=0.5}", "cluster{bits=2}"])
def test_layers_without_a_form_are_listed(passes: str) -> None:
    assert refused(passes, parse(TEXT)) == {"half": HALF, "up": UP} | REST


def test_only_what_a_pass_is_about_is_listed() -> None:
    for passes in ("factorize{ratio=0.1}", "lowrank{method=tucker,rank=2}"):
        assert refused(passes, parse(TEXT)) == {"half": HALF, "up": UP}


def test_rows_that_are_too_long_to_factorize_are_listed() -> None:
    text = TEXT.replace("8,8,3,3", "8,8,29,29").replace("pads=[1,1,1,1]", "pads=[14,14,14,14]")
    found = refused("factorize{terms=1,skip=[plain]}", parse(text))
    assert found["half"] == HALF
    (one,) = parse_pipeline("factorize{terms=1}")
    result = one.run(parse(text), Context())
    assert result.settled
    why = {c.loc.nodes[0]: c.refused for c in result.settled.left}
    assert why["plain"] == "a row of its weights has more than 6144 numbers"


ODD = """graph @main(%x: f32[N,3,9], %y: f32[1,3,6,6]) {
  %w0 = const rand 1 : f32[8,3,5]
  %a = conv(%x, %w0) {strides=[1],pads=[2,2],dilations=[1]} @ "line"
  %w1 = const rand 2 : f32[8,3,3,3]
  %b = conv(%y, %w1) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "odd"
  %w2 = const rand 3 : f32[8,4,3,3]
  %c = conv(%b, %w2) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1],group=2} @ "grouped"
  %w3 = const rand 4 : f32[8,1,3,3]
  %d = conv(%c, %w3) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1],group=8} @ "depthwise"
  return(%a, %d) {names=[a,d]}
}"""


@pytest.mark.parametrize(("passes", "told"), [
    ("factorize{terms=1,form=shuffle}", {
        "line": "its sizes aren't known before a run", "odd": "its channels aren't multiples of 2",
        "grouped": "it is in groups as it is"}),
    ("factorize{terms=4,form=pointwise}", {
        "grouped": "no form of it is smaller at the sizes tried",
        "odd": "no form of it is smaller at the sizes tried",
        "line": "no form of it is smaller at the sizes tried"}),
    ("lowrank{rank=9,method=spatial}", {
        "line": "its window isn't along two axes",
        "odd": "no form of it is smaller at the sizes tried",
        "grouped": "it gains nothing on the target",
        "depthwise": "no form of it is smaller at the sizes tried"}),
])  # fmt: skip
def test_layers_that_no_form_asked_for_fits_say_so(passes: str, told: dict[str, str]) -> None:
    (one,) = parse_pipeline(passes)
    settled = one.run(parse(ODD), Context()).settled
    assert settled and not settled.kept
    assert {c.loc.nodes[0]: c.refused for c in settled.left} == told


@pytest.mark.parametrize("passes", ["lowrank{rank=2}", "factorize{terms=1}", "sparsify{ratio=0.5}"])
def test_a_model_without_a_layer_for_a_pass_is_told(passes: str) -> None:
    module = parse("graph @main(%x: f32[4]) {\n  %y = relu(%x)\n  return(%y) {names=[y]}\n}")
    (one,) = parse_pipeline(passes)
    result = one.run(module, Context())
    assert not result.changed
    assert f"{one.name}: the model has no layer that it could change so" in result.notes


BRANCH = """graph @main(%x: f32[4,6], %c: bool[]) {
  %w = const rand 1 : f32[6,6]
  %y = opaque(%c) {op_type=If,version=16} : f32[4,6] @ "if" {
    graph @then_branch() {
      %v = const rand 2 : f32[6,6]
      %a = matmul(%x, %v) @ "inside"
      %v2 = const rand 3 : f32[4,4]
      %a2 = matmul(%v2, %a) @ "left"
      return(%a2)
    }
    graph @else_branch() {
      %b = relu(%x)
      return(%b)
    }
  }
  %p = matmul(%y, %w) @ "plain"
  %r = relu(%p)
  %q = const splat 3 : i8[6,5]
  %scale = const splat 0.5 : f32[]
  %d = dequantize(%q, %scale)
  %t = matmul(%r, %d) @ "quantized"
  return(%t) {names=[t]}
}"""
HERE = {
    "inside": "it is in a branch, or a loop's body",
    "quantized": "its weights are stored as i8",
}


@pytest.mark.parametrize(
    "passes", ["lowrank{rank=1}", "cluster{bits=2}", "prune{ratio=0.3,criterion=l1}"]
)
def test_layers_of_branches_and_quantized_ones_are_listed(passes: str) -> None:
    (one,) = parse_pipeline(passes)
    settled = one.run(parse(BRANCH), Context()).settled
    assert settled
    told = {c.loc.nodes[0]: c.refused for c in settled.left if c.loc.nodes[0] != "plain"}
    left = told.pop("left")
    assert told == HERE
    assert left in ("its constant factor is the left one",
                    "its constant factor isn't a matrix on the right of a product")  # fmt: skip


def test_a_layer_without_a_form_may_be_skipped() -> None:
    found = refused("lowrank{ratio=0.1,skip=[up]}", parse(TEXT))
    assert found["up"] == UP
