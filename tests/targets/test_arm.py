"""Models for ARM boards, end to end under qemu: the numbers, the counts, no allocation in runs."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.api import Arm, Result
from graphopt.errors import UnsupportedError
from graphopt.onnx import Reference
from graphopt.runtime.manifest import Manifest
from graphopt.targets import machine
from graphopt.targets.base import Build
from graphopt.targets.driver import toolchain
from graphopt.targets.emulator.artifact import artifact
from graphopt.targets.emulator.count import count
from graphopt.targets.emulator.instructions import tools
from graphopt.targets.emulator.qemu import Emulator
from tests.crosscheck import emulated

MODELS = Path(__file__).parents[2] / "models"
ALLOCATIONS = Path(__file__).parent / "allocations.c"
SYSROOT = Path("/usr/aarch64-linux-gnu")  # of Debian's cross compiler
INT8 = "default,calibrate,quantize"
SHAPES = {"shapes_unet": {"image": (1, 3, 64, 64)}}


@cache
def optimized(name: str, cpu: str, passes: str = "default") -> Result:
    emulated(machine.load(cpu))  # skips where nothing runs it
    model, shapes = MODELS / f"{name}.onnx", SHAPES.get(name)
    return graphopt.optimize(model, f"arm:{cpu}", passes, input_shapes=shapes, threads=1,
                             build=Build(jobs=2), measure=True)  # fmt: skip


def bundle_of(result: Result) -> Path:
    assert result.bundle
    return result.bundle


SLOW = pytest.mark.slow
MATRIX = [
    ("fmnist_resnet8", "cortex-a72", "default"),
    ("digits_dscnn", "cortex-a53", "default"),
    ("fmnist_mobilenetv2", "cortex-a76", INT8),
    pytest.param("fmnist_resnet8", "cortex-a53", INT8, marks=SLOW),
    pytest.param("fmnist_vit", "neoverse-n1", "default", marks=SLOW),
    pytest.param("fmnist_vit", "cortex-a76", INT8, marks=SLOW),
    pytest.param("digits_bilstm", "cortex-a55", "default", marks=SLOW),
    pytest.param("shapes_unet", "cortex-a72", "default", marks=SLOW),
    pytest.param("fmnist_vgg", "neoverse-v1", "default", marks=SLOW),
]


@pytest.mark.parametrize(("name", "cpu", "passes"), MATRIX)
def test_a_model_as_the_cpu_runs_it(name: str, cpu: str, passes: str) -> None:
    result = optimized(name, cpu, passes)
    report = result.report
    assert report.ok and "under qemu" in report.ran and report.fallback is None
    assert any(check.what.startswith("the compiled bundle, ") for check in report.checks)
    assert report.instructions.startswith(f"{cpu} has every instruction: ") or not tools()
    (latency,) = report.latency
    assert "estimated" in latency.estimate and latency.median_ms > 0
    assert all(row["instructions"] > 0 for row in report.layers)
    manifest = Manifest.load(bundle_of(result))
    assert any("conv_integer" in n.ops for n in manifest.layers) == (passes == INT8)
    assert manifest.arch == "aarch64" and manifest.extra["machine"] == cpu
    files = {"libmodel.so", "libmodel.a", "model.h", "main.c", "model.onnx", "manifest.json"}
    assert {p.name for p in bundle_of(result).iterdir()} == files


def feed_of(name: str) -> dict[str, np.ndarray]:
    module = graphopt.load(MODELS / f"{name}.onnx")
    (arg,) = module.main.args
    rng = np.random.default_rng(0)
    shape = [d if isinstance(d, int) else 1 for d in arg.tensor.shape or ()]
    return {arg.hint: rng.standard_normal(shape).astype(np.float32)}


def test_counts_are_the_same_in_every_run() -> None:
    m = machine.load("cortex-a72")
    compiler, runner = emulated(m)
    bundle, feed = bundle_of(optimized("fmnist_resnet8", "cortex-a72")), feed_of("fmnist_resnet8")
    with artifact(bundle, compiler, runner.emulator) as program:
        first, second = (count(program, feed, m) for _ in range(2))
    kernels = {layer.kernel for layer in Manifest.load(bundle).layers}
    assert {name for name, c in first.items() if c.instructions} >= kernels
    assert {k: first[k] for k in kernels} == {k: second[k] for k in kernels}
    macs = sum(layer.macs for layer in Manifest.load(bundle).layers)
    executed = sum(first[k].instructions for k in kernels)
    assert macs / 16 < executed < macs  # four multiply-adds an instruction, fewer by winograd


def test_several_threads_give_the_same_numbers() -> None:
    compiler, runner = emulated(machine.load("cortex-a72"))
    bundle, feed = bundle_of(optimized("fmnist_resnet8", "cortex-a72")), feed_of("fmnist_resnet8")
    with artifact(bundle, compiler, runner.emulator) as program:
        one, three = (program.run(feed, threads) for threads in (1, 3))
    want = Reference(bundle / "model.onnx").run(feed)
    for name in want:
        np.testing.assert_array_equal(one[name], three[name])
        np.testing.assert_allclose(one[name], want[name], rtol=0, atol=1e-4 * np.abs(want[name]).max())


def test_runs_allocate_nothing(tmp_path: Path) -> None:
    compiler, runner = emulated(machine.load("cortex-a72"))
    if not SYSROOT.exists():
        pytest.skip("the functions that count need the cross compiler's own glibc")
    bundle = bundle_of(optimized("fmnist_resnet8", "cortex-a72"))
    flags = ["-std=c11", f"-I{bundle}", str(ALLOCATIONS), str(bundle / "libmodel.a")]
    toolchain.run(compiler, [*flags, "-o", "count", *toolchain.LIBRARIES], tmp_path)
    for threads in ("1", "3"):
        command = [*runner.emulator.command, "-L", SYSROOT, tmp_path / "count", threads]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        made, later = map(int, done.stdout.split())
        assert made > 0
        assert later == 0


def test_the_library_needs_libc_alone() -> None:
    result = optimized("fmnist_resnet8", "cortex-a72")
    data = (bundle_of(result) / "libmodel.so").read_bytes()
    assert b"libc.so.6" in data
    for other in (b"libgcc", b"libtvm", b"libstdc++", b"libm.so"):
        assert other not in data


def test_without_qemu_it_says_that_nothing_was_run(monkeypatch: pytest.MonkeyPatch) -> None:
    emulated(machine.load("cortex-a72"))

    def none(target: machine.Machine) -> Emulator:
        raise UnsupportedError("no qemu-aarch64 was found to run it: `apt-get install qemu-user`")

    monkeypatch.setattr("graphopt.targets.arm.find", none)
    result = graphopt.optimize(MODELS / "digits_dscnn.onnx", Arm("cortex-a53"), measure=True)
    assert not result.report.ran and not result.report.latency
    (note,) = [n for n in result.report.notes if "NOT RUN" in n]
    assert "`apt-get install qemu-user`" in note
