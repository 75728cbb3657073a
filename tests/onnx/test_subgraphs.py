"""If, Loop and Scan: regions, captured values, names, and evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.analysis.interpret import interpret
from graphopt.ir.builtin import Opaque
from graphopt.ir.types import TensorType
from graphopt.ir.verify import verify
from graphopt.onnx import Reference, evaluate_opaque, load, to_proto
from tests.onnx.models import finish, rand, value

NODE = helper.make_node
X = rand(2, 3)
BIG = rand(3, 200)


def info(name: str, code: int = TensorProto.FLOAT, shape: Any = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, code, shape)


def branches() -> onnx.ModelProto:
    """Both branches name their values alike, capture x, and one has a large weight of its own."""
    yes = helper.make_graph(
        [NODE("MatMul", ["x", "w"], ["h"]), NODE("Relu", ["h"], ["out"])], "yes", [], [info("out")],
        [numpy_helper.from_array(BIG, "w")],
    )  # fmt: skip
    no = helper.make_graph(
        [NODE("Add", ["x", "w"], ["h"]), NODE("Neg", ["h"], ["out"])], "no", [], [info("out")],
        [numpy_helper.from_array(rand(3), "w")],
    )  # fmt: skip
    nodes = [
        NODE("ReduceSum", ["x"], ["s"], keepdims=0), NODE("Greater", ["s", "zero"], ["c"]),
        NODE("If", ["c"], ["y"], name="choose", then_branch=yes, else_branch=no),
    ]  # fmt: skip
    zero = numpy_helper.from_array(np.array(0, np.float32), "zero")
    return finish(helper.make_graph(nodes, "g", [value("x", X)], [info("y")], [zero]), 17)


def loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [NODE("Add", ["acc", "k"], ["next"]), NODE("Identity", ["cond"], ["again"]),
         NODE("Mul", ["next", "x"], ["seen"])],
        "body", [info("i", TensorProto.INT64, []), info("cond", TensorProto.BOOL, []), info("acc")],
        [info("again", TensorProto.BOOL, []), info("next"), info("seen")],
    )  # fmt: skip
    nodes = [NODE("Loop", ["n", "", "x"], ["y", "all"], name="loop", body=body)]
    consts = [numpy_helper.from_array(np.array(4), "n"), numpy_helper.from_array(rand(3, seed=2), "k")]
    return finish(helper.make_graph(nodes, "g", [value("x", X)], [info("y"), info("all")], consts), 17)


def scan() -> onnx.ModelProto:
    body = helper.make_graph(
        [NODE("Add", ["state", "row"], ["next"]), NODE("Relu", ["next"], ["seen"])],
        "body", [info("state", shape=[3]), info("row", shape=[3])], [info("next"), info("seen")],
    )  # fmt: skip
    start = numpy_helper.from_array(np.zeros(3, np.float32), "start")
    nodes = [NODE("Scan", ["start", "x"], ["y", "all"], body=body, num_scan_inputs=1)]
    return finish(helper.make_graph(nodes, "g", [value("x", X)], [info("y"), info("all")], [start]), 17)


def nested() -> onnx.ModelProto:
    """An If in a Loop; the inner branch captures from both graphs around it."""
    yes = helper.make_graph([NODE("Add", ["acc", "x"], ["out"])], "yes", [], [info("out")])
    no = helper.make_graph([NODE("Sub", ["acc", "half"], ["out"])], "no", [], [info("out")])
    body = helper.make_graph(
        [NODE("Mod", ["i", "two"], ["odd"]), NODE("Cast", ["odd"], ["flag"], to=TensorProto.BOOL),
         NODE("Mul", ["acc", "c"], ["half"]),
         NODE("If", ["flag"], ["next"], then_branch=yes, else_branch=no),
         NODE("Identity", ["cond"], ["again"])],
        "body", [info("i", TensorProto.INT64, []), info("cond", TensorProto.BOOL, []), info("acc")],
        [info("again", TensorProto.BOOL, []), info("next")],
        [numpy_helper.from_array(np.array(0.5, np.float32), "c")],
    )  # fmt: skip
    nodes = [NODE("Loop", ["n", "", "x"], ["y"], body=body)]
    consts = [numpy_helper.from_array(np.array(5), "n"), numpy_helper.from_array(np.array(2), "two")]
    return finish(helper.make_graph(nodes, "g", [value("x", X)], [info("y")], consts), 17)


MODELS = {"if": branches, "loop": loop, "scan": scan, "nested": nested}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_numbers(name: str, sign: float) -> None:
    proto = MODELS[name]()
    x = np.abs(X) * np.float32(sign)
    want = Reference(proto).run({"x": x})
    module = load(proto.SerializeToString())
    verify(module)
    written = to_proto(module)
    for got in (
        interpret(module, {"x": x}, opaque=evaluate_opaque),
        Reference(written).run({"x": x}),
        Reference(to_proto(load(written))).run({"x": x}),
    ):
        assert list(got) == list(want)
        for k, v in want.items():
            np.testing.assert_allclose(got[k], v, rtol=1e-5, atol=1e-6)


def test_regions_are_graphs_of_modelled_ops() -> None:
    module = load(branches())
    choose = next(op for op in module.main if isinstance(op.kind, Opaque))
    regions = {r.name: r for r in choose.regions}
    assert set(regions) == {"then_branch", "else_branch"}
    then = regions["then_branch"]
    assert [op.kind.name for op in then] == ["const", "matmul", "relu", "return"]
    x = module.main.args[0]
    assert any(use.op.graph is then for use in x.uses)
    assert choose.loc.nodes == ("choose",)


def test_loop_arguments_are_typed() -> None:
    module = load(loop())
    body = next(op for op in module.main if isinstance(op.kind, Opaque)).regions[0]
    assert all(isinstance(a.type, TensorType) for a in body.args)
    assert [str(a.type) for a in body.args][:2] == ["i64[]", "bool[]"]


def test_large_weights_of_branches_are_streamed_from_the_main_graph() -> None:
    written = to_proto(load(branches().SerializeToString()))
    large = [t.name for t in written.graph.initializer if len(t.raw_data) > 1000]
    small = [t.name for n in written.graph.node for a in n.attribute for t in a.g.initializer]
    assert len(large) == len(small) == 1
    assert large != small


def test_a_branch_that_returns_an_outer_value() -> None:
    yes = helper.make_graph([], "yes", [], [info("x")])
    no = helper.make_graph([NODE("Neg", ["x"], ["out"])], "no", [], [info("out")])
    nodes = [NODE("If", ["c"], ["y"], then_branch=yes, else_branch=no)]
    proto = finish(helper.make_graph(nodes, "g", [value("c", np.array(True)), value("x", X)], [info("y")]), 17)
    module = load(proto)
    for flag in (True, False):
        feeds = {"c": np.array(flag), "x": X}
        for got in (interpret(module, feeds, opaque=evaluate_opaque), Reference(to_proto(module)).run(feeds)):
            np.testing.assert_array_equal(got["y"], X if flag else -X)


def test_text_keeps_regions() -> None:
    from graphopt.ir.parser import parse

    for make in MODELS.values():
        module = load(make())
        text = module.to_text()
        assert parse(text).to_text() == text


def test_unsorted_nodes_in_a_branch() -> None:
    yes = helper.make_graph([NODE("Neg", ["h"], ["out"]), NODE("Relu", ["x"], ["h"])], "yes", [], [info("out")])
    no = helper.make_graph([NODE("Neg", ["x"], ["out"])], "no", [], [info("out")])
    late = NODE("Shape", ["x"], ["shape"])
    nodes = [NODE("If", ["c"], ["y"], then_branch=yes, else_branch=no), late,
             NODE("Greater", ["first", "zero"], ["c"]), NODE("ReduceMax", ["shape"], ["first"], keepdims=0)]  # fmt: skip
    zero = numpy_helper.from_array(np.array(0), "zero")
    proto = finish(helper.make_graph(nodes, "g", [value("x", X)], [info("y")], [zero]), 17)
    got = interpret(load(proto), {"x": X}, opaque=evaluate_opaque)["y"]
    np.testing.assert_array_equal(got, -np.maximum(X, 0))
