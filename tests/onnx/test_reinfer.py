"""Types of opaque ops, once their operands' sizes are known; Softmax of old opsets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from graphopt.analysis.bind import bind
from graphopt.analysis.cost import total_macs
from graphopt.api import context, load
from graphopt.ir.core import Module
from graphopt.ir.types import DType, TensorType
from graphopt.ir.verify import verify
from graphopt.onnx import to_proto
from graphopt.onnx.reinfer import reinfer
from graphopt.passes.fold import Fold


def lstm() -> Module:
    """LSTM over a sequence of unknown length, then its last state flattened by a shape computation."""
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["y", "h"], hidden_size=4),
        helper.make_node("Shape", ["y"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["y", "to"], ["z"]),
    ]
    rng = np.random.default_rng(0)
    tensors = {
        "w": rng.normal(size=(1, 16, 3)).astype(np.float32),
        "r": rng.normal(size=(1, 16, 4)).astype(np.float32),
        "zero": np.array([0]),
        "rest": np.array([-1]),
    }
    weights = [helper.make_tensor(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape, v.reshape(-1))
               for k, v in tensors.items()]  # fmt: skip
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", 1, 3]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, None)]  # fmt: skip
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", 17)]
    return load(helper.make_model(graph, opset_imports=opsets, ir_version=9))


def test_results_get_the_shape_that_follows_from_the_operands() -> None:
    module = lstm()
    (op,) = [o for o in module.main if getattr(o.kind, "op_type", "") == "LSTM"]
    op.results[0].type = TensorType(DType.f32, None)  # as after a reshape of unknown sizes
    assert reinfer(op) is None  # T isn't known
    module.main.args[0].type = TensorType(DType.f32, (5, 1, 3))
    types = reinfer(op)
    assert types is not None
    assert types[0] == TensorType(DType.f32, (5, 1, 1, 4))


def test_fold_carries_them_on() -> None:
    module = lstm()
    for op in module.main:
        for result in op.results if op.kind.name == "opaque" else ():
            result.type = TensorType(DType.f32, None)
    bind(module, {"x": (5, 1, 3)})
    Fold().run(module, context())
    verify(module)
    assert [v.type for v in module.main.outputs] == [
        TensorType(DType.f32, (5, 4)), TensorType(DType.f32, (1, 1, 4))
    ]  # fmt: skip
    assert all(getattr(op.kind, "op_type", "") != "Reshape" for op in module.main)


def test_softmax_of_opset_9_over_trailing_axes_of_one_needs_no_transposition() -> None:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8, 1, 1]) for n in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["y"], axis=1)], "g", ends[:1], ends[1:]
    )
    opsets = [helper.make_opsetid("", 9)]
    proto = to_proto(load(helper.make_model(graph, opset_imports=opsets, ir_version=4)))
    assert [n.op_type for n in proto.graph.node] == ["Softmax"]


@pytest.mark.parametrize("name", ["GroupNormalization", "MeanVarianceNormalization"])
def test_functions_that_onnx_infers_nothing_for_give_what_they_read(name: str) -> None:
    """Else all layers behind them would have unknown sizes: no multiply-adds, nothing to prune."""
    ones = helper.make_tensor("ones", TensorProto.FLOAT, [6], np.ones(6, np.float32))
    filters = helper.make_tensor("w", TensorProto.FLOAT, [2, 6, 1, 1], np.ones(12, np.float32))
    group = name == "GroupNormalization"
    options: dict[str, Any] = {"num_groups": 3} if group else {"axes": [0, 2, 3]}
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node(name, ["r", "ones", "ones"] if group else ["r"], ["n"], **options),
        helper.make_node("Conv", ["n", "w"], ["y"], kernel_shape=[1, 1]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2, 4, 4])
    graph = helper.make_graph(nodes, "g", [x], [y], [ones, filters])
    module = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
    normal = next(op for op in module.main if getattr(op.kind, "op_type", "") == name)
    assert str(normal.result.type) == "f32[N,6,4,4]"
    bind(module)
    assert str(normal.result.type) == "f32[1,6,4,4]"
    assert total_macs(module.main) == 2 * 6 * 16
    verify(load(to_proto(module)))
