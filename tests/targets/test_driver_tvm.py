"""The generated driver around kernels that TVM compiles: the same bytes from Python and from C."""
# pyright: basic
# (TVM is untyped)

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.errors import InputError
from graphopt.ir.types import DType
from graphopt.runtime import Session
from graphopt.targets import bundle
from graphopt.targets.driver import toolchain
from graphopt.targets.program import (
    Arena,
    Buffer,
    Input,
    KernelCall,
    Output,
    Program,
    Weight,
    WeightData,
    Workspace,
)

THREADS = (1, 2, 5)


@pytest.fixture(scope="module")
def tvm_objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two kernels: a serial and a parallel matmul + bias, with a workspace between."""
    tvm = pytest.importorskip("tvm")
    path = tmp_path_factory.mktemp("tvm") / "kernels.o"
    target = tvm.target.Target({"kind": "llvm"})
    kernels = {f"matmul{i}": _matmul(f"matmul{i}", bool(i)) for i in range(2)}
    with tvm.transform.PassContext(config={"tirx.disable_assert": True}):
        built = tvm.tirx.build(tvm.IRModule(kernels), target=target)
    built.write_to_file(str(path))
    return [path]


def _matmul(name: str, parallel: bool) -> Any:
    from tvm import s_tir, te

    x: Any = te.placeholder((64, 32), name="x")
    w: Any = te.placeholder((32, 32), name="w")
    doubled: Any = te.compute(x.shape, lambda i, j: x[i, j] * 2.0, name="doubled")
    k = te.reduce_axis((0, 32), name="k")
    y: Any = te.compute((64, 32), lambda i, j: te.sum(doubled[i, k] * w[k, j], axis=k), name="y")
    schedule = s_tir.Schedule(te.create_prim_func([x, w, y]))
    for block in ("doubled", "y") if parallel else ():
        schedule.parallel(schedule.get_loops(schedule.get_sblock(block))[0])
    return schedule.mod["main"].with_attr("global_symbol", name)


def matmuls() -> Program:
    """Y = f(f(x, w), w) with f(a, w) = 2a @ w, once serial and once parallel."""
    w = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
    buffers = (
        Buffer("x", DType.f32, (64, 32), Input(0)),
        Buffer("w", DType.f32, (32, 32), Weight(64)),
        Buffer("t", DType.f32, (64, 32), Arena(0)),
        Buffer("y", DType.f32, (64, 32), Output(0)),
    )
    steps = (
        KernelCall("matmul0", (0, 1, 2), ("/first",), 65536),
        KernelCall("matmul1", (2, 1, 3), ("/second",), 65536),
    )
    weights = (WeightData(64, w.nbytes, lambda: w),)
    size = 64 + w.nbytes
    return Program("matmuls", buffers, (0,), (3,), steps, (), weights, size, 64 * 32 * 4)


def test_tvm_kernels_from_python_and_c(tvm_objects: list[Path], tmp_path: Path) -> None:
    program = matmuls()
    out = tmp_path / "m.graphopt"
    bundle.write(
        program, tvm_objects, out, model=b"onnx", meta=bundle.Meta(), workspace=Workspace(8192)
    )
    x = np.random.default_rng(1).standard_normal((64, 32)).astype(np.float32)
    results: list[bytes] = []
    for threads in THREADS:
        with Session(out, threads) as session:
            y = session.run({"x": x})["y"]
            assert [t.kernel for t in session.profile({"x": x}, 3)] == ["matmul0", "matmul1"]
        results.append(y.tobytes())
        w = program.weights[0].load()
        np.testing.assert_allclose(y, 4 * x @ w @ w, rtol=1e-4, atol=1e-4)
    x.tofile(tmp_path / "x.bin")
    args = "-O2 -Wall -Wextra -Werror main.c -o ../main -L. -lmodel -Wl,-rpath,m.graphopt"
    toolchain.run(toolchain.find(), args.split(), out)
    for threads in ("1", "3"):
        command = ["./main", threads, "x.bin", "y.bin"]
        subprocess.run(command, cwd=tmp_path, check=True)
        results.append((tmp_path / "y.bin").read_bytes())
    assert len(set(results)) == 1
    usage = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert usage.returncode == 2
    assert "input  x: float32, 8192 bytes" in usage.stderr


def test_an_existing_folder_is_not_lost(tvm_objects: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("text")
    with pytest.raises(InputError, match="is not a graphopt bundle"):
        bundle.write(matmuls(), tvm_objects, out, model=b"", meta=bundle.Meta())
    assert (out / "precious").read_text() == "text"
