"""The scan of the wire format: what it cuts out, what it keeps, and damage of every sort."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import InputError, UnsupportedError
from graphopt.ir.builtin import Const
from graphopt.ir.data import Data, Mapped
from graphopt.ir.types import DType
from graphopt.onnx import load
from graphopt.onnx.wire import SELF, field, strip
from tests.onnx.models import finish, rand, value

BIG = rand(32, 16)
SMALL = rand(4, seed=1)


def simple() -> onnx.ModelProto:
    """Initializers, a Constant node and packed float_data, large and small."""
    packed = helper.make_tensor("packed", TensorProto.FLOAT, BIG.shape, BIG.reshape(-1).tolist())
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(BIG * 2, "v"))
    nodes = [
        constant,
        helper.make_node("Sum", ["x", "c", "big", "packed"], ["s"], name="sum"),
        helper.make_node("MatMul", ["s", "w"], ["m"]),
        helper.make_node("Add", ["m", "small"], ["y"]),
    ]
    weights = [numpy_helper.from_array(a, n) for n, a in (("big", BIG), ("w", BIG[:16, :4]), ("small", SMALL))]
    graph = helper.make_graph(
        nodes, "g", [value("x", BIG)], [onnx.ValueInfoProto(name="y")], [*weights, packed]
    )
    return finish(graph, 17)


def constants(raw: bytes | Path) -> dict[str, Data]:
    module = load(raw)
    return {op.result.hint: op.kind.data for op in module.main if isinstance(op.kind, Const)}


def test_large_tensors_are_references() -> None:
    raw = simple().SerializeToString()
    stripped = strip(memoryview(raw), "m")
    assert len(stripped) < len(raw) - 3 * BIG.nbytes + 300
    graph = onnx.ModelProto.FromString(stripped).graph
    big = graph.initializer[0]
    entries = {e.key: e.value for e in big.external_data}
    assert entries["location"] == SELF
    at = int(entries["offset"])
    assert raw[at : at + int(entries["length"])] == BIG.tobytes()
    assert graph.initializer[2].raw_data == SMALL.tobytes()
    assert graph.node[0].attribute[0].t.data_location == TensorProto.EXTERNAL


def test_a_model_without_large_tensors_is_unchanged() -> None:
    raw = finish(helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", [value("x", SMALL)], [value("y", SMALL)]
    ), 17).SerializeToString()  # fmt: skip
    assert strip(memoryview(raw), "m") == raw


def test_weights_are_mapped_and_equal(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(simple().SerializeToString())
    found = constants(path)
    for name, array in (("big", BIG), ("packed", BIG), ("c", BIG * 2), ("w", BIG[:16, :4])):
        np.testing.assert_array_equal(found[name].numpy(), array)
    assert all(isinstance(found[n], Mapped) for n in ("big", "packed", "c"))
    assert not isinstance(found["small"], Mapped)


def test_bytes_are_viewed_not_copied() -> None:
    raw = simple().SerializeToString()
    array = constants(raw)["big"].numpy()
    at = raw.index(BIG.tobytes())
    base = np.frombuffer(raw, np.uint8).__array_interface__["data"][0]
    assert array.__array_interface__["data"][0] == base + at


@pytest.mark.parametrize("dtype", [d for d in DType if d is not DType.string], ids=str)
def test_every_element_type_survives(dtype: DType, tmp_path: Path) -> None:
    array = np.arange(4096).reshape(64, 64) % 2
    array = array * 0 + 1 if dtype is DType.f8e8m0 else array  # which has no zero
    tensor = numpy_helper.from_array(array.astype(dtype.numpy), "w")
    node = helper.make_node("Identity", ["w"], ["y"])
    graph = helper.make_graph([node], "g", [], [onnx.ValueInfoProto(name="y")], [tensor])
    path = tmp_path / "m.onnx"
    path.write_bytes(finish(graph, 25).SerializeToString())
    found = constants(path)["w"]
    assert found.dtype is dtype
    np.testing.assert_array_equal(found.numpy().astype(np.complex64), array)


def test_text_in_tensors() -> None:
    words = np.array([["a", "ü"], ["", "long" * 300]], object)
    node = helper.make_node("Identity", ["w"], ["y"])
    tensor = numpy_helper.from_array(words, "w")
    graph = helper.make_graph([node], "g", [], [onnx.ValueInfoProto(name="y")], [tensor])
    assert constants(finish(graph, 17).SerializeToString())["w"].numpy().tolist() == words.tolist()


def test_empty_and_foreign_files() -> None:
    for raw in (b"", b"\0", b"PK\3\4" + b"x" * 3000, b"not a model" * 100, b"\x89PNG\r\n" + b"\0" * 2000):
        with pytest.raises(InputError) as why:
            load(raw)
        assert "\n" not in str(why.value)
    with pytest.raises(InputError, match="git lfs pull"):
        load(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n")


def test_every_truncation_is_one_sentence() -> None:
    raw = simple().SerializeToString()
    ends = [*range(0, 400), *range(400, len(raw), 97), *range(len(raw) - 200, len(raw))]
    for end in ends:
        with pytest.raises((InputError, UnsupportedError)) as why:
            load(raw[:end])
        assert "\n" not in str(why.value), end


def test_damage_never_shows_a_traceback() -> None:
    raw, rng, said = simple().SerializeToString(), random.Random(0), list[str]()
    for _ in range(1500):
        damaged = bytearray(raw)
        for _ in range(rng.choice([1, 2, 8])):
            at = rng.randrange(600) if rng.random() < 0.7 else rng.randrange(len(raw))
            damaged[at] ^= 1 << rng.randrange(8)
        try:
            load(bytes(damaged))
        except (InputError, UnsupportedError) as why:
            said.append(str(why))
    assert said
    assert not any("\n" in s for s in said)


def test_deep_nesting_is_refused() -> None:
    for levels in (20, 60, 5000):
        graph = field(2, b"innermost" * 200) + field(12, field(1, b"y"))
        for _ in range(levels):  # graph.node.attribute.g
            graph = field(1, field(5, field(1, b"body") + field(6, graph))) + field(12, field(1, b"y"))
        with pytest.raises(InputError) as why:
            load(field(7, graph) + field(8, b"\x10\x11"))
        assert "\n" not in str(why.value)
