"""Attention, in whatever spelling: one op, the same numbers, never more nodes than before."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt.passes
from graphopt.analysis.interpret import interpret, random_inputs
from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.ir.verify import verify
from graphopt.onnx import Reference, load, to_proto
from graphopt.pipeline import Context, parse_pipeline, run_pipeline

HEAD = "graph @main(%q: f32[2,3,5,8], %k: f32[2,3,6,8], %v: f32[2,3,6,4]"
TAIL = "%p = softmax(%s) {axis=3}\n%y = matmul(%p, %v)\nreturn(%y) {names=[y]}\n}"
C = "%c = const dense [0.25] : f32[]\n"
T = "%t = transpose(%k) {perm=[0,1,3,2]}\n"
QK = "%s = matmul(%q, %t)\n"
SPELLINGS = {
    "no scale": f"{HEAD}) {{\n{T}{QK}{TAIL}",
    "scores scaled": f"{HEAD}) {{\n{C}{T}%m = matmul(%q, %t)\n%s = mul(%m, %c)\n{TAIL}",
    "scores divided": f"{HEAD}) {{\n{C}{T}%m = matmul(%q, %t)\n%s = div(%m, %c)\n{TAIL}",
    "q scaled": f"{HEAD}) {{\n{C}{T}%r = mul(%q, %c)\n%s = matmul(%r, %t)\n{TAIL}",
    "both scaled": f"{HEAD}) {{\n{C}{T}%r = mul(%c, %q)\n%u = mul(%t, %c)\n%s = matmul(%r, %u)\n{TAIL}",
    "k scaled before": f"{HEAD}) {{\n{C}%l = mul(%k, %c)\n%t = transpose(%l) {{perm=[0,1,3,2]}}\n{QK}{TAIL}",
    "a scale and its inverse": f"{HEAD}) {{\n{C}{T}%r = mul(%c, %q)\n%u = div(%t, %c)\n%s = matmul(%r, %u)\n{TAIL}",
    "masked": f"{HEAD}, %mask: f32[5,6]) {{\n{C}{T}%m = matmul(%q, %t)\n%n = mul(%m, %c)\n%s = add(%n, %mask)\n{TAIL}",
    "k transposed already": f"graph @main(%q: f32[2,3,5,8], %t: f32[2,3,8,6], %v: f32[2,3,6,4]) {{\n{QK}{TAIL}",
    "heads first": "graph @main(%q: f32[2,3,5,8], %k: f32[2,6,3,8], %v: f32[2,3,6,4]) {\n"
    f"%t = transpose(%k) {{perm=[0,2,3,1]}}\n{QK}{TAIL}",
    "k used elsewhere": f"{HEAD}) {{\n{T}{QK}%p = softmax(%s) {{axis=3}}\n%y = matmul(%p, %v)\n"
    "return(%y, %t) {names=[y,t]}\n}",
    "keys shared": "graph @main(%q: f32[2,3,5,8], %k: f32[2,6,3,8], %v: f32[2,3,6,4]) {\n"
    f"%t = transpose(%k) {{perm=[0,2,3,1]}}\n{QK}%p = softmax(%s) {{axis=3}}\n%y = matmul(%p, %v)\n"
    "%r = relu(%q)\n%m = matmul(%r, %t)\n%n = softmax(%m) {axis=3}\n%z = matmul(%n, %v)\n"
    "return(%y, %z) {names=[y,z]}\n}",
    "projected": "graph @main(%x: f32[2,5,8], %k: f32[2,3,6,4], %v: f32[2,3,6,4]) {\n"
    f"{C}%w = const rand 1 : f32[8,12]\n%b = const rand 2 : f32[12]\n%h = matmul(%x, %w)\n%i = add(%h, %b)\n"
    f"%j = reshape(%i) {{shape=[0,0,3,4]}}\n%q = transpose(%j) {{perm=[0,2,1,3]}}\n{T}"
    f"%m = matmul(%q, %t)\n%s = mul(%m, %c)\n{TAIL}",
}


def optimized(text: str) -> tuple[Module, Module]:
    """The module before and after the default pipeline."""
    before, after = parse(text), parse(text)
    run_pipeline(parse_pipeline("default", graphopt.passes.PIPELINES), after, Context())
    verify(after)
    return before, after


def kinds(module: Module) -> list[str]:
    return [op.kind.name for op in module.main if op.kind.name not in ("const", "return")]


@pytest.mark.parametrize("opset", [9, 13, 17, 23])
@pytest.mark.parametrize("name", SPELLINGS)
def test_no_spelling_grows(name: str, opset: int) -> None:
    before, after = optimized(SPELLINGS[name])
    assert "attention" in kinds(after)
    first, last = to_proto(before, opset=opset), to_proto(after, opset=opset)
    assert len(last.graph.node) <= len(first.graph.node)
    feeds = random_inputs(before)
    got = Reference(last).run(feeds)
    for key, want in interpret(before, feeds).items():
        np.testing.assert_allclose(got[key], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "count"), [
    ("no scale", 4), ("k transposed already", 3), ("both scaled", 5), ("k scaled before", 5),
    ("a scale and its inverse", 4), ("projected", 8), ("keys shared", 8),
])  # fmt: skip
def test_nodes_that_are_not_needed_are_not_written(name: str, count: int) -> None:
    """Transpose, MatMul, Softmax, MatMul; a Mul where there is a scale that nothing else takes in."""
    assert len(to_proto(optimized(SPELLINGS[name])[1], opset=17).graph.node) == count


MASKED = """graph @main(%q: f32[2,3,5,8], %k: f32[2,3,6,8], %v: f32[2,3,6,4], %m: f32[MASK]) {
  %y = attention(%q, %k, %v, %m) {scale=SCALE}
  return(%y) {names=[y]}
}"""


@pytest.mark.parametrize(("mask", "scale", "native"), [
    ("5,6", 0.25, True), ("2,1,5,6", 0.25, True), ("1,6", 0.25, False), ("2,1,1,6", 0.25, False),
    ("6", 0.25, False), ("5,6", -0.25, False),
])  # fmt: skip
def test_one_node_where_onnx_can_say_it(mask: str, scale: float, native: bool) -> None:
    module = parse(MASKED.replace("MASK", mask).replace("SCALE", str(scale)))
    feeds = random_inputs(module)
    want = interpret(module, feeds)["y"]
    for opset in (22, 23, 24):
        proto = to_proto(module, opset=opset)
        one = native and opset >= 23
        assert ("Attention" in [n.op_type for n in proto.graph.node]) is one
        np.testing.assert_allclose(Reference(proto).run(feeds)["y"], want, rtol=1e-4, atol=1e-5)
        assert kinds(load(proto.SerializeToString())) == ["attention"] or not one


@pytest.mark.parametrize("shapes", [
    ("2,4,5,8", "2,1,6,8", "2,1,6,4"), ("3,5,8", "3,6,8", "3,6,4"), ("2,3,5,8", "1,3,6,8", "2,3,6,4"),
])  # fmt: skip
def test_other_shapes_are_written_as_ops(shapes: tuple[str, str, str]) -> None:
    q, k, v = shapes
    module = parse(f"graph @main(%q: f32[{q}], %k: f32[{k}], %v: f32[{v}]) {{\n"
                   "%y = attention(%q, %k, %v) {scale=0.5}\nreturn(%y) {names=[y]}\n}")  # fmt: skip
    feeds = random_inputs(module)
    proto = to_proto(module, opset=24)
    assert "Attention" not in [n.op_type for n in proto.graph.node]
    want = interpret(module, feeds)["y"]
    np.testing.assert_allclose(Reference(proto).run(feeds)["y"], want, rtol=1e-4, atol=1e-5)
