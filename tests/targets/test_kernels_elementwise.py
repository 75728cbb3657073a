# pyright: basic
# Tables of cases of mixed types.
"""Elementwise and movement kernels against numpy: every kind, accuracy, random chains."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.ir.core import OpKind
from graphopt.ir.parser import parse
from tests.kernelcheck import check, run, runnable

# The largest relative error of each function over the samples, times about 1.5.
ACCURACY = {
    "exp": 1.5e-7, "log": 1.5e-7, "sigmoid": 2.5e-7, "tanh": 3.5e-7, "erf": 1.5e-7, "softplus": 3e-7,
    "mish": 5e-7, "silu": 3e-7, "elu": 2e-7, "softsign": 2e-7, "sqrt": 1e-7, "sin": 1e-7,
    "asinh": 3e-7, "atan": 2e-7, "cos": 1e-7,
}  # fmt: skip


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("kind", ACCURACY)
def test_function_accuracy(kind: str, name: str) -> None:
    """Relative to float64, over dense samples, with the special values right."""
    low, high = (-110, 95) if kind == "exp" else (0, 50) if kind == "log" else (-20, 20)
    special = [0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 88.5, -95, 1e30]
    x = np.concatenate([np.linspace(low, high, 50_000), special]).astype(np.float32)
    graph = parse(f"graph @k(%x: f32[{len(x)}]) {{ %y = {kind}(%x)\n return(%y) }}").main
    assert graph.first
    with np.errstate(all="ignore"):
        want = graph.first.kind.evaluate(x.astype(np.float64))[0]
        single = want.astype(np.float32)
    got = run(graph, name, [x])[0]
    np.testing.assert_array_equal(np.isnan(got), np.isnan(single))
    inf = np.isinf(single)
    np.testing.assert_array_equal(got[inf], single[inf])
    normal = np.isfinite(single) & (np.abs(single) > 1e-37)
    error = np.abs(got[normal] - want[normal]) / np.abs(want[normal])
    assert error.max() <= ACCURACY[kind], x[normal][error.argmax()]


UNARY = ["abs", "neg", "floor", "ceil", "round", "sign", "relu", "gelu", "hard_swish", "leaky_relu", "hard_sigmoid", "reciprocal", "identity"]


@pytest.mark.parametrize("kind", UNARY)
def test_unary(kind: str) -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 3, -7.2, 0, -0.0, np.nan, np.inf, -np.inf, 1e-40], np.float32)
    check(f"graph @k(%x: f32[13]) {{ %y = {kind}(%x)\n return(%y) }}", arrays=[x])


@pytest.mark.parametrize("kind", ["add", "sub", "mul", "div", "min", "max", "mod", "equal", "less", "greater_equal"])
@pytest.mark.parametrize("dtype", ["f32", "i64", "i32", "u8", "f64"])
def test_binary(kind: str, dtype: str) -> None:
    if kind == "mod" and dtype in ("f32", "f64"):
        pytest.skip("ONNX gives no meaning to mod of floats")
    a = np.array([7, -7, 7, -7, 0, 3, 5, 100], np.float64)
    b = np.array([2, 2, -2, -2, 5, 3, -1, 7], np.float64)
    np_type = parse(f"graph @k(%a: {dtype}[8]) {{ return(%a) }}").main.args[0].tensor.dtype.numpy
    arrays = [np.abs(v).astype(np_type) if dtype == "u8" else v.astype(np_type) for v in (a, b)]
    check(f"graph @k(%a: {dtype}[8], %b: {dtype}[8]) {{ %y = {kind}(%a, %b)\n return(%y) }}", arrays=arrays)


@pytest.mark.parametrize(("source", "target"), [
    ("f32", "i64"), ("i64", "f32"), ("f32", "bool"), ("bool", "f32"), ("i32", "u8"), ("f32", "f64"), ("bool", "i64"),
])  # fmt: skip
def test_cast(source: str, target: str) -> None:
    check(f"graph @k(%x: {source}[4,5]) {{ %y = cast(%x) {{to={target}}}\n return(%y) }}")


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("target", ["i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64", "bool"])
@pytest.mark.parametrize(("source", "dtype"), [("f32", np.float32), ("f64", np.float64)])
def test_cast_of_what_the_type_cannot_hold(source: str, dtype: type, target: str, name: str) -> None:
    """As ONNX Runtime and numpy on x86, over whole vectors and in their rest."""
    few = [np.nan, np.inf, -np.inf, 0.0, -0.0, 0.7, -0.7, -5, 255.9, 300, -300.7, 65536, -70000, 3e9, -3e9,
           5e9, 9.3e18, -9.3e18, 1.8e19, 2e19, 1e30]  # fmt: skip
    x = np.tile(np.array(few).astype(dtype), 3)
    with np.errstate(invalid="ignore"):
        check(f"graph @k(%x: {source}[{len(x)}]) {{ %y = cast(%x) {{to={target}}}\n return(%y) }}", name, arrays=[x])


def test_logic_and_choice() -> None:
    check("""graph @k(%a: f32[2,5], %b: f32[5], %c: bool[2,1]) {
      %less = less(%a, %b)
      %both = and(%less, %c)
      %none = not(%both)
      %either = xor(%none, %c)
      %y = where(%either, %a, %b)
      return(%y, %either) }""")


MOVES = [
    ("f32[2,3,4]", "reshape(%x) {shape=[4,6]}"), ("f32[2,3,4]", "transpose(%x) {perm=[2,0,1]}"),
    ("f32[2,12,5]", "reshape(%x) {shape=[2,3,4,5]}"), ("i64[1,3,1]", "squeeze(%x) {axes=[0,2]}"),
    ("f32[3,4]", "unsqueeze(%x) {axes=[0,2]}"), ("f32[3,1]", "expand(%x) {shape=[2,1,5]}"),
    ("f32[6,8]", "slice(%x) {starts=[4,1],ends=[-100,7],axes=[0,1],steps=[-1,2]}"),
    ("f32[2,3]", "pad(%x) {pads=[1,0,2,3],value=1.5}"), ("f32[5,6]", "pad(%x) {pads=[1,2,2,3],mode=reflect}"),
    ("f32[5,6]", "pad(%x) {pads=[1,2,2,3],mode=edge}"), ("f32[5,6]", "pad(%x) {pads=[1,2,2,3],mode=wrap}"),
    ("f32[5,6]", "pad(%x) {pads=[-1,2,2,-3]}"), ("bool[2,3]", "tile(%x) {repeats=[2,3]}"),
    ("f32[1,8,2,3]", "depth_to_space(%x) {block=2}"), ("f32[1,8,2,3]", "depth_to_space(%x) {block=2,mode=CRD}"),
    ("f32[1,2,4,6]", "space_to_depth(%x) {block=2}"),
    ("f32[1,2,4,5]", "resize(%x) {sizes=[8,10],scales=[2.0,2.0],coordinates=asymmetric,rounding=floor}"),
    ("f32[1,2,4,5]", "resize(%x) {sizes=[7,3],scales=[1.75,0.6]}"),
    ("f32[1,2,4,5]", "resize(%x) {sizes=[8,10],scales=[2.0,2.0],mode=linear}"),
    ("f32[1,20,4,5:aBcd16b]", "resize(%x) {sizes=[7,9],scales=[1.75,1.8],mode=linear,coordinates=align_corners}"),
]  # fmt: skip


@pytest.mark.parametrize(("given_type", "op"), MOVES)
def test_movement(given_type: str, op: str) -> None:
    check(f"graph @k(%x: {given_type}) {{ %y = {op}\n return(%y) }}")


SPREADS = [("f32", 16, 16, 2), ("f32", 20, 16, 2), ("u8", 12, 16, 2), ("u8", 24, 16, 2), ("u8", 32, 16, 3),
           ("u8", 6, 16, 2), ("i8", 4, 8, 4), ("bf16", 10, 16, 2), ("f32", 48, 16, 3)]  # fmt: skip


@pytest.mark.parametrize(("dtype", "channels", "block", "by"), SPREADS)
def test_phases_are_spread_in_blocks(dtype: str, channels: int, block: int, by: int) -> None:
    """By words where the channels are words; in whole blocks where they fill these."""
    check(f"""graph @k(%x: {dtype}[2,{channels * by * by},3,5:aBcd{block}b]) {{
      %y = depth_to_space(%x) {{block={by}}} : {dtype}[2,{channels},{3 * by},{5 * by}:aBcd{block}b]
      return(%y) }}""")


def test_concat_split_gather() -> None:
    check("""graph @k(%a: f32[2,3], %b: f32[2,1], %c: f32[2,4]) {
      %y = concat(%a, %b, %c) {axis=1}
      return(%y) }""")
    check("""graph @k(%a: f32[1,16,3,3:aBcd16b], %b: f32[1,20,3,3:aBcd16b]) {
      %y = concat(%a, %b) {axis=1} : f32[1,36,3,3:aBcd16b]
      return(%y) }""")
    check("""graph @k(%x: f32[2,9]) {
      %a, %b = split(%x) {axis=1,sizes=[4,5]}
      return(%b, %a) }""")
    check("""graph @k(%x: f32[9,4], %i: i64[2,3]) {
      %y = gather(%x, %i)
      return(%y) }""")
    check("""graph @k(%x: f32[3,4]) {
      %i = const dense [2, -1, 0] : i64[3]
      %y = gather(%x, %i) {axis=1}
      return(%y) }""")


@pytest.mark.parametrize("n", [1, 8])
def test_images_of_few_channels_go_into_words(n: int) -> None:
    check(f"""graph @k(%x: u8[{n},3,40,40]) {{
      %y = reorder(%x) : u8[{n},3,40,40:aBcd4b]
      return(%y) }}""")


@pytest.mark.parametrize("dtype", ["u8", "i8", "bf16", "f32"])
@pytest.mark.parametrize("parts", [(12, 12), (24, 16, 8), (4, 20, 32, 4), (12, 16), (7, 9), (16, 12), (32, 16)])
def test_concatenations_of_parts_of_blocks(parts: tuple[int, ...], dtype: str) -> None:
    given = ", ".join(f"%x{i}: {dtype}[2,{c},5,3:aBcd16b]" for i, c in enumerate(parts))
    names, total = ", ".join(f"%x{i}" for i in range(len(parts))), sum(parts)
    check(f"""graph @k({given}) {{
      %y = concat({names}) {{axis=1}} : {dtype}[2,{total},5,3:aBcd16b]
      return(%y) }}""", tolerance=0)


LAYOUTS = [("aBcd16b", "aBcd16b"), ("aBcd16b", ""), ("", "aBcd16b")]
FORMS = [
    ("resize(%x) {sizes=[9,10],scales=[1.5,2.0]}", "9,10"),
    ("resize(%x) {sizes=[9,10],scales=[1.5,2.0],mode=linear}", "9,10"),
    ("slice(%x) {starts=[1,4],ends=[6,-100],axes=[2,3],steps=[2,-1]}", "3,5"),
    ("pad(%x) {pads=[0,0,1,2,0,0,0,3],value=0.5}", "7,10"),
    ("pad(%x) {pads=[0,0,1,2,0,0,0,3],mode=reflect}", "7,10"),
    ("transpose(%x) {perm=[0,1,3,2]}", "5,6"),
]


@pytest.mark.parametrize(("source", "target"), LAYOUTS)
@pytest.mark.parametrize("channels", [20, 32])
@pytest.mark.parametrize(("form", "size"), FORMS)
def test_pixels_move_in_any_layout(form: str, size: str, channels: int, source: str, target: str) -> None:
    tag, to = (f":{t}" if t else "" for t in (source, target))
    check(f"""graph @k(%x: f32[1,{channels},6,5{tag}]) {{
      %y = {form} : f32[1,{channels},{size}{to}]
      return(%y) }}""")


@pytest.mark.parametrize(("source", "target"), LAYOUTS)
@pytest.mark.parametrize("sizes", [(16, 32), (32, 8), (20, 20)])
def test_channels_move_in_any_layout(sizes: tuple[int, int], source: str, target: str) -> None:
    tag, to = (f":{t}" if t else "" for t in (source, target))
    (a, b), c = sizes, sum(sizes)
    check(f"""graph @k(%a: f32[1,{a},3,5{tag}], %b: f32[1,{b},3,5{tag}]) {{
      %y = concat(%a, %b) {{axis=1}} : f32[1,{c},3,5{to}]
      return(%y) }}""")
    check(f"""graph @k(%x: f32[1,{c},3,5{tag}]) {{
      %a, %b = split(%x) {{axis=1,sizes=[{a},{b}]}} : f32[1,{a},3,5{to}], f32[1,{b},3,5]
      return(%a, %b) }}""")
    check(f"""graph @k(%x: f32[1,{c},3,5{tag}]) {{
      %s = slice(%x) {{starts=[3],ends=[{a}],axes=[1],steps=[1]}} : f32[1,{a - 3},3,5]
      %y = pad(%s) {{pads=[0,5,0,0,0,6,0,0]}} : f32[1,{a + 8},3,5{to}]
      return(%y) }}""")


@pytest.mark.parametrize(("source", "target"), [
    ("", ":aBcd16b"), (":aBcd16b", ""), (":aBcd16b", ":aBcd8b"), ("", ":acdb"), (":aBcd8b", ":acdb"),
])  # fmt: skip
def test_reorder(source: str, target: str) -> None:
    check(f"""graph @k(%x: f32[2,20,3,5{source}]) {{
      %y = reorder(%x) : f32[2,20,3,5{target}]
      return(%y) }}""")


def test_blocked_operands_broadcast() -> None:
    """Dense, blocked and scalar operands meet in one blocked result; padding stays zero."""
    check("""graph @k(%x: f32[1,20,3,5:aBcd16b], %d: f32[1,20,3,5], %c: f32[20,1,1], %p: f32[1,20,1,1:aBcd16b],
             %r: f32[5], %s: f32[]) {
      %1 = add(%x, %d) : f32[1,20,3,5:aBcd16b]
      %2 = mul(%1, %c) : f32[1,20,3,5:aBcd16b]
      %3 = div(%2, %p) : f32[1,20,3,5:aBcd16b]
      %4 = sub(%3, %r) : f32[1,20,3,5:aBcd16b]
      %5 = exp(%s) : f32[]
      %y = mul(%4, %5) : f32[1,20,3,5:aBcd16b]
      return(%y) }""", tolerance=1e-5)


ONE = ["relu", "tanh", "sigmoid", "abs", "neg", "silu", "gelu", "floor", "softsign", "clip"]
TWO = ["add", "sub", "mul", "min", "max", "prelu"]
OPERANDS = ["f32[2,3,20]", "f32[3,20]", "f32[20]", "f32[3,1]", "f32[1]", "f32[]"]


@st.composite
def chains(draw: st.DrawFn) -> str:
    """A random straight-line region of elementwise ops on broadcasting operands."""
    types = ["f32[2,3,20]", *draw(st.lists(st.sampled_from(OPERANDS), max_size=3))]
    lines, names, wide = [], [f"%a{i}" for i in range(len(types))], ["%a0"]
    for i in range(draw(st.integers(1, 7))):
        first = draw(st.sampled_from(wide))
        if draw(st.booleans()):
            text = f"{draw(st.sampled_from(ONE))}({first})"
            text += " {lo=-1.0,hi=2.0}" if text.startswith("clip") else ""
        else:
            text = f"{draw(st.sampled_from(TWO))}({first}, {draw(st.sampled_from(names))})"
        lines.append(f"%v{i} = {text} : f32[2,3,20]")
        names.append(f"%v{i}")
        wide.append(f"%v{i}")
    args = ", ".join(f"%a{i}: {t}" for i, t in enumerate(types))
    body = "\n  ".join(lines)
    return f"graph @k({args}) {{\n  {body}\n  return({wide[-1]})\n}}"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(chains())
def test_random_chain(text: str) -> None:
    # floor steps: a rounding error below may show as 1 above, so it is kept off inexact inputs
    check(text.replace("floor(%v", "abs(%v"), tolerance=1e-4)


def test_every_elementwise_kind_has_a_rule() -> None:
    from graphopt.ops.elementwise import Elementwise
    from graphopt.targets.tvm.formulas import RULES

    kinds = {n for n, k in OpKind.registry.items() if issubclass(k, Elementwise)}
    assert kinds == set(RULES)
