"""Squeeze and excitation, in whatever spelling: recognised, the same numbers, no more nodes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt.passes
from graphopt.analysis.cost import total_macs
from graphopt.analysis.interpret import interpret, random_inputs
from graphopt.analysis.work import flops
from graphopt.errors import ParseError
from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.ir.printer import to_text
from graphopt.ir.verify import verify
from graphopt.onnx import Reference, load, to_proto
from graphopt.ops.excite import SqueezeExcite
from graphopt.passes.layout import assign_layouts
from graphopt.pipeline import Context, parse_pipeline, run_pipeline
from graphopt.rewrite import const

ONE = "{strides=[1,1],pads=[0,0,0,0],dilations=[1,1]}"
Spelling = Literal["conv", "gemm", "matmul"]


def layer(kind: Spelling, name: str, x: str, ins: int, outs: int, bias: bool) -> str:
    """outs = w x + b of a vector of `ins` numbers, as [N, outs, 1, 1] or [N, outs]."""
    b = f"%{name}b = const rand 7 : f32[{outs}]\n" if bias else ""
    use = f", %{name}b" if bias else ""
    if kind == "conv":
        return f"{b}%{name}w = const rand 5 : f32[{outs},{ins},1,1]\n%{name} = conv(%{x}, %{name}w{use}) {ONE}\n"
    if kind == "gemm":
        return (f"{b}%{name}w = const rand 5 : f32[{outs},{ins}]\n"
                f"%{name} = gemm(%{x}, %{name}w{use}) {{trans_b=true,alpha=0.5}}\n")  # fmt: skip
    added = f"%{name} = add(%{name}p{use})\n" if bias else f"%{name} = identity(%{name}p)\n"
    return f"{b}%{name}w = const rand 5 : f32[{ins},{outs}]\n%{name}p = matmul(%{x}, %{name}w)\n{added}"


GATES = {
    "sigmoid": "%g = sigmoid(%v)\n",
    "hard": "%g = hard_sigmoid(%v) {alpha=0.16666667}\n",
    "relu6": "%k3 = const dense [3.0] : f32[]\n%k6 = const dense [6.0] : f32[]\n%va = add(%v, %k3)\n"
    "%vc = clip(%va) {lo=0.0,hi=6.0}\n%g = div(%vc, %k6)\n",
}


def block(
    kind: Spelling, x: tuple[int, ...], squeezed: int, *, bias: bool, activation: str, gate: str, symbol: bool
) -> str:
    """x * gate(w2 activation(w1 mean(x) + b1) + b2)."""
    channels, flat = x[1], kind != "conv"
    batch = "N" if symbol else str(x[0])
    mean = f"%m = reduce_mean(%x) {{axes=[2,3],keepdims={str(not flat).lower()}}}\n"
    first = layer(kind, "h", "m", channels, squeezed, bias)
    last = layer(kind, "v", "a", squeezed, channels, bias)
    shaped = f"%u = reshape(%g) {{shape=[0,{channels},1,1]}}\n" if flat else "%u = identity(%g)\n"
    return (
        f"graph @main(%x: f32[{batch},{','.join(map(str, x[1:]))}]) {{\n{mean}{first}%a = {activation}(%h)\n"
        f"{last}{GATES[gate]}{shaped}%y = mul(%x, %u)\nreturn(%y) {{names=[y]}}\n}}"
    )


def optimized(source: str) -> tuple[Module, Module]:
    """The module before and after the default pipeline."""
    before, after = parse(source), parse(source)
    run_pipeline(parse_pipeline(graphopt.passes.DEFAULT), after, Context())
    verify(after)
    return before, after


@given(
    st.sampled_from(["conv", "gemm", "matmul"]),
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4)),
    st.integers(1, 5), st.booleans(), st.sampled_from(["relu", "silu", "hard_swish"]),
    st.sampled_from(sorted(GATES)), st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_every_spelling_is_one_op(
    kind: Spelling, x: tuple[int, ...], squeezed: int, bias: bool, activation: str, gate: str, symbol: bool
) -> None:
    before, after = optimized(
        block(kind, x, squeezed, bias=bias, activation=activation, gate=gate, symbol=symbol)
    )
    kinds = [op.kind.name for op in after.main if op.kind.name not in ("const", "return")]
    if x[2:] != (1, 1):  # the mean over one point is no mean
        assert kinds == ["squeeze_excite", "mul"]
        assert total_macs(after.main) == total_macs(before.main)
    assert to_text(parse(to_text(after))) == to_text(after)
    feeds = {"x": np.random.default_rng(0).standard_normal(x).astype(np.float32)}
    want, got = interpret(before, feeds)["y"], interpret(after, feeds)["y"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    first, last = to_proto(before, opset=17), to_proto(after, opset=17)
    assert len(last.graph.node) <= len(first.graph.node)
    np.testing.assert_allclose(Reference(last).run(feeds)["y"], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("version", [7, 11, 13, 17, 20, 24])
def test_it_is_written_as_its_ops_and_found_again(version: int) -> None:
    module = parse("""graph @main(%x: f32[2,6,5,4]) {
      %w1 = const rand 1 : f32[3,6,1,1]
      %w2 = const rand 2 : f32[6,3,1,1]
      %b2 = const rand 3 : f32[6]
      %y = squeeze_excite(%x, %w1, %w2, _, %b2) {activation=silu,gate="hard_sigmoid{alpha=0.25}"} @ "se"
      return(%y) {names=[y]}
    }""")
    feeds = random_inputs(module)
    proto = to_proto(module, opset=version)
    types = [n.op_type for n in proto.graph.node]
    silu = ["Swish"] if version >= 24 else ["Sigmoid", "Mul"]
    assert types == ["GlobalAveragePool", "Conv", *silu, "Conv", "HardSigmoid"]
    got = Reference(proto).run(feeds)["y"]
    np.testing.assert_allclose(got, interpret(module, feeds)["y"], rtol=1e-4, atol=1e-5)
    again = load(proto.SerializeToString())
    run_pipeline(parse_pipeline("default", graphopt.passes.PIPELINES), again, Context())
    assert [op.kind.name for op in again.main if op.kind.name not in ("const", "return")] == ["squeeze_excite"]


def test_its_work_is_the_sums_and_the_products() -> None:
    module = parse("""graph @main(%x: f32[2,6,5,4], %w1: f32[3,6,1,1], %w2: f32[6,3,1,1]) {
      %y = squeeze_excite(%x, %w1, %w2)
      return(%y)
    }""")
    assert total_macs(module.main) == 2 * (18 + 18)
    assert flops(next(iter(module.main))) == 2 * 2 * (18 + 18) + 2 * 6 * 5 * 4


def test_an_activation_inside_decides_the_opset() -> None:
    module = parse("""graph @main(%x: f32[2,6,5,4]) {
      %w1 = const rand 1 : f32[3,6,1,1]
      %w2 = const rand 2 : f32[6,3,1,1]
      %y = squeeze_excite(%x, %w1, %w2) {activation=gelu}
      return(%y)
    }""")
    assert to_proto(module).opset_import[0].version == 20


def test_blocks_pass_through_it() -> None:
    """No reorder but of constants; the gate of partial blocks is blocked as x is."""
    for channels in (32, 24):
        module = parse(f"""graph @main(%x: f32[1,16,8,8]) {{
          %w = const rand 1 : f32[{channels},16,1,1]
          %c = conv(%x, %w) {ONE}
          %w1 = const rand 2 : f32[8,{channels},1,1]
          %w2 = const rand 3 : f32[{channels},8,1,1]
          %b1 = const rand 4 : f32[8]
          %g = squeeze_excite(%c, %w1, %w2, %b1)
          %m = mul(%c, %g)
          %w3 = const rand 5 : f32[16,{channels},1,1]
          %y = conv(%m, %w3) {ONE}
          return(%y)
        }}""")
        assign_layouts(module.main, 16)
        verify(module)
        reorders = [op.operand(0) for op in module.main if op.kind.name == "reorder"]
        assert sum(const(v) is None for v in reorders) == 2  # the graph's input and output
        (found,) = [op for op in module.main if op.kind.name == "squeeze_excite"]
        layouts = [v.tensor.layout for v in (*found.operands, found.result) if v]
        assert layouts == ["aBcd16b", "Abcd16a", "Abcd16a", "A16a", "aBcd16b"]


@pytest.mark.parametrize("text", ["softmax", "add", "not", "cast{to=f32}", "nothing", "relu relu", ""])
def test_only_functions_of_a_float_are_activations(text: str) -> None:
    with pytest.raises(ValueError, match="names no activation"):
        SqueezeExcite(gate=text)
    with pytest.raises(ParseError, match="activation"):
        parse(f'graph @main(%x: f32[1,2,3,3]) {{ %y = squeeze_excite(%x, %x, %x) {{gate="{text}"}}\n return(%y) }}')


@pytest.mark.parametrize("weights", [
    "f32[3,5,1,1], %w2: f32[6,3,1,1]", "f32[3,6,1,1], %w2: f32[6,4,1,1]", "f32[3,6,1,1], %w2: f32[5,3,1,1]",
    "f32[3,6,3,1], %w2: f32[6,3,1,1]", "f32[3,6], %w2: f32[6,3]", "f64[3,6,1,1], %w2: f32[6,3,1,1]",
])  # fmt: skip
def test_what_does_not_fit_is_refused(weights: str) -> None:
    with pytest.raises(ParseError, match=r"w1|w2|channels|types"):
        parse(f"graph @main(%x: f32[1,6,3,3], %w1: {weights}) {{ %y = squeeze_excite(%x, %w1, %w2)\n return(%y) }}")
