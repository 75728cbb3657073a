"""Writing: names, opsets, determinism, what is shared or left out, and failures."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import InputError, UnsupportedError
from graphopt.ir.builtin import Const, Fused, Return
from graphopt.ir.core import Graph, Loc, Module, Op
from graphopt.ir.data import Computed, Inline, Splat
from graphopt.ir.types import DType, TensorType
from graphopt.ir.verify import verify
from graphopt.onnx import Reference, load, save, to_proto
from graphopt.ops import elementwise as el
from graphopt.ops import linalg, movement, nn
from graphopt.passes.dce import Dce
from graphopt.passes.fold import Fold
from graphopt.passes.fuse import Fuse
from graphopt.pipeline import Context, run_pipeline
from tests.onnx.models import finish, rand, value

NODE = helper.make_node
X = rand(2, 3)
OUT = onnx.ValueInfoProto(name="y")


def check(model: Any) -> None:
    """Run ONNX's checker."""
    cast("Any", onnx.checker).check_model(model, full_check=True)


def read(path: Path) -> onnx.ModelProto:
    """The file as a message."""
    return cast("Any", onnx).load(path)


def chain(*kinds: el.Unary, opset: int = 13, shape: tuple[int, ...] = (2, 3)) -> Module:
    """A module that applies unary kinds in turn."""
    graph = Graph([TensorType(DType.f32, shape)], hints=["x"])
    at = graph.args[0]
    for i, kind in enumerate(kinds):
        at = graph.insert(Op(kind, [at], loc=Loc((f"n{i}",)))).result
    graph.insert(Op(Return(("y",)), [at]))
    return Module(graph, opsets={"": opset})


def weighted() -> Module:
    weights = [numpy_helper.from_array(rand(64, 64, seed=i), f"w{i}") for i in range(3)]
    nodes = [NODE("MatMul", ["x", "w0"], ["a"]), NODE("MatMul", ["a", "w1"], ["b"]), NODE("MatMul", ["b", "w2"], ["y"])]
    proto = finish(helper.make_graph(nodes, "g", [value("x", rand(2, 64))], [OUT], weights), 17)
    return load(proto.SerializeToString())


def opset(proto: onnx.ModelProto) -> int:
    return proto.opset_import[0].version


def op_types(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in proto.graph.node]


