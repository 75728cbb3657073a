"""External data: mapped where it may be, refused where it may not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.errors import InputError
from graphopt.ir.builtin import Const
from graphopt.ir.data import Mapped
from graphopt.onnx import Reference, load, save
from tests.onnx.models import finish, rand, value

W = rand(16, 8)
X = rand(2, 16)


def write(folder: Path, entries: dict[str, str], shape: tuple[int, ...] = W.shape) -> Path:
    """A model whose weight is described by `entries`."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    for k, v in entries.items():
        tensor.external_data.add(key=k, value=v)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", [value("x", X)], [onnx.ValueInfoProto(name="y")], [tensor])
    path = folder / "m.onnx"
    path.write_bytes(finish(graph, 17).SerializeToString())
    return path


def weight(path: Path) -> Mapped:
    data = next(op.kind.data for op in load(path).main if isinstance(op.kind, Const))
    assert isinstance(data, Mapped)
    return data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "w.bin").write_bytes(b"\0" * 64 + W.tobytes())
    (tmp_path / "secret.bin").write_bytes(b"\0" * 64 + W.tobytes())
    return inside


def test_mapped(folder: Path) -> None:
    path = write(folder, {"location": "w.bin", "offset": "64", "length": str(W.nbytes)})
    np.testing.assert_array_equal(weight(path).numpy(), W)
    got = Reference(path).run({"x": X})["y"]
    np.testing.assert_allclose(got, X @ W, rtol=1e-4, atol=1e-5)


def test_length_may_be_absent(folder: Path) -> None:
    np.testing.assert_array_equal(weight(write(folder, {"location": "w.bin", "offset": "64"})).numpy(), W)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"location": "../secret.bin", "offset": "64"}, "outside the model's folder"),
        ({"location": "/etc/passwd"}, "outside the model's folder"),
        ({"location": "a/../../secret.bin"}, "outside the model's folder"),
        ({"location": ""}, "outside the model's folder"),
        ({"location": "w\0.bin"}, "outside the model's folder"),
        ({}, "outside the model's folder"),
        ({"location": "none.bin"}, "doesn't exist"),
        ({"location": "."}, "not a regular file"),
        ({"location": "w.bin", "offset": "65"}, "which has 576"),
        ({"location": "w.bin", "offset": "9223372036854775807"}, "which has 576"),
        ({"location": "w.bin", "offset": "-1"}, "bad offset"),
        ({"location": "w.bin", "offset": "1e3"}, "bad offset"),
        ({"location": "w.bin", "offset": "99999999999999999999999"}, "bad offset"),
        ({"location": "w.bin", "length": "8"}, "its shape wants 512"),
    ],
)
def test_refused(folder: Path, entries: dict[str, str], says: str) -> None:
    path = write(folder, entries)
    with pytest.raises(InputError, match=says) as why:
        load(path)
    assert "'w'" in str(why.value) or "initializer w" in str(why.value)
    assert "\n" not in str(why.value)


def test_links_out_of_the_folder_are_refused(folder: Path) -> None:
    (folder / "link.bin").symlink_to(folder.parent / "secret.bin")
    with pytest.raises(InputError, match="link out of the model's folder"):
        load(write(folder, {"location": "link.bin", "offset": "64"}))
    (folder / "loop.bin").symlink_to(folder / "loop.bin")
    with pytest.raises(InputError, match="doesn't exist"):
        load(write(folder, {"location": "loop.bin", "offset": "64"}))


def test_a_cache_of_links_works(tmp_path: Path) -> None:
    """As Hugging Face's: model and data are links into one store."""
    store, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    store.mkdir()
    snapshot.mkdir()
    (store / "d").write_bytes(W.tobytes())
    write(store, {"location": "w.bin"}).rename(store / "m")
    (snapshot / "m.onnx").symlink_to("../blobs/m")
    (snapshot / "w.bin").symlink_to("../blobs/d")
    np.testing.assert_array_equal(weight(snapshot / "m.onnx").numpy(), W)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_and_devices_are_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        load(write(folder, {"location": "pipe"}))
    with pytest.raises(InputError, match="not a regular file"):
        load(folder / "pipe")


