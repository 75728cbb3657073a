"""Bundles as folders: written whole or not at all, checked when they are opened."""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.errors import GraphoptError, InputError, UnsupportedError
from graphopt.ir.types import DType
from graphopt.runtime import Manifest, Session
from graphopt.runtime import cpu as cpu_module
from graphopt.runtime.manifest import seal
from graphopt.targets import bundle
from graphopt.targets.driver import toolchain
from graphopt.targets.program import (
    Arena,
    Buffer,
    FallbackCall,
    Input,
    KernelCall,
    Output,
    Place,
    Program,
)

KERNELS = Path(__file__).parents[1] / "targets" / "kernels.c"
X = np.linspace(-1, 1, 21, dtype=np.float32)


def buffer(place: Place, name: str) -> Buffer:
    return Buffer(name, DType.f32, X.shape, place)


def neg() -> bytes:
    """A model that negates."""
    a, b = (helper.make_tensor_value_info(n, TensorProto.FLOAT, X.shape) for n in ("a", "b"))
    graph = helper.make_graph([helper.make_node("Neg", ["a"], ["b"])], "neg", [a], [b])
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()


def kernels_program() -> Program:
    """Y = 2x."""
    buffers = (buffer(Input(0), "x"), buffer(Output(0), "y"))
    return Program("small", buffers, (0,), (1,), (KernelCall("twice", (0, 1)),))


def mixed_program() -> Program:
    """Y = -2x, the minus in ONNX Runtime."""
    buffers = (buffer(Input(0), "x"), buffer(Arena(0), "t"), buffer(Output(0), "y"))
    steps = (KernelCall("twice", (0, 1)), FallbackCall(neg(), (("a", 1),), (("b", 2),)))
    return Program("mixed", buffers, (0,), (2,), steps, arena_bytes=128)


Write = Callable[..., Path]


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    folder = tmp_path_factory.mktemp("bundles")
    args = ["-O2", "-fPIC", "-c", str(KERNELS), "-o", "kernels.o"]
    toolchain.run(toolchain.find(), args, folder)

    def make(program: Program, out: Path | None = None) -> Path:
        out = out or folder / program.name
        files: dict[str, bundle.Content] = {"report.html": lambda path: path.write_text("<html>")}
        objects = [folder / "kernels.o"]
        bundle.write(program, objects, out, model=b"m", meta=bundle.Meta(), files=files)
        return out

    return make


@pytest.fixture(scope="module")
def small(write: Write) -> Path:
    return write(kernels_program())


@pytest.fixture(scope="module")
def mixed(write: Write) -> Path:
    return write(mixed_program())


def copied(source: Path, target: Path, **changes: Any) -> Path:
    """A copy of a bundle with other values in its manifest."""
    shutil.copytree(source, target)
    path = target / "manifest.json"
    path.write_text(seal({**json.loads(path.read_text()), **changes}))
    return target


def test_what_is_not_a_bundle(small: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a bundle: it has no manifest\.json"):
        Session(tmp_path)
    cases: dict[str, dict[str, Any]] = {
        "has format 99": {"graphopt_bundle": 99},
        "parts do not fit together": {"layers": []},
        "leads out of the bundle": {"library": "../libmodel.so"},
        "a step is a": {"steps": [{"kind": "magic"}]},
        "float99": {"inputs": [{"name": "x", "dtype": "float99", "shape": [1]}]},
    }
    for i, (words, changes) in enumerate(cases.items()):
        with pytest.raises(InputError, match=words):
            Session(copied(small, tmp_path / str(i), **changes))
    for text in ("{", "[]", "{}", '{"graphopt_bundle": 1}', "\xff"):
        (tmp_path / "0" / "manifest.json").write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match="manifest"):
            Session(tmp_path / "0")