def test_bytes_are_deterministic(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(weighted(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    save(load(tmp_path / "a"), tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == (tmp_path / "a").read_bytes()


def test_streamed_and_message_are_the_same_model(tmp_path: Path) -> None:
    save(weighted(), tmp_path / "m.onnx")
    assert read(tmp_path / "m.onnx") == to_proto(weighted())
    check(str(tmp_path / "m.onnx"))


def test_computed_constants_are_written(tmp_path: Path) -> None:
    module = weighted()
    const = next(op for op in module.main if isinstance(op.kind, Const))
    data = Computed(DType.f32, (64, 64), lambda: np.full((64, 64), 2, np.float32))
    new = module.main.insert(Op(Const(data)), before=const)
    const.result.replace_all_uses_with(new.result)
    save(module, tmp_path / "m.onnx")
    again = load(tmp_path / "m.onnx")
    found = [op.kind.data.numpy() for op in again.main if isinstance(op.kind, Const)]
    assert any((a == 2).all() for a in found)


def test_large_constants_of_one_number_stay_small(tmp_path: Path) -> None:
    graph = Graph([TensorType(DType.f32, (1,))], hints=["x"])
    const = graph.insert(Op(Const(Splat(DType.f32, (2000, 2000), 3.0))))
    y = graph.insert(Op(el.Add(), [graph.args[0], const.result])).result
    graph.insert(Op(Return(("y",)), [y]))
    save(Module(graph), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size < 1000
    assert Reference(tmp_path / "m.onnx").run({"x": np.ones(1, np.float32)})["y"].mean() == 4
    assert "ConstantOfShape" not in op_types(to_proto(Module(graph), opset=8))


def test_an_existing_file_survives_failures(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"precious")
    module = weighted()

    def fail() -> np.ndarray:
        raise RuntimeError("no numbers")

    const = next(op for op in module.main if isinstance(op.kind, Const))
    new = module.main.insert(Op(Const(Computed(DType.f32, (64, 64), fail))), before=const)
    const.result.replace_all_uses_with(new.result)
    for external in (False, True):
        with pytest.raises(RuntimeError):
            save(module, path, external=external)
    assert path.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "m.onnx", tmp_path):
        with pytest.raises(InputError, match="can't write the file"):
            save(weighted(), path)


def test_saving_over_the_source_of_another_module(tmp_path: Path) -> None:
    """Mapped weights outlive the replacement of their file."""
    path = tmp_path / "m.onnx"
    save(weighted(), path)
    first, second = load(path), load(path)
    for op in second.main:
        if isinstance(op.kind, Const):
            second.main.insert(Op(Const(Inline(op.kind.data.numpy() * 0))), before=op)
            op.result.replace_all_uses_with(op.prev.result)  # pyright: ignore
    save(second, path)
    data = [op.kind.data.numpy() for op in first.main if isinstance(op.kind, Const)]
    np.testing.assert_array_equal(data[0], rand(64, 64, seed=0))


def test_concurrent_saves(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    threads = [threading.Thread(target=save, args=(weighted(), path)) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert read(path) == to_proto(weighted())
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_the_model_keeps_its_opset() -> None:
    for version in (7, 9, 13, 21):
        assert opset(to_proto(chain(el.Relu(), opset=version))) == version


def test_kinds_of_later_opsets_raise_it() -> None:
    for kind, version, op_type in (
        (el.HardSwish(), 14, "HardSwish"), (el.Mish(), 18, "Mish"), (el.Gelu(), 20, "Gelu"),
        (el.Silu(), 24, "Swish"),
    ):  # fmt: skip
        proto = to_proto(chain(kind))
        assert (opset(proto), op_types(proto)) == (version, [op_type])
        low = to_proto(chain(kind), opset=13)
        assert op_type not in op_types(low)
        a, b = (Reference(p).run({"x": X})["y"] for p in (proto, low))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_an_opaque_op_that_changed_pins_the_opset() -> None:
    node = NODE("BatchNormalization", ["x", "s", "s", "s", "s"], ["a", "m", "v"], training_mode=1)
    weights = [numpy_helper.from_array(np.ones(3, np.float32), "s")]
    outs = [OUT, *(onnx.ValueInfoProto(name=n) for n in "mv")]
    proto = finish(helper.make_graph([node, NODE("Relu", ["a"], ["y"])], "g", [value("x", X)], outs, weights), 14)
    module = load(proto)
    relu = next(op for op in module.main if isinstance(op.kind, el.Relu))
    new = module.main.insert(Op(el.Silu(), [relu.operand(0)]), before=relu)
    relu.result.replace_all_uses_with(new.result)
    module.main.erase(relu)
    written = to_proto(module)
    assert opset(written) == 14  # BatchNormalization is another one from 15 on
    assert "Swish" not in op_types(written)
    with pytest.raises(UnsupportedError, match="opset 9: BatchNormalization"):
        to_proto(module, opset=9)


def test_a_model_newer_than_onnx_runtime_is_written_for_it() -> None:
    assert opset(to_proto(chain(el.Relu(), opset=28))) == 26


def test_opsets_that_cannot_express_a_kind() -> None:
    assert "needs opset 9" in refusal(chain(el.Erf()), 8)
    assert "needs opset 11" in refusal(chain(el.Round()), 10)
    assert "opset 6" in refusal(chain(el.Relu()), 6)
    assert "opset 99" in refusal(chain(el.Relu()), 99)


def test_element_types_that_an_old_opset_lacks() -> None:
    graph = Graph([TensorType(DType.i64, (2,))], hints=["x"])
    y = graph.insert(Op(el.Relu(), [graph.args[0]])).result
    graph.insert(Op(Return(("y",)), [y]))
    assert "Relu of i64" in refusal(Module(graph, opsets={"": 17}), 13)
    assert opset(to_proto(Module(graph, opsets={"": 17}), opset=14)) == 14


def refusal(module: Module, version: int) -> str:
    with pytest.raises(UnsupportedError) as why:
        to_proto(module, opset=version)
    assert "\n" not in str(why.value)
    return str(why.value)


def test_ir_versions() -> None:
    assert to_proto(chain(el.Relu(), opset=7)).ir_version == 4  # the first with plain initializers
    assert to_proto(chain(el.Relu(), opset=17)).ir_version == 8
    assert to_proto(chain(el.Relu(), opset=26)).ir_version == 13


def test_fused_regions_and_layouts_are_written_as_their_ops() -> None:
    graph = Graph([TensorType(DType.f32, (1, 16, 4, 4))], hints=["x"])
    packed = TensorType(DType.f32, (1, 16, 4, 4), "aBcd16b")
    inner = graph.insert(Op(movement.Reorder(), [graph.args[0]], [packed])).result
    body = Graph([packed], name="body")
    a = body.insert(Op(el.Relu(), [body.args[0]], [packed], loc=Loc(("r",)))).result
    b = body.insert(Op(el.Abs(), [a], [packed], loc=Loc(("a",)))).result
    body.insert(Op(Return(), [b, a]))
    fused = graph.insert(Op(Fused("chain"), [inner], [packed, packed], regions=[body]))
    dense = TensorType(DType.f32, (1, 16, 4, 4))
    back = graph.insert(Op(movement.Reorder(), [fused.results[0]], [dense])).result
    graph.insert(Op(Return(("y", "z")), [back, fused.results[1]]))
    module = Module(graph)
    verify(module)
    proto = to_proto(module)
    assert [(n.op_type, n.name, n.output[0]) for n in proto.graph.node] == [("Relu", "r", "z"), ("Abs", "a", "y")]
    x = rand(1, 16, 4, 4)
    np.testing.assert_array_equal(Reference(proto).run({"x": x})["y"], np.maximum(x, 0))


def test_outputs_that_are_inputs_constants_or_twice_the_same() -> None:
    graph = Graph([TensorType(DType.f32, (2, 3))], hints=["x"])
    c = graph.insert(Op(Const(Inline(X)))).result
    r = graph.insert(Op(el.Relu(), [graph.args[0]])).result
    graph.insert(Op(Return(("a", "b", "c", "d", "")), [graph.args[0], c, r, r, r]))
    proto = to_proto(Module(graph))
    got = Reference(proto).run({"x": -X})
    assert list(got)[:4] == ["a", "b", "c", "d"]
    for name, want in {"a": -X, "b": X, "c": np.maximum(-X, 0), "d": np.maximum(-X, 0)}.items():
        np.testing.assert_array_equal(got[name], want)
    assert load(proto).main.outputs[1].op is not None


def test_an_output_that_is_the_input_keeps_its_name() -> None:
    proto = finish(helper.make_graph([NODE("Relu", ["x"], ["y"])], "g", [value("x", X)], [value("x", X), OUT]), 17)
    written = to_proto(load(proto))
    assert [o.name for o in written.graph.output] == ["x", "y"]
    assert op_types(written) == ["Relu"]


def test_names_are_unique_and_parameters_shared() -> None:
    graph = Graph([TensorType(DType.f32, (2, 3))], hints=["x"])
    a = graph.insert(Op(movement.Reshape((3, 2)), [graph.args[0]], loc=Loc(("n",)), hints=["v"])).result
    b = graph.insert(Op(el.Relu(), [a], loc=Loc(("n",)), hints=["v"])).result
    c = graph.insert(Op(movement.Reshape((3, 2)), [b], loc=Loc(("n",)), hints=["ints_3_2"])).result
    graph.insert(Op(Return(("y",)), [c]))
    proto = to_proto(Module(graph))
    names = [n.name for n in proto.graph.node]
    values = [o for n in proto.graph.node for o in n.output] + [t.name for t in proto.graph.initializer]
    assert len(set(names)) == len(names) == 3
    assert len(set(values)) == len(values) == 4
    check(proto)


def test_half_precision_norms_keep_their_type_in_old_opsets() -> None:
    for kind, operands in ((nn.LayerNorm(), 3), (nn.RMSNorm(), 2)):
        graph = Graph([TensorType(DType.f16, (2, 8))], hints=["x"])
        weight = Const(Inline(rand(8, dtype=np.float16)))
        weights = [graph.insert(Op(weight)).result for _ in range(operands - 1)]
        y = graph.insert(Op(kind, [graph.args[0], *weights])).result
        graph.insert(Op(Return(("y",)), [y]))
        x = rand(2, 8, dtype=np.float16)
        want = kind.evaluate(x, *(weight.data.numpy() for _ in weights))[0]
        for version in (13, 18):
            got = Reference(to_proto(Module(graph, opsets={"": 17}), opset=version)).run({"x": x})["y"]
            assert got.dtype == np.float16
            np.testing.assert_allclose(got, want, rtol=1e-2, atol=1e-2)


def test_attention_is_written_as_its_ops() -> None:
    types = [TensorType(DType.f32, s) for s in ((2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 6), (4, 5))]
    graph = Graph(types, hints=["q", "k", "v", "m"])
    y = graph.insert(Op(linalg.Attention(0.3), graph.args)).result
    graph.insert(Op(Return(("y",)), [y]))
    feeds = {a.hint: rand(*t.static, seed=i) for i, (a, t) in enumerate(zip(graph.args, types, strict=True)) if t.static}
    want = linalg.Attention(0.3).evaluate(*feeds.values())[0]
    for version in (7, 11, 13, 23):
        got = Reference(to_proto(Module(graph), opset=version)).run(feeds)["y"]
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_attention_that_rounds_its_weights_is_read_again() -> None:
    """Two casts between the softmax and the product, which `fuse` recognises."""
    graph = Graph([TensorType(DType.f32, s) for s in ((2, 4, 8), (2, 5, 8), (2, 5, 6))], hints=["q", "k", "v"])
    kind = linalg.Attention(0.25, rounded=True)
    y = graph.insert(Op(kind, graph.args)).result
    graph.insert(Op(Return(("y",)), [y]))
    feeds = {a.hint: rand(*(a.tensor.static or ()), seed=i) for i, a in enumerate(graph.args)}
    want = kind.evaluate(*feeds.values(), None)[0]
    assert np.abs(want - linalg.Attention(0.25).evaluate(*feeds.values(), None)[0]).max() > 1e-5
    for version in (17, 23):
        proto = to_proto(Module(graph), opset=version)
        session: Any = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        (got,) = session.run(None, feeds)
        np.testing.assert_allclose(np.asarray(got), want, rtol=2e-3, atol=1e-4)  # a weight may round otherwise
        again = load(proto)
        run_pipeline([Fold(), Fuse(), Dce()], again, Context())
        assert [op.kind for op in again.main if op.kind.name == "attention"] == [kind]


def test_metadata_and_graph_name_survive() -> None:
    proto = finish(helper.make_graph([NODE("Relu", ["x"], ["y"])], "title", [value("x", X)], [OUT]), 17)
    proto.metadata_props.add(key="labels", value="cat,dog")
    again = to_proto(load(proto))
    assert again.graph.name == "title"
    assert {p.key: p.value for p in again.metadata_props} == {"labels": "cat,dog"}
    assert again.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