def test_absurd_shapes_allocate_nothing(folder: Path) -> None:
    for shape in ((2**40, 2**40), (2**20, 2**21, 2**22), (-1, 4)):
        with pytest.raises(InputError):
            load(write(folder, {"location": "w.bin"}, shape))
    with pytest.raises(InputError, match="wants bytes"):
        load(write(folder, {"location": "w.bin"}, (2**19, 2**19)))


def test_bytes_have_no_folder(folder: Path) -> None:
    raw = write(folder, {"location": "w.bin", "offset": "64"}).read_bytes()
    for source in (raw, onnx.ModelProto.FromString(raw)):
        with pytest.raises(InputError, match="give its path"):
            load(source)


def test_save_beside(folder: Path) -> None:
    path = write(folder, {"location": "w.bin", "offset": "64"})
    rand_big = rand(64, 64)
    module = load(path)
    target = folder / "out.onnx"
    save(module, target, external=True)
    assert not (folder / "out.onnx.data").exists()  # 512 bytes stay inside
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [value("x", rand(2, 64))],
        [onnx.ValueInfoProto(name="y")], [onnx.numpy_helper.from_array(rand_big, "w")],
    )  # fmt: skip
    module = load(finish(graph, 17))
    save(module, target, external=True)
    assert (folder / "out.onnx.data").stat().st_size == rand_big.nbytes
    np.testing.assert_array_equal(weight(target).numpy(), rand_big)
    save(load(target), target, external=True)  # over itself
    np.testing.assert_array_equal(weight(target).numpy(), rand_big)
    x = rand(2, 64)
    np.testing.assert_allclose(Reference(target).run({"x": x})["y"], x @ rand_big, rtol=1e-3, atol=1e-4)


def test_many_files(tmp_path: Path) -> None:
    """One file a tensor, more of them than a process may have open."""
    count = 1100
    tensors: list[TensorProto] = []
    for i in range(count):
        (tmp_path / f"{i}.bin").write_bytes(np.full(256, i, np.float32).tobytes())
        t = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[256])
        t.data_location = TensorProto.EXTERNAL
        t.external_data.add(key="location", value=f"{i}.bin")
        tensors.append(t)
    node = helper.make_node("Sum", [t.name for t in tensors], ["y"])
    graph = helper.make_graph([node], "g", [], [onnx.ValueInfoProto(name="y")], tensors)
    path = tmp_path / "m.onnx"
    path.write_bytes(finish(graph, 17).SerializeToString())
    module = load(path)
    save(module, tmp_path / "out.onnx")
    found = {op.result.hint: op.kind.data for op in load(tmp_path / "out.onnx").main if isinstance(op.kind, Const)}
    assert float(found[f"w{count - 1}"].numpy()[0]) == count - 1


@pytest.mark.slow
def test_over_two_gigabytes(tmp_path: Path) -> None:
    """A sparse file of 3 GB; the weights are never all in memory."""
    rows = 800_000
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(rows * 1000 * 4)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[rows, 1000])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    index = onnx.numpy_helper.from_array(np.array([rows - 1]), "i")
    node = helper.make_node("Gather", ["w", "i"], ["y"])
    graph = helper.make_graph([node], "g", [], [onnx.ValueInfoProto(name="y")], [tensor, index])
    path = tmp_path / "m.onnx"
    path.write_bytes(finish(graph, 17).SerializeToString())
    module = load(path)
    save(module, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").stat().st_size < 10_000
    assert weight(tmp_path / "out.onnx").shape == (rows, 1000)
    assert Reference(tmp_path / "out.onnx").run({})["y"].shape == (1, 1000)