def test_a_damaged_bundle(small: Path, tmp_path: Path) -> None:
    path = copied(small, tmp_path / "b")
    library = path / "libmodel.so"
    data = bytearray(library.read_bytes())
    data[-1] ^= 1
    library.write_bytes(data)
    with pytest.raises(InputError, match=r"libmodel\.so is not the file"):
        Session(path, verify=True)
    library.write_bytes(b"short")
    with pytest.raises(InputError, match=r"libmodel\.so is not the file"):
        Session(path)
    library.unlink()
    with pytest.raises(InputError, match=r"libmodel\.so is missing"):
        Session(path)
    path = copied(small, tmp_path / "c", files=dict[str, str]())
    (path / "libmodel.so").write_bytes(b"not a library")
    with pytest.raises(InputError, match="can't be loaded"):
        Session(path)
    with pytest.raises(InputError, match="is to be an integer from 1"):
        Session(small, 0)


def test_machines(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copied(small, tmp_path / "a", cpu_features=["avx512_vnni", "amx-tile", "sse3"])
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(cpu_module, "_CPUINFO", cpuinfo)
    Session(path).close()  # the system doesn't tell
    cpuinfo.write_text(
        "processor: 0\nflags\t\t: fpu pni\nprocessor: 1\nflags\t\t: fpu pni amx_tile\n"
    )
    with pytest.raises(UnsupportedError, match="a CPU with avx512_vnni, amx-tile, which"):
        Session(path)
    cpuinfo.write_text("flags : pni amx_tile avx512_vnni\n")
    Session(path).close()
    path = copied(small, tmp_path / "b", arch="sparc")
    with pytest.raises(UnsupportedError, match="the bundle is for sparc, and this machine is"):
        Session(path)


def test_replaced_under_an_open_session(write: Write, tmp_path: Path) -> None:
    out = tmp_path / "model.graphopt"
    buffers = (buffer(Input(0), "x"), buffer(Output(0), "y"))
    first = Program("m", buffers, (0,), (1,), (KernelCall("twice", (0, 1)),))
    copy = Program("m", (buffer(Input(0), "y"),), (0,), (0,), ())
    write(first, out=out)
    with Session(out) as old:
        write(copy, out=out)
        with Session(out) as new:
            np.testing.assert_array_equal(new.run({"y": X})["y"], X)
        np.testing.assert_array_equal(old.run({"x": X})["y"], 2 * X)
    assert [p.name for p in tmp_path.iterdir()] == ["model.graphopt"]


def test_a_failed_write_leaves_the_old_bundle(write: Write, tmp_path: Path) -> None:
    out = tmp_path / "model.graphopt"
    write(kernels_program(), out=out)
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    broken = dataclasses.replace(kernels_program(), steps=(KernelCall("nothing", (0, 1)),))
    with pytest.raises(GraphoptError, match="__tvm_ffi_nothing"):
        write(broken, out=out)
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.graphopt"]


def test_a_full_disk_is_said_and_leaves_the_old_bundle(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.graphopt"
    bundle.publish(small, out, {"report.html": b"old"})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # bytes of a file: no room
    try:
        with pytest.raises(InputError, match=r"model\.graphopt can't be written: File too large"):
            bundle.publish(small, out, {"report.html": b"new" * 1000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (out / "report.html").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.graphopt"]


def test_the_same_program_gives_the_same_bundle(write: Write, mixed: Path, tmp_path: Path) -> None:
    again = write(mixed_program(), tmp_path / "again")
    names = sorted(p.relative_to(mixed) for p in mixed.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for name in names:
        assert (mixed / name).read_bytes() == (again / name).read_bytes(), name
    assert {"libmodel.so", "model.h", "model.onnx", "report.html"} <= {str(n) for n in names}


def test_manifest_text(mixed: Path) -> None:
    manifest = Manifest.load(mixed)
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.files["segments/0.onnx"].bytes == len(neg())
    model = onnx.ModelProto.FromString((mixed / "segments/0.onnx").read_bytes())
    assert model.graph.name == "neg"
