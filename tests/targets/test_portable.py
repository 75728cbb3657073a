"""A model as one C file: any compiler builds it, for this computer and for others under qemu."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.api import C
from graphopt.errors import UnsupportedError
from graphopt.onnx import Reference
from graphopt.runtime import Session
from graphopt.runtime.manifest import Manifest
from graphopt.targets import machine
from graphopt.targets.base import Build
from graphopt.targets.driver import toolchain
from graphopt.targets.program import Workspace
from graphopt.targets.tvm import intmath, scalars, vecmath
from graphopt.targets.tvm.compile import CompileFailure, compile_kernels
from tests.cli.conftest import conv_model
from tests.kerneltext import K

MODELS = Path(__file__).parents[2] / "models"
ALLOCATIONS = Path(__file__).parent / "allocations.c"
PORTABLE = machine.load("portable")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model as C for this computer."""
    folder = tmp_path_factory.mktemp("portable")
    source = conv_model().SerializeToString()
    result = graphopt.optimize(source, "c", build=Build(jobs=2))
    assert result.report.ok
    return result.save(folder / "small.graphopt")


def sample() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)


def test_the_library(bundle: Path) -> None:
    want = Reference(bundle / "model.onnx").run({"x": sample()})["y"]
    for threads in (1, 3):
        with Session(bundle, threads=threads) as session:
            got = session.run({"x": sample()})["y"]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    manifest = Manifest.load(bundle)
    assert manifest.arch == platform.machine() and not manifest.cpu_features
    assert {"model.c", "model.h", "main.c", "libmodel.a", "libmodel.so"} <= set(manifest.files)


@pytest.mark.parametrize("flags", ["-std=c11 -O0", "-std=gnu17 -O2 -march=native"], ids=str)
def test_the_c_file_alone(flags: str, bundle: Path, tmp_path: Path) -> None:
    for name in ("model.c", "model.h", "main.c"):
        (tmp_path / name).write_bytes((bundle / name).read_bytes())
    args = [*flags.split(), "model.c", "main.c", "-o", "main", "-lpthread", "-lm"]
    toolchain.run(toolchain.find(), args, tmp_path)
    sample().tofile(tmp_path / "x")
    subprocess.run(["./main", "2", "x", "y"], cwd=tmp_path, check=True)
    want = Reference(bundle / "model.onnx").run({"x": sample()})["y"]
    got = np.fromfile(tmp_path / "y", np.float32).reshape(want.shape)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_times_of_the_example(bundle: Path, tmp_path: Path) -> None:
    args = ["-std=c11", "-O2", f"-I{bundle}", str(bundle / "main.c"), str(bundle / "libmodel.a")]
    toolchain.run(toolchain.find(), [*args, "-o", "main", "-lpthread", "-lm"], tmp_path)
    sample().tofile(tmp_path / "x")
    command = ["./main", "-t", "0.01", "1", "x", "y"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    ns = [int(line) for line in done.stdout.split()]
    assert len(ns) >= 3 and all(n > 0 for n in ns) and (tmp_path / "y").exists()


def test_runs_allocate_nothing(bundle: Path, tmp_path: Path) -> None:
    args = ["-std=c11", f"-I{bundle}", str(ALLOCATIONS), str(bundle / "libmodel.a"), "-o", "count"]
    toolchain.run(toolchain.find(), [*args, "-lpthread", "-lm"], tmp_path)
    done = subprocess.run(["./count", "3"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "0"


def test_nothing_but_the_interface_is_seen(bundle: Path) -> None:
    from graphopt.targets.driver.archive import symbols

    data = (bundle / "libmodel.a").read_bytes()
    names = {s.name for s in symbols(data[data.index(b"\x7fELF") :])}
    assert "go_run" in names
    done = subprocess.run(
        ["nm", "-g", "--defined-only", bundle / "libmodel.a"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if not done.returncode:
        visible = [line.split()[-1] for line in done.stdout.splitlines() if " " in line]
        assert visible and all(name.startswith("go_") for name in visible)


@pytest.mark.parametrize("name", sorted({*vecmath.FUNCTIONS, *intmath.EVERYWHERE}))
def test_every_function_has_its_c(name: str) -> None:
    text = scalars.define(name)
    assert f"graphopt_{name}_1(" in text
    assert scalars.known(f"graphopt_{name}_1") == name


def test_what_has_no_c_is_refused_by_name(tmp_path: Path) -> None:
    text = "graph @k(%x: f16[64]) { %y = relu(%x)\n return(%y) }"
    relu = "graph @k(%x: f32[64]) { %y = relu(%x)\n return(%y) }"
    found = compile_kernels([K("a", "half", text), K("b", "relu", relu)], PORTABLE, cache_dir=tmp_path)
    assert isinstance(found["half"], CompileFailure)
    assert "portable C has no" in found["half"].reason
    assert found["relu"] == tmp_path / "relu.c"
    assert Workspace.beside([tmp_path / "relu.c"]) == Workspace()


def test_a_machine_that_is_not_known() -> None:
    from graphopt.errors import InputError
    from graphopt.targets.base import parse_target

    with pytest.raises(InputError, match="did you mean 'riscv64-linux-gnu'"):
        parse_target("c:riscv64-linux")


INT8 = "default,calibrate,quantize"
CASES = [
    ("c:riscv64-linux-gnu", "fmnist_resnet8", "default"),
    ("c:riscv64-linux-gnu", "fmnist_mobilenetv2", INT8),
    ("c:armv7-linux-gnueabihf", "digits_dscnn", "default"),
    ("c:armv7-linux-gnueabihf", "fmnist_mobilenetv2", INT8),
    ("c:aarch64-linux-gnu", "fmnist_vit", "default"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("target", "name", "passes"), CASES)
def test_models_for_other_machines(target: str, name: str, passes: str) -> None:
    try:
        C(target.removeprefix("c:")).runner()
    except UnsupportedError as why:
        pytest.skip(str(why))
    result = graphopt.optimize(MODELS / f"{name}.onnx", target, passes, build=Build(jobs=2))
    assert result.report.ok and "under qemu" in result.report.ran
    assert result.bundle and (result.bundle / "model.c").exists()
