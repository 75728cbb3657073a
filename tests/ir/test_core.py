"""Mutation, use lists, the verifier, clones, layouts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import GraphoptError, VerifyError
from graphopt.ir import DType, Graph, Module, Op, TensorType
from graphopt.ir.builtin import Opaque, Return
from graphopt.ir.clone import captured, clone_module, extract
from graphopt.ir.layout import pack, parse_layout, physical_shape, unpack
from graphopt.ir.parser import parse
from graphopt.ir.verify import verify
from graphopt.ops.elementwise import Add, Relu

F = TensorType(DType.f32, (2,))


def chain() -> tuple[Graph, Op, Op]:
    graph = Graph([F], hints=["x"])
    first = graph.insert(Op(Relu(), graph.args))
    second = graph.insert(Op(Add(), [first.result, first.result]))
    graph.insert(Op(Return(("y",)), second.results))
    return graph, first, second


def test_a_detached_op_leaves_no_use() -> None:
    graph, first, _ = chain()
    Op(Relu(), [first.result])
    assert first.result.use_count == 2
    verify(Module(graph))


def test_erasing_a_used_op_is_refused() -> None:
    graph, first, _ = chain()
    with pytest.raises(GraphoptError, match="still used"):
        graph.erase(first)


def test_replacing_all_uses_moves_them() -> None:
    graph, first, second = chain()
    first.result.replace_all_uses_with(graph.args[0])
    assert first.result.use_count == 0
    assert graph.args[0].use_count == 3
    graph.erase(first)
    assert [op.kind.name for op in graph] == ["add", "return"]
    assert second.operands == (graph.args[0],) * 2
    verify(Module(graph))


def test_erasing_an_op_with_a_region_releases_outer_values() -> None:
    graph, first, _ = chain()
    body = Graph(name="body")
    inner = body.insert(Op(Relu(), [first.result]))
    body.insert(Op(Return(), inner.results))
    holder = graph.insert(Op(Opaque("If"), [], [F], regions=[body]), before=graph.last)
    assert first.result.use_count == 3
    assert captured(holder) == [first.result]
    graph.erase(holder)
    assert first.result.use_count == 2


def test_erasing_while_iterating_is_safe() -> None:
    graph = Graph([F])
    for _ in range(5):
        graph.insert(Op(Relu(), graph.args))
    graph.insert(Op(Return(), graph.args))
    for op in graph:
        if op.kind.name == "relu":
            graph.erase(op)
    assert [op.kind.name for op in graph] == ["return"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "graph @g(%x: f32[2]) { %y = relu(%x) : f32[3] return(%y) }",
            "infers f32\\[2\\] but says",
        ),
        ("graph @g(%x: f32[2]) { return(%x) %y = relu(%x) }", "return is not the last op"),
        ("graph @g(%x: f32[2]) { %y = relu(%x) }", "does not end in return"),
    ],
)
def test_the_verifier_says_what_is_wrong(text: str, why: str) -> None:
    with pytest.raises(VerifyError, match=why):
        verify(parse(text))


def test_the_verifier_sees_a_use_before_its_definition() -> None:
    graph, first, second = chain()
    moved = Op(Relu(), second.results)
    graph.insert(moved, before=first)
    with pytest.raises(VerifyError, match="used before it is defined"):
        verify(Module(graph))


def test_values_of_a_region_are_not_seen_outside() -> None:
    text = """graph @g(%x: f32[2]) {
      %y = opaque(%x) {op_type=If} : f32[2] { graph @then_branch() { %z = relu(%x) return(%z) } }
      %w = relu(%z)
      return(%w) }"""
    with pytest.raises(VerifyError, match="used before it is defined"):
        verify(parse(text))


def test_a_clone_prints_the_same_and_shares_no_ops() -> None:
    graph, *_ = chain()
    module = Module(graph, "m", {"": 18}, {"a": "b"})
    copy = clone_module(module)
    assert copy.to_text() == module.to_text()
    assert not set(copy.main) & set(module.main)
    verify(copy)


def test_extract_takes_constants_along_and_names_the_ends() -> None:
    module = parse("""graph @g(%x: f32[2]) {
      %c = const dense [1.0, 2.0] : f32[2]
      %a = add(%x, %c)
      %b = relu(%a)
      %d = add(%b, %a)
      return(%d) }""")
    ops = [op for op in module.main if op.kind.name in ("add", "relu")][:2]
    part, inputs, outputs = extract(ops, "part")
    assert [v.hint for v in inputs] == ["x"]
    assert [v.hint for v in outputs] == ["a", "b"]
    verify(Module(part))
    verify(module)


SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


@st.composite
def tags(draw: st.DrawFn, rank: int) -> str:
    order = draw(st.permutations(range(rank)))
    blocked = draw(st.lists(st.sampled_from(range(rank)), unique=True, max_size=2))
    sizes = [draw(st.sampled_from([2, 4, 16])) for _ in blocked]
    outer = "".join(chr(97 + a).upper() if a in blocked else chr(97 + a) for a in order)
    return outer + "".join(f"{s}{chr(97 + a)}" for a, s in zip(blocked, sizes, strict=True))


@given(st.data())
def test_layouts_pack_and_unpack(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    tag = data.draw(tags(len(shape)))
    array = np.arange(1, np.prod(shape) + 1, dtype=np.int32).reshape(shape)
    packed = pack(array, tag)
    assert packed.shape == physical_shape(shape, tag)
    np.testing.assert_array_equal(unpack(packed, tag, shape), array)
    assert int(packed.sum()) == int(array.sum())  # the padding is zero


def test_nchw16c_is_where_it_should_be() -> None:
    array = np.arange(2 * 32 * 3 * 5).reshape(2, 32, 3, 5)
    packed = pack(array, "aBcd16b")
    assert packed.shape == (2, 2, 3, 5, 16)
    assert packed[1, 1, 2, 4, 7] == array[1, 23, 2, 4]


@pytest.mark.parametrize("tag", ["", "b", "aa", "aB", "ab16b", "aB16c", "a!", "aB1b"])
def test_bad_layout_tags_are_refused(tag: str) -> None:
    with pytest.raises(ValueError, match="layout tag"):
        parse_layout(tag)
