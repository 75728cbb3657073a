"""What a call costs: a chain of 100 small kernels, by the generated driver.

    python tools/bench_driver.py

The smallest kernels do nearly nothing, so their time is the driver's: the call, and for parallel
ones the launch of a task for each thread.
"""
# pyright: basic
# (TVM is untyped)

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import s_tir, te

from graphopt.ir.types import DType
from graphopt.runtime import Session
from graphopt.runtime.native import Context, Library, addresses
from graphopt.runtime.tensors import aligned
from graphopt.targets import bundle
from graphopt.targets.program import Arena, Buffer, Input, KernelCall, Output, Program

CALLS = 100
REPEATS = 1000
SIZES = (64, 4096, 65536)
THREADS = (1, 2, 4)


def kernel(name: str, n: int, parallel: bool) -> tvm.tirx.PrimFunc:
    """Y = x + 1 on n floats, in 8 pieces."""
    x: Any = te.placeholder((n,), name="x")
    y: Any = te.compute((n,), lambda i: x[i] + 1.0)
    schedule = s_tir.Schedule(te.create_prim_func([x, y]))
    (loop,) = schedule.get_loops(schedule.get_sblock("compute"))
    outer, inner = schedule.split(loop, [8, None])
    schedule.vectorize(schedule.split(inner, [None, 8])[1])
    if parallel:
        schedule.parallel(outer)
    return schedule.mod["main"].with_attr("global_symbol", name)


def program(name: str, n: int) -> Program:
    """A chain of calls of one kernel."""
    places = [Input(0), *(Arena((i % 2) * 4 * n) for i in range(CALLS - 1)), Output(0)]
    buffers = tuple(Buffer(f"b{i}", DType.f32, (n,), p) for i, p in enumerate(places))
    steps = tuple(KernelCall(name, (i, i + 1)) for i in range(CALLS))
    return Program(name, buffers, (0,), (CALLS,), steps, arena_bytes=8 * n)


def build(folder: Path) -> list[Path]:
    """Compile every kernel into one object."""
    kernels = {}
    for n in SIZES:
        kernels[f"serial{n}"] = kernel(f"serial{n}", n, parallel=False)
        kernels[f"parallel{n}"] = kernel(f"parallel{n}", n, parallel=True)
    with tvm.transform.PassContext(config={"tirx.disable_assert": True}):
        module = tvm.tirx.build(tvm.IRModule(kernels), target=tvm.target.Target({"kind": "llvm"}))
    module.write_to_file(str(folder / "kernels.o"))
    return [folder / "kernels.o"]


def measure(library: Library, n: int, threads: int) -> tuple[float, float]:
    """Minimum and median microseconds of a call."""
    context = Context(library, threads)
    x, y = aligned((n,), np.dtype("float32")), aligned((n,), np.dtype("float32"))
    x[:] = 0
    ends = addresses([x]), addresses([y])
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        context.run(*ends, 0, CALLS)
        times.append(time.perf_counter() - start)
    assert (y == CALLS).all()
    context.close()
    return min(times) * 1e6 / CALLS, float(np.median(times)) * 1e6 / CALLS


def main() -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        objects = build(folder)
        print(f"{'kernel':>16} {'threads':>8} {'min us':>8} {'median us':>10}   a call")
        for n in SIZES:
            for kind in ("serial", "parallel"):
                out = folder / f"{kind}{n}"
                meta = bundle.Meta()
                bundle.write(program(f"{kind}{n}", n), objects, out, model=b"", meta=meta)
                library = Library(out / bundle.LIBRARY, "go")
                for threads in THREADS if kind == "parallel" else (1,):
                    least, median = measure(library, n, threads)
                    print(f"{kind + str(n):>16} {threads:>8} {least:>8.3f} {median:>10.3f}")
        with Session(folder / "serial64", 1) as session:
            x = aligned((64,), np.dtype("float32"))
            start = time.perf_counter()
            for _ in range(REPEATS):
                session.run({"b0": x})
            each = (time.perf_counter() - start) * 1e6 / REPEATS
            print(f"Session.run of {CALLS} serial calls: {each:.1f} us")


if __name__ == "__main__":
    main()
