"""Ops without kernels that ONNX defines by functions: compiled as those, or kept with a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

import graphopt
from graphopt.api import context, load
from graphopt.passes.expand import Expand
from graphopt.targets.catalog import KERNELS

RNG = np.random.default_rng(0)


def floats(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


Q, K = floats(1, 4, 3, 8), floats(1, 2, 5, 8)
CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("Attention", [Q, K, K], {"is_causal": 1}),
    ("Attention", [Q, K, K, floats(3, 5)], {"scale": 0.5}),
    ("RotaryEmbedding", [Q, floats(1, 3, 4), floats(1, 3, 4)], {}),
    ("Selu", [floats(3, 4)], {}),
    ("MeanVarianceNormalization", [floats(1, 3, 4, 4)], {}),
    ("Shrink", [floats(3, 4)], {"lambd": 0.5, "bias": 0.25}),
    ("GroupNormalization", [floats(1, 4, 3, 3), floats(4), floats(4)], {"num_groups": 2}),
    ("SoftmaxCrossEntropyLoss", [floats(3, 5), np.array([4, 0, 2])], {}),
]


def model(cases: list[tuple[str, list[Any], dict[str, Any]]]) -> tuple[Any, dict[str, Any]]:
    nodes, inputs, outputs, feed = list[Any](), list[Any](), list[Any](), dict[str, Any]()
    for n, (op, arrays, attributes) in enumerate(cases):
        names = ["" if a is None else f"x{n}_{i}" for i, a in enumerate(arrays)]
        feed.update((k, a) for k, a in zip(names, arrays, strict=True) if k)
        nodes.append(helper.make_node(op, names, [f"y{n}"], name=f"{op}{n}", **attributes))
        outputs.append(onnx.ValueInfoProto(name=f"y{n}"))
    for name, array in feed.items():
        code = TensorProto.INT64 if array.dtype == np.int64 else TensorProto.FLOAT
        inputs.append(helper.make_tensor_value_info(name, code, array.shape))
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11
    ), feed


def test_functions_are_compiled_and_right() -> None:
    proto, feed = model(CASES)
    result = graphopt.optimize(proto, target="x86", data=[feed], threads=1)
    assert all(check.ok for check in result.report.checks)
    assert result.program
    assert not list(result.program.fallbacks())
    kinds = [getattr(op.kind, "op_type", op.kind.name) for op in result.module.main]
    assert "Attention" in kinds  # the exported model keeps the op


def test_an_op_without_a_function_or_kernels_for_it_is_kept_and_says_why() -> None:
    module = load(affine_grid())
    result = Expand().run(module, context(catalog=KERNELS))
    assert not result.changed
    assert [str(r) for r in result.remarks] == ["missed: define at grid: its function needs Expand"]


def affine_grid() -> onnx.ModelProto:
    """AffineGrid whose size is an input."""
    node = helper.make_node("AffineGrid", ["t", "s"], ["y"], name="grid")
    inputs = [helper.make_tensor_value_info("t", TensorProto.FLOAT, (1, 2, 3)),
              helper.make_tensor_value_info("s", TensorProto.INT64, (4,))]  # fmt: skip
    graph = helper.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name="y")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
