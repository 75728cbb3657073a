"""Every kind that `distill` trains through means in PyTorch what it means in numpy."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.analysis.interpret import interpret, random_inputs
from graphopt.ir.core import Module, OpKind
from graphopt.ir.parser import parse
from graphopt.ir.types import Array
from graphopt.passes.distill.network import Network
from graphopt.passes.distill.table import FUNCTIONS
from tests.strategies import modules

UNARY = (
    "abs neg exp log sqrt reciprocal floor ceil round sign sin cos tan asin acos atan sinh cosh "
    "asinh acosh atanh tanh erf sigmoid relu is_nan softplus softsign mish hard_swish gelu silu "
    "leaky_relu elu hard_sigmoid clip identity"
)
BINARY = "add sub mul div pow min max prelu equal less less_equal greater greater_equal"
REDUCTIONS = (
    "reduce_sum reduce_mean reduce_max reduce_min reduce_prod reduce_l1 reduce_l2 "
    "reduce_sum_square reduce_log_sum_exp"
)
IMAGE = "f32[1,4,6,7]"

CASES = [
    *(f"f32[2,9]: {k}(%0)" for k in UNARY.split()),
    *(f"f32[2,3,4], f32[3,1]: {k}(%0, %1)" for k in BINARY.split()),
    *(f"f32[2,3,4]: {k}(%0) {{axes=[0,-1],keepdims={d}}}"
      for k in REDUCTIONS.split() for d in ("true", "false")),
    "f32[2,3]: reduce_l1(%0) {axes=[],keepdims=true}",
    *(f"bool[2,5], bool[2,5]: {k}(%0, %1)" for k in ("and", "or", "xor")),
    "bool[2,5]: not(%0)",
    "f32[2,9]: gelu(%0) {approximate=tanh}", "f32[2,9]: silu(%0) {alpha=1.7}",
    "f32[2,9]: leaky_relu(%0) {alpha=0.3}", "f32[2,9]: elu(%0) {alpha=0.7}",
    "f32[2,9]: hard_sigmoid(%0) {alpha=0.3,beta=0.4}", "f32[2,9]: clip(%0) {lo=-0.5,hi=0.5}",
    "f32[2,9]: clip(%0) {lo=0.1}", "f32[2,9]: cast(%0) {to=i64}", "i64[2,9]: cast(%0) {to=f32}",
    "bool[2,9]: cast(%0) {to=f32}", "i64[2,9], i64[9]: add(%0, %1)",
    "f32[2,9], f32[2,9]: mod(%0, %1) {fmod=true}",
    "bool[2,1], f32[2,3], f32[3]: where(%0, %1, %2)",
    "f32[2,3,4]: reshape(%0) {shape=[0,-1]}", "f32[2,3,4]: transpose(%0) {perm=[2,0,1]}",
    "f32[2,3], f32[2,5]: concat(%0, %1) {axis=1}", "f32[2,3], f32[4,3]: concat(%0, %1) {axis=-2}",
    "f32[2,7]: slice(%0) {starts=[1],ends=[6],axes=[1],steps=[2]}",
    "f32[2,7]: slice(%0) {starts=[-1],ends=[-8],axes=[1],steps=[-1]}",
    "f32[5,7]: slice(%0) {starts=[1,2],ends=[4,7],axes=[0,1],steps=[1,1]}",
    "f32[5,3]: expand(%0) {shape=[2,1,3]}", "f32[1,5,1]: squeeze(%0) {axes=[0,-1]}",
    "f32[5,3]: unsqueeze(%0) {axes=[0,-1]}", "f32[2,3]: tile(%0) {repeats=[2,3]}",
    "f32[1,8,2,3]: depth_to_space(%0) {block=2,mode=DCR}",
    "f32[1,8,2,3]: depth_to_space(%0) {block=2,mode=CRD}",
    "f32[1,2,4,6]: space_to_depth(%0) {block=2}", "f32[2,3]: shape(%0)",
    "f32[3,5]: pad(%0) {pads=[1,0,2,3],mode=constant,value=0.5}",
    *(f"f32[3,5]: pad(%0) {{pads=[1,0,2,3],mode={m}}}" for m in ("reflect", "edge", "wrap")),
    f"{IMAGE}, f32[6,4,3,3], f32[6]: conv(%0, %1, %2) {{strides=[2,1],pads=[1,1,1,1],dilations=[1,1]}}",
    f"{IMAGE}, f32[4,1,3,2]: conv(%0, %1) {{strides=[1,1],pads=[0,1,2,0],dilations=[1,2],group=4}}",
    f"{IMAGE}, f32[6,2,1,1]: conv(%0, %1) {{strides=[1,1],pads=[0,0,0,0],dilations=[1,1],group=2}}",
    "f32[1,4,9], f32[6,4,3]: conv(%0, %1) {strides=[2],pads=[1,0],dilations=[1]}",
    f"{IMAGE}, f32[4,3,3,3], f32[6]: conv_transpose(%0, %1, %2) "
    "{strides=[2,2],pads=[1,1,0,1],dilations=[1,1],output_padding=[1,1],group=2}",
    f"{IMAGE}: max_pool(%0) {{kernel=[3,2],strides=[2,2],pads=[1,0,0,1],dilations=[1,1]}}",
    f"{IMAGE}: max_pool(%0) {{kernel=[2,2],strides=[1,1],pads=[0,0,0,0],dilations=[2,1]}}",
    f"{IMAGE}: avg_pool(%0) {{kernel=[3,2],strides=[2,2],pads=[1,0,0,1],dilations=[1,1]}}",
    f"{IMAGE}: avg_pool(%0) "
    "{kernel=[3,2],strides=[2,2],pads=[1,0,0,1],dilations=[1,1],count_include_pad=true}",
    f"{IMAGE}: avg_pool(%0) {{kernel=[2,2],strides=[1,1],pads=[0,0,0,0],dilations=[2,1]}}",
    f"{IMAGE}, f32[4], f32[4], f32[4], f32[4]: batch_norm(%0, %1, %2, %3, %4) {{epsilon=0.01}}",
    f"{IMAGE}, f32[4], f32[4]: instance_norm(%0, %1, %2) {{epsilon=0.01}}",
    "f32[2,5,8], f32[8], f32[8]: layer_norm(%0, %1, %2) {axis=-1,epsilon=0.01}",
    "f32[2,5,8], f32[5,8]: layer_norm(%0, %1) {axis=-2,epsilon=0.01}",
    "f32[2,5,8], f32[8]: rms_norm(%0, %1) {axis=-1,epsilon=0.01}",
    f"{IMAGE}: lrn(%0) {{size=3,alpha=0.1,beta=0.75,bias=1.0}}",
    "f32[2,5]: softmax(%0) {axis=-1}", "f32[2,5]: softmax(%0) {axis=0}",
    "f32[2,5]: log_softmax(%0) {axis=-1}",
    "f32[2,5,8], f32[8,3]: matmul(%0, %1)", "f32[2,1,5,8], f32[3,8,4]: matmul(%0, %1)",
    "f32[5,8], f32[3,8], f32[3]: gemm(%0, %1, %2) {alpha=0.5,beta=2.0,trans_b=true}",
    "f32[8,5], f32[8,3]: gemm(%0, %1) {trans_a=true}",
    "f32[1,2,5,8], f32[1,2,6,8], f32[1,2,6,4]: attention(%0, %1, %2) {scale=0.3}",
    "f32[1,2,5,8], f32[1,2,6,8], f32[1,2,6,4], f32[5,6]: attention(%0, %1, %2, %3) {scale=0.3}",
    "f32[1,8,4,4], f32[3,8,1,1], f32[8,3,1,1], f32[3], f32[8]: squeeze_excite(%0, %1, %2, %3, %4)",
    "f32[2,7]: arg_max(%0) {axis=1,keepdims=true}",
    "f32[2,7]: arg_min(%0) {axis=-1,keepdims=false,select_last=true}",
]  # fmt: skip

GRAPHS = {
    "split": "graph @g(%0: f32[2,7]) { %a, %b = split(%0) {axis=1,sizes=[3,4]}\n return(%a, %b) }",
    "gather": """graph @g(%0: f32[5,3]) { %i = const dense [0,-1,2,2] : i64[4]
  %y = gather(%0, %i) {axis=0}\n return(%y) }""",
    "gather-scalar": """graph @g(%0: f32[5,3]) { %i = const dense [-2] : i64[]
  %y = gather(%0, %i) {axis=1}\n return(%y) }""",
    **{
        f"resize-{i}": f"graph @g(%0: f32[1,2,5,6]) {{ %y = resize(%0) {{{attrs}}}\n return(%y) }}"
        for i, attrs in enumerate((
            "sizes=[10,9],scales=[2.0,1.5],mode=nearest", "sizes=[10,9],scales=[2.0,1.5],mode=linear",
            "sizes=[3,4],scales=[0.6,0.6666667],mode=linear,coordinates=align_corners",
        ))
    },
}  # fmt: skip


def graph_of(case: str) -> str:
    """The text of a graph with one op."""
    types, op = re.split(r": (?=\w+\()", case, maxsplit=1)
    args = re.findall(r"\w+\[[\d,]*\]", types)
    named = ", ".join(f"%x{i}: {t}" for i, t in enumerate(args))
    op = re.sub(r"%(\d)", r"%x\1", op)
    return f"graph @g({named}) {{ %y = {op}\n return(%y) }}"


TEXTS = {re.sub(r"\W+", "-", case): graph_of(case) for case in CASES} | GRAPHS


def both(module: Module, feeds: list[dict[str, Array]]) -> list[tuple[Array, Array]]:
    """Each output of all runs, by numpy and by PyTorch."""
    torch: Any = pytest.importorskip("torch", reason="it's the extra graphopt[distill]")
    network = Network(torch, module.main, module.main.outputs, train=False)
    inputs = [torch.from_numpy(np.stack([f[a.hint] for f in feeds])) for a in module.main.args]
    found = [t.numpy() for t in network(inputs)]
    wanted = [list(interpret(module, f).values()) for f in feeds]
    return [(np.stack([w[i] for w in wanted]), got) for i, got in enumerate(found)]


def close(want: Array, got: Array) -> None:
    """Alike in shape, type and numbers, as nearly as float32 sums are."""
    assert (want.shape, want.dtype) == (got.shape, got.dtype)
    if want.dtype.kind != "f":
        assert (want == got).all()
        return
    scale = float(np.abs(want[np.isfinite(want)]).max(initial=1.0))
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6 * scale, equal_nan=True)


@pytest.mark.parametrize("name", TEXTS)
def test_a_kind_is_the_same_in_pytorch(name: str) -> None:
    module = parse(TEXTS[name])
    feeds = [random_inputs(module, seed) for seed in (1, 2, 3)]
    for feed in feeds:
        if "batch_norm" in TEXTS[name]:
            feed["x4"] = np.abs(feed["x4"]) + np.float32(0.5)
    for want, got in both(module, feeds):
        close(want, got)


def test_the_cases_cover_the_table() -> None:
    """A kind that enters the table needs a case here; this runs without PyTorch."""
    tried = {type(op.kind) for text in TEXTS.values() for op in parse(text).main}
    missing: set[type[OpKind]] = set(FUNCTIONS) - tried
    assert not missing


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(module=modules(steps=False), seed=st.integers(0, 99))
def test_random_graphs_are_the_same_in_pytorch(module: Module, seed: int) -> None:
    for want, got in both(module, [random_inputs(module, seed + i) for i in range(2)]):
        assert (want.shape, want.dtype) == (got.shape, got.dtype)
        if np.isfinite(want).all():
            reach = float(np.abs(want).max(initial=1.0))
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * reach)
