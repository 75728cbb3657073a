"""Per layer float, bfloat16 or int8: the ladder, what a limit takes back, and the mixed model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.activations import SampleRuns
from graphopt.analysis.interpret import interpret
from graphopt.analysis.price import Costs, Price
from graphopt.choices import Settled
from graphopt.ir.builtin import Const
from graphopt.ir.core import Graph, Module
from graphopt.ir.data import nbytes
from graphopt.ir.parser import parse
from graphopt.loss import Loss, Share
from graphopt.onnx import to_proto
from graphopt.ops.elementwise import Cast
from graphopt.passes.quantize import bfloat
from graphopt.pipeline import Context, Record, parse_pipeline, run_pipeline
from graphopt.targets.base import Build
from graphopt.targets.x86 import X86

THREE = """graph @main(%x: f32[1,64]) {
  %w1 = const rand 1 : f32[64,96]
  %a = matmul(%x, %w1) @ "first"
  %r = relu(%a) @ "relu"
  %w2 = const rand 2 : f32[96,96]
  %b = matmul(%r, %w2) @ "second"
  %t = tanh(%b) @ "tanh"
  %w3 = const rand 3 : f32[96,64]
  %y = matmul(%t, %w3) @ "third"
  return(%y) {names=[y]}
}"""


@dataclass
class Bytes:
    """A target whose time is that of reading constants; it multiplies bfloat16 if it is asked."""

    halves: bool = False
    used: dict[str, float] = field(default_factory=dict[str, float])

    def price(self, graph: Graph, footprint: int = 0) -> Price:
        total = sum(nbytes(op.kind.data) for op in graph if isinstance(op.kind, Const))
        casts = sum(isinstance(op.kind, Cast) for op in graph)
        return Price(total * (0.5 if self.halves and casts == 3 else 1.0))

    def families(self, graph: Graph) -> set[str]:
        return set()

    def described(self) -> Costs:
        return self


@dataclass
class Busy(Bytes):
    """A computer whose measured prices say that bytes gain nothing."""

    def price(self, graph: Graph, footprint: int = 0) -> Price:
        return Price(1.0)

    def described(self) -> Costs:
        return Bytes()


@dataclass
class Counted:
    """A judge to whom each layer in int8 costs a point, each in bfloat16 a tenth."""

    def losses(self, module: Module) -> tuple[Loss, ...]:
        drop = sum({"i8": 1.0, "bf16": 0.1}.get(how, 0.0) for how in weights(module).values())
        zero = Share(0, 0, 0)
        return (Loss("y", "given", 9, "classes", 30.0, zero, Share(drop, drop, drop)),)


def weights(module: Module) -> dict[str, str]:
    """How each product has its weight."""
    found: dict[str, str] = {}
    for op in module.main:
        if op.kind.name == "matmul":
            made = op.operand(1).op
            assert made
            stored = made.operand(0) if made.operands else made.result
            found[op.result.hint] = str(stored.tensor.dtype.name)
    return found


def samples(module: Module, count: int = 40) -> SampleRuns:
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(1, 64)).astype(np.float32)} for _ in range(count)]
    return SampleRuns(lambda: feeds, count, "given")


def settled(module: Module, limit: float | None, options: str = "", halves: bool = False) -> Record:
    ctx = Context(costs=Bytes(halves), samples=samples(module), max_drop=limit,
                  judge=Counted() if limit is not None else None)  # fmt: skip
    return run_pipeline(parse_pipeline(f"calibrate,quantize{options}"), module, ctx)[-1]


def test_what_this_computer_has_timed_decides_nothing() -> None:
    module = parse(THREE)
    ctx = Context(costs=Busy(), samples=samples(module))
    run_pipeline(parse_pipeline("calibrate,quantize"), module, ctx)
    assert set(weights(module).values()) == {"i8"}


def kept(found: Settled | None) -> Counter[str]:
    assert found
    return Counter(c.rewrite for c in found.kept)


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [
        (None, ["i8", "i8", "i8"]),
        (3.0, ["i8", "i8", "i8"]),
        (2.3, ["bf16", "i8", "i8"]),
        (1.3, ["bf16", "bf16", "i8"]),
        (0.35, ["bf16", "bf16", "bf16"]),
        (0.25, ["bf16", "bf16", "f32"]),
        (0.0, ["f32", "f32", "f32"]),
    ],
)
def test_a_limit_takes_layers_to_bfloat16_then_to_float(
    limit: float | None, wanted: list[str]
) -> None:
    module = parse(THREE)
    settled(module, limit)
    assert sorted(weights(module).values()) == wanted


def test_the_account_says_which_and_why() -> None:
    record = settled(parse(THREE), 1.3)
    assert kept(record.settled) == {"in int8": 1, "with bfloat16 weights": 2}
    note, _ = record.notes  # and one of the lint
    assert "1 layer in int8" in note
    assert "2 layers with bfloat16 weights" in note
    texts = [r.text for r in record.remarks if not r.applied]
    assert texts.count("with bfloat16 weights instead") == 2
    assert texts.count("in int8 instead") == 1


def test_without_the_fallback_layers_stay_float() -> None:
    module = parse(THREE)
    record = settled(module, 1.3, "{fallback=f32}")
    assert kept(record.settled) == {"in int8": 1}
    assert sorted(weights(module).values()) == ["f32", "f32", "i8"]


def test_errors_are_measured_and_weighed_by_what_arrives() -> None:
    plain, weighed = (settled(parse(THREE), limit).settled for limit in (None, 3.0))
    assert plain
    assert weighed
    of = {(c.layer, c.rewrite): c.error for c in (*plain.kept, *plain.left)}
    by = {(c.layer, c.rewrite): c.error for c in (*weighed.kept, *weighed.left)}
    for i in "012":  # bfloat16 has one bit more than the integers of weights, and floats to read
        assert 1e-7 < of[i, "with bfloat16 weights"] < of[i, "in int8"] < 1e-3
        ratio = by[i, "in int8"] / of[i, "in int8"]
        assert by[i, "with bfloat16 weights"] == pytest.approx(
            ratio * of[i, "with bfloat16 weights"])  # fmt: skip
    assert by["2", "in int8"] == pytest.approx(of["2", "in int8"], rel=0.3)  # it is the output
    assert by["0", "in int8"] > 2 * of["0", "in int8"]  # what follows makes it larger


def test_a_target_that_multiplies_bfloat16_reads_rounded_operands() -> None:
    module = parse(THREE)
    before = parse(THREE)
    record = settled(module, 0.35, halves=True)
    assert kept(record.settled) == {"in bfloat16": 3}
    casts = Counter(
        str(op.result.tensor.dtype.name) for op in module.main if op.kind.name == "cast"
    )
    assert casts == {"bf16": 3, "f32": 6}
    x = {"x": np.random.default_rng(1).normal(size=(1, 64)).astype(np.float32)}
    (got,), (want,) = interpret(module, x).values(), interpret(before, x).values()
    assert 0 < np.abs(got - want).max() < 2e-2 * np.abs(want).max()


def test_what_the_target_reads_no_faster_is_refused() -> None:
    text = THREE.replace("f32[1,64]", "f32[256,64]")
    ctx = Context(costs=X86().costs(1), samples=None)
    module = parse(text)
    given: Any = [{"x": np.ones((256, 64), np.float32)}] * 4
    ctx.samples = SampleRuns(lambda: given, 4, "given")
    record = run_pipeline(parse_pipeline("calibrate,quantize"), module, ctx)[-1]
    assert kept(record.settled) == {"in int8": 3}
    told = {r.text for r in record.remarks if not r.applied}
    assert told <= {"it gains nothing on the target", "in int8 instead"}


def test_a_mixed_model_is_written_read_and_compiled(tmp_path: Path) -> None:
    module = parse(THREE)
    settled(module, 1.3)
    mixed = to_proto(module).SerializeToString()
    again = graphopt.optimize(mixed, None, "dce", check=False).module
    assert sorted(weights(again).values()) == ["bf16", "bf16", "i8"]
    result = graphopt.optimize(mixed, X86(), build=Build(cache=tmp_path / "cache"), threads=1)
    assert all(check.ok for check in result.report.checks)
    assert result.report.checks[-1].what.startswith("the compiled bundle")


def test_a_layer_whose_result_is_noted_has_an_error_too() -> None:
    """The note of calibration goes by the same name."""
    module = parse(CONVS)
    rng = np.random.default_rng(0)
    data = [{"x": rng.normal(size=(1, 16, 4, 4)).astype(np.float32)} for _ in range(4)]
    ctx = Context(samples=SampleRuns(lambda: data, 4, "given"))
    (_, record) = run_pipeline(parse_pipeline("calibrate,quantize"), module, ctx)
    assert record.settled
    assert len(record.settled.kept) == 3
    assert all(1e-6 < choice.error < 1e-2 for choice in record.settled.kept)


CONVS = """graph @main(%x: f32[1,16,4,4]) {
  %w = const rand 1 : f32[16,16,3,3]
  %a = conv(%x, %w) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "dense"
  %r = relu(%a) @ "relu"
  %v = const rand 2 : f32[16,1,3,3]
  %b = conv(%r, %v) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1],group=16} @ "each"
  %u = const rand 3 : f32[16,8,2,2]
  %y = conv_transpose(%b, %u) {strides=[2,2],pads=[0,0,0,0],dilations=[1,1],output_padding=[0,0]} @ "up"
  return(%y) {names=[y]}
}"""


def test_dense_convolutions_may_multiply_bfloat16_where_that_is_faster() -> None:
    """As in the pass `half`; depthwise and transposed ones have no such kernels."""
    graph = parse(CONVS).main
    by = {op.loc.nodes[0]: op for op in graph if op.loc.nodes}
    for halves, dense in ((True, "in bfloat16"), (False, "with bfloat16 weights")):
        offers = {n: bfloat.offer(by[n], Bytes(halves))[0] for n in ("dense", "each", "up")}
        assert offers == {"dense": dense, **dict.fromkeys(("each", "up"), "with bfloat16 weights")}
