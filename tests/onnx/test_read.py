"""Reading: names, types, constants, functions, and malformed models."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.analysis.interpret import interpret
from graphopt.api import context
from graphopt.errors import InputError, UnsupportedError
from graphopt.ir.builtin import Const, Opaque
from graphopt.ir.core import Module
from graphopt.ir.types import DType, SequenceType, Sym, TensorType, UnknownType
from graphopt.ir.verify import verify
from graphopt.onnx import Reference, evaluate_opaque, load, to_proto
from graphopt.onnx.remodel import remodel
from graphopt.passes.fold import Fold
from tests.onnx.models import finish, ints, rand, value

X = rand(2, 3)
NODE = helper.make_node
OUT = onnx.ValueInfoProto(name="y")


def graph(*nodes: onnx.NodeProto, inputs: Any = None, outputs: Any = (OUT,), weights: Any = ()) -> onnx.GraphProto:
    return helper.make_graph(nodes, "g", [value("x", X)] if inputs is None else inputs, outputs, weights)


def read(*nodes: onnx.NodeProto, opset: int = 17, **kw: Any) -> Module:
    module = load(finish(graph(*nodes, **kw), opset))
    verify(module)
    return module


def kinds(module: Module) -> list[str]:
    return [op.kind.name for op in module.main]


def refused(model: onnx.ModelProto, says: str, error: type[Exception] = InputError) -> None:
    for source in (model, model.SerializeToString()):
        with pytest.raises(error, match=says) as why:
            load(source, name="m.onnx")
        assert str(why.value).startswith("m.onnx: ")
        assert "\n" not in str(why.value)


def test_names_and_locations() -> None:
    module = read(NODE("Relu", ["x"], ["h"], name="first"), NODE("Abs", ["h"], ["y"]))
    relu, abs_, end = module.main
    assert relu.loc.nodes == ("first",)
    assert abs_.loc.nodes == ("Abs_1",)
    assert relu.result.hint == "h"
    assert end.kind.names == ("y",)  # pyright: ignore
    again = load(to_proto(module))
    assert again.to_text() == module.to_text()


def test_symbolic_types() -> None:
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "2*K+1", None, 4, -1])
    module = read(NODE("Relu", ["x"], ["y"]), inputs=[info])
    assert str(module.main.args[0].type) == "f32[N,2*K+1,?,4,?]"
    assert module.main.outputs[0].type == module.main.args[0].type
    out = to_proto(module).graph.output[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in out] == ["N", "2*K+1", 0, 4, 0]


def test_initializers_that_are_inputs_are_constants() -> None:
    """As all were before IR version 4; later they are defaults that a caller may override."""
    w = numpy_helper.from_array(X, "w")
    for ir in (3, 4, 8):
        proto = finish(graph(NODE("Add", ["x", "w"], ["y"]), inputs=[value("x", X), value("w", X)], weights=[w]), 7)
        proto.ir_version = ir
        module = load(proto)
        assert [a.hint for a in module.main.args] == ["x"]
        np.testing.assert_array_equal(interpret(module, {"x": X})["y"], X + X)


def test_constants_in_every_form() -> None:
    forms: dict[str, Any] = {
        "value_float": 1.5, "value_floats": [1.0, 2.0], "value_int": 3, "value_ints": [4, 5],
        "value_string": "a", "value_strings": ["b", "c"], "value": numpy_helper.from_array(X),
    }  # fmt: skip
    for name, given in forms.items():
        module = read(NODE("Constant", [], ["y"], **{name: given}), inputs=[])
        assert kinds(module) == ["const", "return"]
        want = X if name == "value" else np.array(given)
        np.testing.assert_array_equal(interpret(module, {})["y"], want)


def test_sparse_constants_are_made_dense() -> None:
    dense = np.array([[0, 2, 0], [3, 0, 4]], np.float32)
    for indices in (np.array([1, 3, 5]), np.array([[0, 1], [1, 0], [1, 2]])):
        sparse = helper.make_sparse_tensor(
            numpy_helper.from_array(np.array([2, 3, 4], np.float32), "w"),
            numpy_helper.from_array(indices, "i"), [2, 3],
        )  # fmt: skip
        proto = finish(graph(NODE("Add", ["x", "w"], ["y"])), 17)
        proto.graph.sparse_initializer.append(sparse)
        np.testing.assert_array_equal(interpret(load(proto), {"x": X})["y"], X + dense)
    sparse.dims[:] = [2**30, 2**30]
    proto = finish(graph(NODE("Add", ["x", "w"], ["y"])), 17)
    proto.graph.sparse_initializer.append(sparse)
    refused(proto, "sparse")


def test_dropout_and_batch_norm_in_training_stay_opaque() -> None:
    truth = numpy_helper.from_array(np.array(True), "t")
    ratio = numpy_helper.from_array(np.array(0.5, np.float32), "r")
    assert kinds(read(NODE("Dropout", ["x", "r", "t"], ["y"]), weights=[ratio, truth]))[-2] == "opaque"
    assert kinds(read(NODE("Dropout", ["x", "r"], ["y", "mask"]), weights=[ratio]))[-2] == "identity"
    mask = [OUT, onnx.ValueInfoProto(name="mask")]
    assert "opaque" in kinds(read(NODE("Dropout", ["x"], ["y", "mask"]), outputs=mask))


def test_softmax_of_old_opsets() -> None:
    x = rand(2, 3, 4)
    for axis, kind in ((2, "softmax"), (1, "opaque"), (0, "opaque")):
        module = read(NODE("Softmax", ["x"], ["y"], axis=axis), opset=11, inputs=[value("x", x)])
        assert kinds(module)[0] == kind
        proto = finish(graph(NODE("Softmax", ["x"], ["y"], axis=axis), inputs=[value("x", x)]), 11)
        want = Reference(proto).run({"x": x})["y"]
        got = interpret(module, {"x": x}, opaque=evaluate_opaque)["y"]
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_remodel_once_parameters_are_constant() -> None:
    module = read(
        NODE("Identity", ["s"], ["t"]), NODE("Reshape", ["x", "t"], ["y"]),
        weights=[numpy_helper.from_array(ints(3, 2), "s")],
    )  # fmt: skip
    reshape = next(op for op in module.main if isinstance(op.kind, Opaque))
    assert remodel(reshape) is None
    reshape.set_operand(1, next(op for op in module.main if isinstance(op.kind, Const)).result)
    found = remodel(reshape)
    assert found is not None
    ((kind, operands),) = found
    assert str(kind) == "reshape{shape=[3,2]}"
    assert operands == (module.main.args[0],)


def test_ops_on_integers_are_modelled_once_their_operands_have_a_type() -> None:
    """A reshape to computed sizes before a quantized product: its type is not known at first."""
    weights = {"s": np.float32(0.1), "z": np.uint8(3), "w": np.ones((3, 2), np.uint8),
               "shape": ints(-1, 3)}  # fmt: skip
    module = read(
        NODE("Identity", ["shape"], ["sizes"]),
        NODE("QuantizeLinear", ["x", "s", "z"], ["q"]),
        NODE("Reshape", ["q", "sizes"], ["r"]),
        NODE("Split", ["r"], ["r0", "r1"], axis=0, num_outputs=2),
        NODE("QLinearMatMul", ["r0", "s", "z", "w", "s", "z", "s", "z"], ["p"]),
        NODE("DequantizeLinear", ["p", "s", "z"], ["y"]),
        weights=[numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
        opset=18,
    )
    assert any(isinstance(op.kind, Opaque) for op in module.main)
    Fold().run(module, context())
    assert "matmul" in kinds(module)
    assert not any(isinstance(op.kind, Opaque) for op in module.main)


def test_shuffled_nodes_are_sorted() -> None:
    nodes = [NODE("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(20)]
    nodes[0] = NODE("Relu", ["x"], ["v1"])
    nodes.append(NODE("Abs", ["v20"], ["y"]))
    module = read(*nodes[::-1])
    assert [op.loc.nodes[0] for op in module.main if op.loc.nodes][:2] == ["Relu_20", "Relu_19"]
    assert kinds(module)[-2:] == ["abs", "return"]


def test_cycles_are_named() -> None:
    nodes = [NODE("Add", ["x", "c"], ["a"], name="A"), NODE("Relu", ["a"], ["b"], name="B"),
             NODE("Abs", ["b"], ["c"], name="C"), NODE("Abs", ["c"], ["y"], name="D")]  # fmt: skip
    refused(finish(graph(*nodes), 17), "'(A', 'B', 'C|B', 'C', 'A|C', 'A', 'B)' form a cycle")
    refused(finish(graph(NODE("Add", ["x", "y"], ["y"], name="self")), 17), "'self' form a cycle")


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([NODE("Relu", ["nothing"], ["y"], name="r")], r"node 'r' \(Relu\): reads 'nothing', which nothing makes"),
        ([NODE("Relux", ["x"], ["y"])], "node 'Relux_0' .*: opset 17 of ai.onnx has no op 'Relux'"),
        ([NODE("Gelu", ["x"], ["y"])], "opset 17 of ai.onnx has no op 'Gelu'"),
        ([NODE("Upsample", ["x", "x"], ["y"])], "Upsample no longer exists at opset 17"),
        ([NODE("Relu", ["x"], ["y"], alpha=1.0)], "Relu has no attribute 'alpha'"),
        ([NODE("LeakyRelu", ["x"], ["y"], alpha=1)], "attribute 'alpha' is of type INT, not FLOAT"),
        ([NODE("Concat", ["x", "x"], ["y"])], "attribute 'axis' is missing"),
        ([NODE("Relu", ["x", "x"], ["y"])], "has 2 operands; the op has at most 1"),
        ([NODE("Add", ["x"], ["y"])], "has 1 operands; the op has at least 2"),
        ([NODE("Relu", ["x"], ["y", "z"])], "has 2 results; the op has at most 1"),
        ([NODE("Relu", ["x"], ["y"]), NODE("Abs", ["x"], ["y"])], "two values are named 'y'"),
        ([NODE("Relu", ["x"], ["x"])], "two values are named 'x'|cycle"),
        ([NODE("Relu", ["x"], ["z"])], "output 'y' is made by no node"),
        ([NODE("My", ["x"], ["y"], domain="mine")], "imports no opset of the domain 'mine'"),
        ([NODE("MatMul", ["x", "x"], ["y"], name="mm")], r"node 'mm' \(MatMul\): inner sizes: 3 is not 2"),
        ([NODE("Transpose", ["x"], ["y"], perm=[0, 0], name="t")], "node 't' .*: .* does not permute"),
        ([NODE("Einsum", ["x"], ["y"], equation=">\u0152B")], "bad equation"),
    ],
)  # fmt: skip
def test_malformed_nodes(nodes: list[onnx.NodeProto], says: str) -> None:
    refused(finish(graph(*nodes), 17), says)


def test_malformed_models() -> None:
    good = finish(graph(NODE("Relu", ["x"], ["y"])), 17)
    for opset, error, says in (
        (6, UnsupportedError, "has opset 6"), (99, UnsupportedError, "has opset 99"),
        (0, InputError, "opset 0"), (-5, InputError, "opset -5"),
    ):  # fmt: skip
        model = onnx.ModelProto()
        model.CopyFrom(good)
        model.opset_import[0].version = opset
        refused(model, says, error)
    model.CopyFrom(good)
    del model.opset_import[:]
    refused(model, "imports no opset")
    model.CopyFrom(good)
    del model.graph.output[:]
    refused(model, "no graph with an output")
    model.CopyFrom(good)
    model.graph.output.append(model.graph.output[0])
    refused(model, "two outputs of a graph have the same name")
    model.CopyFrom(good)
    model.graph.input[0].type.tensor_type.elem_type = 77
    refused(model, "no element type 77")


def test_malformed_tensors() -> None:
    for change, says in (
        ({"raw_data": b"123"}, "holds 3 bytes, but its shape wants 24"),
        ({"raw_data": b""}, "holds 0 numbers, but its shape wants 6"),
        ({"data_type": 77}, "no element type 77"),
        ({"dims": [2**40, 2**40]}, "impossible shape"),
        ({"dims": [-2, 3]}, "impossible shape"),
        ({"dims": [1] * 100}, "100 dimensions"),
    ):
        tensor = numpy_helper.from_array(X, "w")
        for key, new in change.items():
            if key == "dims":
                tensor.dims[:] = new  # pyright: ignore
            else:
                setattr(tensor, key, new)
        refused(finish(graph(NODE("Add", ["x", "w"], ["y"]), weights=[tensor]), 17), f"initializer 'w'.*{says}")


def test_missing_files() -> None:
    with pytest.raises(InputError, match="No such file"):
        load("/nowhere/m.onnx")
    with pytest.raises(InputError, match="not a regular file"):
        load("/")


def test_functions_are_inlined() -> None:
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    body = [NODE("Relu", ["a"], ["t"]), NODE("Inner", ["t"], ["b"], domain="mine")]
    outer = helper.make_function("mine", "Outer", ["a"], ["b"], body, opset)
    inner = helper.make_function("mine", "Inner", ["a"], ["b"], [NODE("Neg", ["a"], ["b"])], opset)
    proto = helper.make_model(
        graph(NODE("Outer", ["x"], ["y"], domain="mine")), opset_imports=opset, functions=[outer, inner], ir_version=9
    )
    module = load(proto)
    assert kinds(module) == ["relu", "neg", "return"]
    np.testing.assert_array_equal(interpret(module, {"x": X})["y"], -np.maximum(X, 0))


def test_functions_that_call_themselves_or_explode() -> None:
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]

    def model(functions: list[onnx.FunctionProto]) -> onnx.ModelProto:
        main = graph(NODE("F0", ["x"], ["y"], domain="mine"))
        return helper.make_model(main, opset_imports=opset, functions=functions, ir_version=9)

    loop = helper.make_function("mine", "F0", ["a"], ["b"], [NODE("F0", ["a"], ["b"], domain="mine")], opset)
    refused(model([loop]), "'F0' calls itself")
    bombs = [
        helper.make_function(
            "mine", f"F{i}", ["a"], ["b"],
            [NODE(f"F{i + 1}", ["a" if j == 0 else f"t{j}"], ["b" if j == 9 else f"t{j + 1}"], domain="mine")
             for j in range(10)], opset)
        for i in range(30)
    ]  # fmt: skip
    bombs.append(helper.make_function("mine", "F30", ["a"], ["b"], [NODE("Neg", ["a"], ["b"])], opset))
    refused(model(bombs), "nodes once functions are inlined", UnsupportedError)


def test_custom_domains_are_opaque() -> None:
    proto = finish(graph(NODE("My", ["x", "", "x"], ["y", "", "z"], domain="mine", size=3, words=["a", "b"], none=""),
                         NODE("Relu", ["z"], ["w"]), outputs=[OUT, onnx.ValueInfoProto(name="w")]), 17)  # fmt: skip
    proto.opset_import.append(helper.make_opsetid("mine", 4))
    module = load(proto)
    verify(module)
    op = next(iter(module.main))
    assert isinstance(op.kind, Opaque)
    assert (op.kind.domain, op.kind.version, op.kind.missing) == ("mine", 4, (1,))
    assert op.operands[1] is None
    assert isinstance(op.results[0].type, UnknownType)
    again = to_proto(module)
    assert [i for i in again.graph.node[0].input] == ["x", "", "x"]
    assert [o for o in again.graph.node[0].output] == ["y", "", "z"]
    assert {o.domain: o.version for o in again.opset_import} == {"": 17, "mine": 4}
    assert {a.name: helper.get_attribute_value(a) for a in again.graph.node[0].attribute} == {
        "size": 3, "words": [b"a", b"b"], "none": b"",
    }  # fmt: skip


def test_declared_types_of_custom_results_are_kept() -> None:
    info = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 5])
    proto = finish(graph(NODE("My", ["x"], ["z"], domain="mine"), NODE("Relu", ["z"], ["y"])), 17)
    proto.opset_import.append(helper.make_opsetid("mine", 1))
    proto.graph.value_info.append(info)
    module = load(proto)
    assert module.main.outputs[0].type == TensorType(DType.f32, (Sym("N"), 5))
    assert load(to_proto(module)).to_text() == module.to_text()


def test_sequences_and_optionals() -> None:
    module = read(
        NODE("SequenceConstruct", ["x", "x"], ["s"]), NODE("SequenceAt", ["s", "i"], ["t"]),
        NODE("Optional", ["t"], ["o"]), NODE("OptionalHasElement", ["o"], ["h"]),
        NODE("OptionalGetElement", ["o"], ["y"]),
        weights=[numpy_helper.from_array(np.array(1), "i")],
        outputs=[OUT, onnx.ValueInfoProto(name="h"), onnx.ValueInfoProto(name="s")],
    )  # fmt: skip
    assert isinstance(module.main.outputs[2].type, SequenceType)
    got = interpret(module, {"x": X}, opaque=evaluate_opaque)
    np.testing.assert_array_equal(got["y"], X)
    assert len(got["s"]) == 2
    want = Reference(to_proto(module)).run({"x": X})
    np.testing.assert_array_equal(want["y"], X)
    assert bool(want["h"])


def test_a_hundred_thousand_nodes() -> None:
    """Near-linear: four times the nodes take at most about four times as long."""
    import time

    def seconds(count: int) -> float:
        nodes = [NODE("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(count)]
        nodes[0] = NODE("Relu", ["x"], ["v1"])
        raw = finish(graph(*nodes, outputs=[onnx.ValueInfoProto(name=f"v{count}")]), 17).SerializeToString()
        start = time.process_time()
        to_proto(load(raw))
        return time.process_time() - start

    assert seconds(20_000) < 8 * seconds(5_000) + 0.5
