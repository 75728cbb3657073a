"""Ops whose body comes from TVM's importer: compiled, right, and refused in a sentence otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Op
from graphopt.ir.types import DType, TensorType
from graphopt.targets.program import KernelCall
from graphopt.targets.tvm.importable import importable

RNG = np.random.default_rng(0)


def floats(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


CASES: list[tuple[str, list[Any], tuple[int, ...], dict[str, Any]]] = [
    ("Einsum", [floats(2, 3), floats(3, 4)], (2, 4), {"equation": "ij,jk->ik"}),
    ("GridSample", [floats(1, 2, 4, 4), floats(1, 3, 3, 2)], (1, 2, 3, 3), {}),
    ("Hardmax", [floats(3, 4)], (3, 4), {}),
    ("LpPool", [floats(1, 2, 5)], (1, 2, 4), {"kernel_shape": [2]}),
    ("Trilu", [floats(3, 4), np.array(1)], (3, 4), {}),  # with constants inside
    ("ReduceLogSum", [np.abs(floats(3, 4)), np.array([1])], (3, 1), {}),
]  # fmt: skip


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
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    ), feed


def test_imported_ops_are_compiled_and_right_and_the_rest_says_why() -> None:
    proto, feed = model()
    result = graphopt.optimize(proto, target="x86", data=[feed], threads=1)
    assert all(check.ok for check in result.report.checks)
    assert result.program and result.report.fallback
    compiled = {n for s in result.program.steps if isinstance(s, KernelCall) for n in s.nodes}
    assert compiled == {op for op, *_ in CASES} - {"ReduceLogSum"}
    assert {k.family for k in result.program.kernels} == {"imported"}
    assert result.report.fallback.reasons == {"ReduceLogSum": "ReduceLogSum has no kernel"}


@pytest.mark.parametrize(("op", "attributes"), [
    ("IsInf", {"detect_negative": 0}), ("RoiAlign", {"mode": "max"}),
])  # fmt: skip
def test_what_the_importer_gets_wrong_is_left_to_onnx_runtime(
    op: str, attributes: dict[str, Any]
) -> None:
    kind = Opaque(op, version=20, attrs=tuple(attributes.items()))
    assert not importable(Op(kind, [], [TensorType(DType.bool_, (2,))]))
