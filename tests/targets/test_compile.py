"""The pool of compiling processes: cache, failures, determinism, and no TVM in this process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from graphopt.errors import InputError
from graphopt.targets import machine
from graphopt.targets.cache import keep, keep_hashed, kept_hashed
from graphopt.targets.program import Workspace
from graphopt.targets.roofline import described
from graphopt.targets.tvm.chains import Rates, rates
from graphopt.targets.tvm.compile import CompileFailure, compile_kernels, salt
from tests.kerneltext import K

M = machine.load("x86-64-v2")
RELU = "graph @k(%x: f32[64]) { %y = relu(%x)\n return(%y) }"


def test_objects_are_cached_and_deterministic(tmp_path: Path) -> None:
    seen: list[tuple[str, bool]] = []
    kernels = [K("a", "one", RELU), K("b", "two", RELU.replace("64", "60"))]
    for folder in ("x", "x", "y"):
        compile_kernels(kernels, M, jobs=2, cache_dir=tmp_path / folder,
                        progress=lambda key, cached, _: seen.append((key, cached)))  # fmt: skip
    assert sorted(seen[:2]) == [("one", False), ("two", False)]
    assert sorted(seen[2:4]) == [("one", True), ("two", True)]
    for key in ("one", "two"):
        first, second = ((tmp_path / f / f"{key}.o").read_bytes() for f in "xy")
        assert first == second
        assert first[:4] == b"\x7fELF"
    names = {"one.o", "one.workspace", "two.o", "two.workspace"}
    assert {p.name for p in (tmp_path / "x").iterdir()} == names


def test_workspaces_are_noted(tmp_path: Path) -> None:
    # A padded copy of the input, made before the parallel loop: 18 * 18 * 64 * 4 bytes.
    conv = """graph @k(%x: f32[1,64,16,16:aBcd4b], %w: f32[64,64,3,3:ABcd4b4a]) {
      %y = conv(%x, %w) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} : f32[1,64,16,16:aBcd4b]
      return(%y) }"""
    kernels = [K("a", "one", RELU), K("b", "two", conv)]
    found = compile_kernels(kernels, M, cache_dir=tmp_path)
    objects = {key: path for key, path in found.items() if isinstance(path, Path)}
    assert Workspace.beside([objects["one"]]) == Workspace()
    assert Workspace.beside(objects.values()) == Workspace(82944, 0)
    (tmp_path / "two.workspace").unlink()  # as an older cache has it: compiled again
    assert compile_kernels(kernels, M, cache_dir=tmp_path) == found
    assert (tmp_path / "two.workspace").exists()


def test_a_batch_of_large_images_is_copied_one_by_one(tmp_path: Path) -> None:
    # 16 copies of 18 * 18 * 64 * 4 bytes are more than the second cache should hold.
    conv = """graph @k(%x: f32[16,64,16,16:aBcd4b], %w: f32[64,64,3,3:ABcd4b4a]) {
      %y = conv(%x, %w) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} : f32[16,64,16,16:aBcd4b]
      return(%y) }"""
    path = compile_kernels([K("a", "one", conv)], M, cache_dir=tmp_path)["one"]
    assert isinstance(path, Path)
    assert Workspace.beside([path]) == Workspace(82944, 0)


def test_a_refused_kernel_says_why(tmp_path: Path) -> None:
    text = "graph @k(%x: f32[3]) { %y = shape(%x)\n return(%y) }"
    found = compile_kernels([K("a", "bad", text), K("b", "good", RELU)], M, cache_dir=tmp_path)
    assert isinstance(found["good"], Path)
    assert found["bad"] == CompileFailure("bad", "no kernel for shape")


def test_a_worker_that_dies_loses_only_its_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_TEST_ABORT", "dead")
    kernels = [K("a", "dead", RELU), *(K(f"b{i}", f"k{i}", RELU) for i in range(3))]
    found = compile_kernels(kernels, M, jobs=2, cache_dir=tmp_path)
    assert isinstance(found["dead"], CompileFailure) and "ended with status -6" in found["dead"].reason
    assert all(isinstance(found[f"k{i}"], Path) for i in range(3))


def test_an_unwritable_cache_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't make the cache folder"):
        compile_kernels([], M, cache_dir=tmp_path / "file" / "x")


def test_a_kernel_that_cant_be_written_isnt_one_that_cant_be_compiled(tmp_path: Path) -> None:
    """On a full disk the model must not go to ONNX Runtime, kernel by kernel, without a word."""
    (tmp_path / "one.o").mkdir()  # in the way, as a full disk is
    kernels = [K("a", "one", RELU), *(K(f"b{i}", f"k{i}", RELU) for i in range(3))]
    with pytest.raises(InputError, match="can't write compiled kernels: Is a directory; make room"):
        compile_kernels(kernels, M, jobs=1, cache_dir=tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"one.o", "one.workspace"}


def test_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    kernels = [K("a", f"k{i}", RELU) for i in range(4)]
    compile_kernels(kernels, M, jobs=1, cache_dir=tmp_path)
    whole = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    (tmp_path / "k0.o").write_bytes(b"")
    (tmp_path / "k1.o").write_bytes(whole["k1.o"][:70] + b"!" + whole["k1.o"][71:])
    (tmp_path / "k2.workspace").write_bytes(whole["k2.workspace"][:-9])
    (tmp_path / "k3.workspace").write_bytes(b"[]")
    compile_kernels(kernels, M, jobs=1, cache_dir=tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == whole


def test_what_is_kept_is_whole_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    keep(tmp_path / "there", b"data")  # can't be; neither an error nor a file is left
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
    keep_hashed(tmp_path / "one", b"data")
    assert kept_hashed(tmp_path / "one") == b"data"
    (tmp_path / "one").write_bytes((tmp_path / "one").read_bytes()[:-1])
    assert kept_hashed(tmp_path / "one") is kept_hashed(tmp_path / "none") is None


def test_salt_tells_machines_apart() -> None:
    assert salt(M) != salt(machine.load("avx2"))


def test_tvm_stays_out_of_the_main_process() -> None:
    code = ("import sys, graphopt.targets.tvm.compile, graphopt.targets.tvm.legal;"
            "sys.exit(any(m == 'tvm' or m.startswith('tvm.') for m in sys.modules))")  # fmt: skip
    path = os.pathsep.join(sys.path)
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}).returncode == 0


def test_machines() -> None:
    with pytest.raises(InputError, match="did you mean 'avx512'"):
        machine.load("avx51")
    wide = machine.load("avx512")
    assert machine.Machine.from_json(wide.to_json()) == wide
    assert machine.detect(frozenset(wide.cpu_features)) == wide
    assert machine.detect(frozenset(M.cpu_features)) == M


def test_a_description_of_one_design_is_taken_there_alone() -> None:
    zen4, zen5, intel = (machine.Design("AuthenticAMD", 25, 17), machine.Design("AuthenticAMD", 26, 2),
                         machine.Design("GenuineIntel", 25, 17))  # fmt: skip
    mobile = machine.Design("AuthenticAMD", 26, 36)
    for own, at in ((machine.load("znver4"), zen4), (machine.load("znver5"), zen5)):
        have = frozenset(own.cpu_features)
        assert machine.detect(have, at) == own
        others = {machine.detect(have, cpu).name for cpu in (mobile, intel, None)}
        assert others == {"avx512bf16"}
        less = have - {"avx512_bf16"}  # as some virtual machines show it
        assert machine.detect(less, at).name == "avx512vnni"
        assert machine.Machine.from_json(own.to_json()) == own


@pytest.mark.parametrize("name", machine.names())
def test_no_machine_asks_for_random_numbers(name: str) -> None:
    """Linux hides `rdseed` of Zen 5, which errs; no kernel uses it."""
    assert not {"rdrand", "rdseed"} & set(machine.load(name).cpu_features)


@pytest.mark.parametrize(("text", "design"), [
    ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n",
     machine.Design("AuthenticAMD", 25, 17)),
    ("CPU implementer : 0x41\n", None),
    ("vendor_id : x\ncpu family : unknown\nmodel : 1\n", None),
])  # fmt: skip
def test_the_design_is_read_from_linux(
    text: str, design: machine.Design | None, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert machine.host_design(tmp_path / "cpuinfo") == design
    assert machine.host_design(tmp_path / "none") is None


def test_measured_bandwidths_are_the_roofline_that_is_described() -> None:
    roof, newer = described(machine.load("znver4")), described(machine.load("znver5"))
    assert roof.peak("f32") == 118e9
    assert (newer.peak("f32"), newer.peak("bf16"), newer.peak("i8")) == (273e9, 546e9, 1092e9)
    assert roof.bytes_a_second(1 << 30) < roof.bytes_a_second(1 << 20) < roof.bytes_a_second(1 << 15)
    tiles = described(machine.load("amx"))  # a tile holds 1,024 bytes: twice as many as halves
    assert tiles.peak("i8") == 2 * tiles.peak("bf16") == 16 * tiles.peak("f32")
    assert rates(machine.load("avx512")) == Rates()
    assert rates(machine.load("znver4")).flops < 118e9
