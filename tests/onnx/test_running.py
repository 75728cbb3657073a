"""Reference, evaluate_opaque, the numpy interpreter and random inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.analysis.interpret import interpret, random_inputs
from graphopt.errors import InputError, UnsupportedError
from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Op
from graphopt.onnx import Reference, evaluate_opaque, load, save
from tests.onnx.models import finish, rand, value

NODE = helper.make_node
X = rand(2, 3)
OUT = onnx.ValueInfoProto(name="y")


def relu(opset: int = 17) -> onnx.ModelProto:
    return finish(helper.make_graph([NODE("Relu", ["x"], ["y"])], "g", [value("x", X)], [OUT]), opset)


def test_reference_of_every_source(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(relu().SerializeToString())
    for source in (path, str(path), path.read_bytes(), relu(), load(path)):
        reference = Reference(source)
        assert list(reference.inputs) == ["x"]
        assert list(reference.outputs) == ["y"]
        np.testing.assert_array_equal(reference.run({"x": X})["y"], np.maximum(X, 0))


def test_reference_of_models_newer_than_onnx_runtime() -> None:
    model = relu()
    model.ir_version = 99  # ONNX Runtime refuses formats newer than itself
    reference = Reference(model)
    assert reference.engine == "onnx.reference"
    np.testing.assert_array_equal(reference.run({"x": X})["y"], np.maximum(X, 0))


def test_reference_complains_in_one_sentence() -> None:
    reference = Reference(relu())
    for feeds in ({}, {"x": X, "z": X}, {"x": X.astype(np.int32)}, {"x": rand(5, 5, 5)}):
        with pytest.raises(InputError) as why:
            reference.run(feeds)
        assert "\n" not in str(why.value)
    custom = finish(helper.make_graph([NODE("My", ["x"], ["y"], domain="mine")], "g", [value("x", X)], [OUT]), 17)
    custom.opset_import.append(helper.make_opsetid("mine", 1))
    with pytest.raises(InputError) as why:
        Reference(custom)
    assert "\n" not in str(why.value)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_types_that_numpy_lacks(dtype: Any) -> None:
    x = X.astype(dtype)
    code = helper.np_dtype_to_tensor_dtype(x.dtype)
    info = helper.make_tensor_value_info("x", code, [2, 3])
    graph = helper.make_graph([NODE("Identity", ["x"], ["y"])], "g", [info], [OUT])
    got = Reference(finish(graph, 21)).run({"x": x})["y"]
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got.astype(np.float32), x.astype(np.float32))


def opaque(op_type: str, version: int = 17, **attrs: Any) -> Opaque:
    return Opaque(op_type, "", version, tuple(sorted(attrs.items())))


def test_evaluate_opaque() -> None:
    values, indices = evaluate_opaque(opaque("TopK", axis=1), (X, np.array([2])))
    np.testing.assert_array_equal(values, -np.sort(-X, axis=1)[:, :2])
    assert indices.dtype == np.int64
    (y,) = evaluate_opaque(opaque("CumSum"), (X, np.array(1)))
    np.testing.assert_allclose(y, np.cumsum(X, 1), rtol=1e-6)
    parts = evaluate_opaque(opaque("Split", axis=1), (X, np.array([1, 2])), results=2)
    np.testing.assert_array_equal(parts[1], X[:, 1:])
    (y,) = evaluate_opaque(opaque("Clip"), (X, None, np.float32(0.5)))
    np.testing.assert_array_equal(y, np.minimum(X, np.float32(0.5)))
    (y,) = evaluate_opaque(opaque("SequenceAt"), ([X, X * 2], np.array(1)))
    np.testing.assert_array_equal(y, X * 2)
    kind = Opaque("LSTM", "", 14, (("hidden_size", 2),), (0, 1))
    missing = evaluate_opaque(kind, (rand(3, 1, 3), rand(1, 8, 3), rand(1, 8, 2)), results=3)
    assert missing[:2] == (None, None)
    assert missing[2].shape == (1, 1, 2)


def test_evaluate_opaque_refuses_what_nothing_computes() -> None:
    for kind in (Opaque("My", "mine"), opaque("TopK", axis=7)):
        with pytest.raises(UnsupportedError) as why:
            evaluate_opaque(kind, (X, np.array([2])))
        assert "\n" not in str(why.value)


def test_interpreter_observes_and_frees() -> None:
    nodes = [NODE("Relu", ["x"], ["a"]), NODE("Selu", ["a"], ["b"], alpha=1.0, gamma=2.0), NODE("Abs", ["b"], ["y"])]
    module = load(finish(helper.make_graph(nodes, "g", [value("x", X)], [OUT]), 17))
    seen: list[str] = []

    def observe(op: Op, results: tuple[Any, ...]) -> None:
        seen.append(op.kind.name)
        assert len(results) == len(op.results)

    got = interpret(module, {"x": X}, opaque=evaluate_opaque, observe=observe)
    np.testing.assert_allclose(got["y"], 2 * np.maximum(X, 0), rtol=1e-6)
    assert seen == ["relu", "opaque", "abs"]
    with pytest.raises(UnsupportedError, match="Selu"):
        interpret(module, {"x": X})
    for feeds in ({}, {"x": X, "z": X}):
        with pytest.raises(InputError, match="the inputs are"):
            interpret(module, feeds, opaque=evaluate_opaque)


def test_random_inputs_fit_the_model(tmp_path: Path) -> None:
    """Indices stay in range through casts and reshapes; symbols get one size each."""
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT32, ["N", "S"]),
        helper.make_tensor_value_info("mask", TensorProto.BOOL, ["N", "S"]),
        helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 3, "H", 5]),
        helper.make_tensor_sequence_value_info("many", TensorProto.FLOAT, [2]),
    ]
    nodes = [NODE("Cast", ["ids"], ["i"], to=TensorProto.INT64), NODE("Gather", ["table", "i"], ["y"])]
    table = numpy_helper.from_array(rand(7, 4), "table")
    module = load(finish(helper.make_graph(nodes, "g", inputs, [OUT], [table]), 17))
    found = random_inputs(module, 3, {"S": 50})
    assert found["ids"].shape == found["mask"].shape == (1, 50)
    assert found["ids"].dtype == np.int32
    assert 0 <= found["ids"].min() <= found["ids"].max() == 6
    assert found["image"].dtype == np.uint8
    assert found["image"].max() > 100
    assert len(found["many"]) == 1
    save(module, tmp_path / "m.onnx")
    Reference(tmp_path / "m.onnx").run(found)
    again = random_inputs(module, 3, {"S": 50})
    assert all(np.array_equal(found[k], again[k]) for k in found)
