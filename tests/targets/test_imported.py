"""Ops whose body comes from TVM's importer: compiled, right, and refused in a sentence otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

import graphopt

RNG = np.random.default_rng(0)
INDEX = np.array([[0, 2, 1, 1], [1, 0, 2, 0]], np.int64)


def floats(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


CASES: list[tuple[str, list[Any], tuple[int, ...], dict[str, Any]]] = [
    ("ScatterElements", [floats(3, 4), INDEX, floats(2, 4)], (3, 4), {"axis": 0}),
    ("Trilu", [floats(5, 5)], (5, 5), {}),
    ("Einsum", [floats(2, 3), floats(3, 4)], (2, 4), {"equation": "ij,jk->ik"}),
    ("Selu", [floats(3, 4)], (3, 4), {}),
    ("ThresholdedRelu", [floats(3, 4)], (3, 4), {"alpha": 0.5}),
    ("MeanVarianceNormalization", [floats(1, 3, 4, 4)], (1, 3, 4, 4), {}),
    ("GridSample", [floats(1, 2, 4, 4), floats(1, 3, 3, 2)], (1, 2, 3, 3), {}),
    ("GatherElements", [floats(3, 4), INDEX], (2, 4), {"axis": 0}),
]


def model() -> tuple[onnx.ModelProto, dict[str, Any]]:
    nodes, inputs, outputs = list[Any](), list[Any](), list[Any]()
    feed = dict[str, Any]()
    for n, (op, arrays, out, attributes) in enumerate(CASES):
        names = [f"x{n}_{i}" for i in range(len(arrays))]
        feed.update(zip(names, arrays, strict=True))
        nodes.append(helper.make_node(op, names, [f"y{n}"], name=op, **attributes))
        outputs.append(helper.make_tensor_value_info(f"y{n}", TensorProto.FLOAT, out))
    for name, array in feed.items():
        code = TensorProto.INT64 if array.dtype == np.int64 else TensorProto.FLOAT
        inputs.append(helper.make_tensor_value_info(name, code, array.shape))
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), feed


def test_imported_ops_are_compiled_and_right_and_the_rest_says_why() -> None:
    proto, feed = model()
    result = graphopt.optimize(proto, target="x86", data=[feed], threads=1)
    assert all(check.ok for check in result.report.checks)
    assert result.program and result.report.fallback
    compiled = {n for s in result.program.steps for n in s.nodes} - {"GatherElements"}
    assert compiled == {op for op, *_ in CASES} - {"GatherElements"}
    assert {k.family for k in result.program.kernels} == {"imported"}
    # TVM's import of this one clips the indices by a constant tensor, which can't be merged.
    assert result.report.fallback.reasons.keys() == {"GatherElements"}
    assert "importer" in result.report.fallback.reasons["GatherElements"]
