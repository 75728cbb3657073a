"""Generating and linking: what is refused, one-line errors, the same bytes from the same input."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import GraphoptError, UnsupportedError
from graphopt.ir.types import DType
from graphopt.targets.driver import toolchain
from graphopt.targets.driver.generate import c_string, generate
from graphopt.targets.program import (
    Buffer,
    Dynamic,
    FallbackCall,
    Input,
    KernelCall,
    Output,
    Place,
    Program,
    Weight,
    WeightData,
)

SOURCE = "int __tvm_ffi_nop(void) { return 0; }\n"


def buffer(place: Place, name: str, dtype: DType = DType.f32) -> Buffer:
    return Buffer(name, dtype, (1000,), place)


def program(kernel: str = "nop") -> Program:
    w = np.arange(1000, dtype=np.float32)
    buffers = (buffer(Input(0), "x"), buffer(Weight(0), "w"), buffer(Output(0), "y"))
    steps = (KernelCall(kernel, (0, 1, 2)),)
    weights = (WeightData(0, w.nbytes, lambda: w),)
    return Program("nop", buffers, (0,), (2,), steps, (), weights, 4032)


def link(
    program: Program,
    objects: list[Path],
    folder: Path,
    compiler: toolchain.Toolchain | None = None,
    cache: Path | None = None,
) -> Path:
    size = program.weight_bytes
    sources = generate(program)
    output = folder / "libmodel.so"
    return toolchain.link(objects, sources, program.weights, output, weight_bytes=size,
                          toolchain=compiler, cache=cache)  # fmt: skip


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "nop.c").write_text(SOURCE)
    toolchain.run(toolchain.find(), ["-O2", "-fPIC", "-c", "nop.c", "-o", "nop.o"], folder)
    return [folder / "nop.o"]


def test_same_input_same_bytes(objects: list[Path], tmp_path: Path) -> None:
    libraries: list[bytes] = []
    for name in ("a", "some/other/place"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        moved = folder / "renamed.o"
        moved.write_bytes(objects[0].read_bytes())
        link(program(), [moved], folder)
        libraries.append((folder / "libmodel.so").read_bytes())
        assert {p.name for p in folder.iterdir()} == {"renamed.o", "libmodel.so"}
    assert libraries[0] == libraries[1]
    assert str(tmp_path).encode() not in libraries[0]


def test_what_generate_refuses() -> None:
    bits = Program("p", (buffer(Input(0), "x", DType.i4),), (0,), (), ())
    with pytest.raises(UnsupportedError, match="buffer x has elements of i4"):
        generate(bits)
    big = Program("p", (), (), (), (), weight_bytes=3 * 2**30)
    with pytest.raises(UnsupportedError, match=r"3\.0 GiB of weights"):
        generate(big)
    with pytest.raises(GraphoptError, match="prefix"):
        generate(program(), prefix="2x")


def test_a_program_with_fallbacks_has_no_example() -> None:
    buffers = (buffer(Input(0), "x"), buffer(Output(0), "y"))
    call = FallbackCall(b"", (("a", 0),), (("b", 1),))
    mixed = Program("p", buffers, (0,), (1,), (call,))
    assert "main.c" in generate(program())
    assert "main.c" not in generate(mixed)
    dynamic = Program("p", (buffer(Dynamic(), "x"),), (0,), (), ())
    assert "main.c" not in generate(dynamic)


def test_c_strings() -> None:
    assert c_string('a"b\\c\n??/é') == r'"a\042b\134c\012\077\077/\303\251"'


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_module(name: str) -> None: ...

    def any_module(name: str) -> object:
        return name

    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", no_module)
    with pytest.raises(UnsupportedError, match="pip install ziglang"):
        toolchain.find()
    with pytest.raises(UnsupportedError, match="aarch64-linux-gnu"):
        toolchain.find("aarch64-linux-gnu")
    monkeypatch.setenv("CC", "ccache gcc-13")
    assert toolchain.find().command == ("ccache", "gcc-13")
    monkeypatch.setattr("importlib.util.find_spec", any_module)
    assert toolchain.find("aarch64-linux-gnu").text.endswith("-target aarch64-linux-gnu.2.28")


def test_a_driver_is_compiled_once(objects: list[Path], tmp_path: Path) -> None:
    cc, log, cache = tmp_path / "cc", tmp_path / "log", tmp_path / "cache"
    command = toolchain.find().text
    cc.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {command} "$@"\n')
    cc.chmod(0o755)
    cache.mkdir()

    def linked(of: Program = program(), where: Path = cache) -> tuple[bytes, bool]:  # noqa: B008
        log.unlink(missing_ok=True)
        made = link(of, objects, tmp_path, toolchain.Toolchain((str(cc),)), where)
        return made.read_bytes(), "plan.c" in log.read_text()

    first, compiled = linked()
    assert compiled
    assert linked() == (first, False)
    assert linked(dataclasses.replace(program(), name="other"))[1]
    assert linked() == (first, False)
    cc.write_text(cc.read_text() + "# another compiler\n")
    assert linked() == (first, True)
    assert linked(where=objects[0] / "none") == (first, True)  # a cache that can't be written


def test_compiler_errors_are_one_line(objects: list[Path], tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match=r"failed: .*undefined.*__tvm_ffi_nothing"):
        link(program("nothing"), objects, tmp_path)
    assert not list(tmp_path.iterdir())
    broken = toolchain.Toolchain(("no-such-compiler",))
    with pytest.raises(UnsupportedError, match="does not start"):
        toolchain.link(objects, generate(program()), (), tmp_path / "x", toolchain=broken)


def test_a_weight_of_a_wrong_size(objects: list[Path], tmp_path: Path) -> None:
    weight = WeightData(0, 8, lambda: np.zeros(3, np.float32))
    with pytest.raises(GraphoptError, match="12 bytes, not 8"):
        toolchain.link(objects, generate(program()), (weight,), tmp_path / "x")
    assert not list(tmp_path.iterdir())
