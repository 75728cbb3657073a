"""The generated C driver: threads, workspaces, errors, the C interface, reproducible builds."""
# pyright: basic
# (TVM is untyped)

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.errors import GraphoptError
from graphopt.ir.types import Array, DType
from graphopt.runtime.native import Context, Library, addresses
from graphopt.runtime.tensors import aligned
from graphopt.targets.driver import toolchain
from graphopt.targets.driver.generate import generate
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

N = 1000
KERNELS = Path(__file__).parent / "kernels.c"
ALLOCATIONS = Path(__file__).parent / "allocations.c"
THREADS = (1, 2, 5)
ROOM = Workspace(101120, 4032)  # what `where` asks for, and a task of `scratch`


def buffer(place: Any, name: str = "", dtype: DType = DType.f32, n: int = N) -> Buffer:
    return Buffer(name or type(place).__name__.lower(), dtype, (n,), place)


def chain(*kernels: str) -> Program:
    """X -> kernel -> arena -> kernel ... -> y, each kernel of one operand and one result."""
    count = len(kernels)
    middle = [buffer(Arena((i % 2) * 4096), f"t{i}") for i in range(count - 1)]
    buffers = (buffer(Input(0), "x"), *middle, buffer(Output(0), "y"))
    steps = tuple(KernelCall(k, (i, i + 1), (f"/{k}",)) for i, k in enumerate(kernels))
    return Program("chain", buffers, (0,), (count,), steps, arena_bytes=8192)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("kernels")
    args = ["-O2", "-fPIC", "-Wall", "-Wextra", "-Werror", "-c", str(KERNELS), "-o", "kernels.o"]
    toolchain.run(toolchain.find(), args, folder)
    return [folder / "kernels.o"]


class Model:
    """A linked program, called as C would call it."""

    def __init__(
        self, program: Program, objects: list[Path], folder: Path, workspace: Workspace = ROOM
    ) -> None:
        path = folder / "libmodel.so"
        sources = generate(program, workspace=workspace)
        toolchain.link(objects, sources, program.weights, path, weight_bytes=program.weight_bytes)
        self.library = Library(path, "go")
        self.steps = len(program.steps)

    def run(self, context: Context, x: Array, out: DType = DType.f32, n: int = N) -> Array:
        y = aligned((n,), out.numpy)
        y[:] = 0
        context.run(addresses([x]), addresses([y]), 0, self.steps)
        return y


def sample() -> Array:
    x = aligned((N,), np.dtype("float32"))
    x[:] = np.arange(N) % 7
    return x


@pytest.mark.parametrize("threads", THREADS)
def test_launches(objects: list[Path], tmp_path: Path, threads: int) -> None:
    kernels = ("twice", "parallel_twice", "seven_tasks", "nested", "scratch")
    model = Model(chain(*kernels), objects, tmp_path)
    context = Context(model.library, threads)
    assert context.threads == threads
    x = sample()
    for _ in range(300):
        np.testing.assert_array_equal(model.run(context, x), 32 * x)
    context.close()


@pytest.mark.parametrize("threads", THREADS)
def test_barrier(objects: list[Path], tmp_path: Path, threads: int) -> None:
    model = Model(chain("barrier", "barrier"), objects, tmp_path)
    context = Context(model.library, threads)
    x = sample()
    for _ in range(100):
        assert set(model.run(context, x)) == {np.float32(x.sum() * N)}
    context.close()


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        ("failing", r"a kernel failed \(code 42\)"),
        ("broken_barrier", r"\(code 43\)"),
        ("barrier_of_many", "more tasks than threads"),
        ("greedy", "out of memory"),
        ("leaking", r"a kernel failed \(code -1\)"),
    ],
)
def test_errors_of_kernels_end_the_run(
    objects: list[Path], tmp_path: Path, kernel: str, words: str
) -> None:
    model = Model(chain(kernel), objects, tmp_path)
    context = Context(model.library, 3)
    for _ in range(20):
        with pytest.raises(GraphoptError, match=words):
            model.run(context, sample())
    context.close()


def test_workspaces_are_kept(objects: list[Path], tmp_path: Path) -> None:
    buffers = (buffer(Output(0), "y", DType.i64, 2),)
    program = Program("where", buffers, (), (0,), (KernelCall("where", (0,)),) * 3)
    model = Model(program, objects, tmp_path)
    context = Context(model.library, 1)
    runs = [model.run(context, sample(), DType.i64, 2).tolist() for _ in range(5)]
    assert runs[1:] == runs[:-1]
    assert all(address % 64 == 0 for address in runs[0])
    context.close()


def test_a_context_is_of_one_thread(objects: list[Path], tmp_path: Path) -> None:
    model = Model(chain("slow"), objects, tmp_path)
    context = Context(model.library, 1)
    errors: list[str] = []

    def run() -> None:
        try:
            model.run(context, sample())
        except GraphoptError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 1
    assert "running in another thread" in errors[0]
    context.close()


def test_contexts_run_side_by_side(objects: list[Path], tmp_path: Path) -> None:
    model = Model(chain("parallel_twice", "scratch", "nested"), objects, tmp_path)
    x = sample()
    wrong: list[int] = []

    def run(threads: int) -> None:
        context = Context(model.library, threads)
        for _ in range(100):
            if not np.array_equal(model.run(context, x), 8 * x):
                wrong.append(threads)
        context.close()

    workers = [threading.Thread(target=run, args=(n,)) for n in (1, 2, 3, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def _in_child(work: Callable[[], bool]) -> bool:
    """Whether `work` gives True in a forked child, within 20 s."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)  # ends a child that waits for ever
        os._exit(0 if work() else 1)
    return os.waitpid(child, 0)[1] == 0


def test_forked_children_have_threads_of_their_own(objects: list[Path], tmp_path: Path) -> None:
    """Whatever the threads were doing at the fork: at work, spinning, falling asleep, asleep."""
    model = Model(chain("parallel_twice", "barrier", "seven_tasks"), objects, tmp_path)
    context = Context(model.library, 3)
    x = sample()
    expected = model.run(context, x)

    def work() -> bool:
        same = all(np.array_equal(model.run(context, x), expected) for _ in range(20))
        same &= len(os.listdir("/proc/self/task")) == 3
        context.close()
        return same and len(os.listdir("/proc/self/task")) == 1

    for delay_us in range(0, 400, 5):
        assert np.array_equal(model.run(context, x), expected)
        until = time.perf_counter_ns() + delay_us * 1000
        while time.perf_counter_ns() < until:
            pass
        assert _in_child(work)
    context.close()


def test_bad_calls_give_codes(objects: list[Path], tmp_path: Path) -> None:
    model = Model(chain("twice", "twice"), objects, tmp_path)
    context = Context(model.library, 1)
    x, y = sample(), sample()
    good = addresses([x]), addresses([y])
    with pytest.raises(GraphoptError, match="64-byte aligned"):
        context.run(addresses([x[1:]]), good[1], 0, 2)
    with pytest.raises(GraphoptError, match="64-byte aligned"):
        context.run(good[0], addresses([y[1:]]), 0, 2)
    with pytest.raises(GraphoptError, match="NULL"):
        context.run(addresses([None]), good[1], 0, 2)
    for first, last in ((-1, 1), (1, 0), (0, 3)):
        with pytest.raises(GraphoptError, match="range of steps"):
            context.run(*good, first, last)
    context.close()


def test_idle_threads_sleep(objects: list[Path], tmp_path: Path) -> None:
    model = Model(chain("parallel_twice"), objects, tmp_path)
    context = Context(model.library, 4)
    model.run(context, sample())
    threading.Event().wait(0.05)
    before = _cpu_seconds()
    threading.Event().wait(0.3)
    assert _cpu_seconds() - before < 0.1
    context.close()


def _cpu_seconds() -> float:
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def weighted(dtype: DType = DType.f32) -> Program:
    """Y = x + w; the second output is w itself, the third x, the fourth y again."""
    w = np.arange(N, dtype=np.float32)
    buffers = (
        buffer(Input(0), "x", dtype),
        buffer(Weight(0), "w"),
        buffer(Output(0), "y"),
    )
    weights = (WeightData(0, w.nbytes, lambda: w),)
    size = -(-w.nbytes // 64) * 64
    call = KernelCall("add", (0, 1, 2), ("/add",))
    return Program("w/*?*/", buffers, (0,), (2, 1, 0, 2), (call,), (), weights, size)


def test_outputs_that_no_step_writes(objects: list[Path], tmp_path: Path) -> None:
    program = weighted()
    model = Model(program, objects, tmp_path)
    context = Context(model.library, 2)
    x = sample()
    ys = [aligned((N,), x.dtype) for _ in range(4)]
    context.run(addresses([x]), addresses(ys), 0, 1)
    w = np.arange(N, dtype=np.float32)
    for y, want in zip(ys, (x + w, w, x, x + w), strict=True):
        np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(context.buffer(1, (N,), x.dtype), w)
    with pytest.raises(GraphoptError, match="no buffer 0"):
        context.buffer(0, (N,), x.dtype)
    context.close()


def test_two_models_in_one_c_program(objects: list[Path], tmp_path: Path) -> None:
    programs = {"one": chain("twice"), "two": chain("seven_tasks", "twice")}
    for prefix, program in programs.items():
        sources = generate(program, prefix=prefix)
        toolchain.link(objects, sources, (), tmp_path / f"lib{prefix}.so")
        (tmp_path / f"{prefix}.h").write_text(sources["model.h"])
    (tmp_path / "main.c").write_text(
        """
        #include "one.h"
        #include "two.h"
        #include <stdlib.h>
        int main(void) {
          float *x = aligned_alloc(64, 4032), *y = aligned_alloc(64, 4032);
          const void *in[] = {x}; void *mid[] = {y}, *out[] = {x}; const void *in2[] = {y};
          for (int i = 0; i < 1000; i++) x[i] = 1;
          if (ONE_INPUT_0_BYTES != 4000 || TWO_STEPS != 2) return 1;
          one_ctx *one = one_new(2); two_ctx *two = two_new(3);
          if (one_run(one, in, mid) || two_run(two, in2, out)) return 2;
          one_free(one); two_free(two);
          return x[999] != 8;
        }"""
    )
    args = "-Wall -Wextra -Werror main.c -o main -L. -lone -ltwo -Wl,-rpath,."
    toolchain.run(toolchain.find(), args.split(), tmp_path)
    assert subprocess.run(["./main"], cwd=tmp_path, check=False).returncode == 0


def test_only_the_interface_is_exported(objects: list[Path], tmp_path: Path) -> None:
    model = Model(chain("twice"), objects, tmp_path)
    raw = ctypes.CDLL(str(tmp_path / "libmodel.so"))
    assert raw.go_run
    for name in ("__tvm_ffi_twice", "go_weights_", "__TVMBackendParallelLaunch"):
        with pytest.raises(AttributeError):
            getattr(raw, name)
    model.library.close()


def test_runs_allocate_nothing(objects: list[Path], tmp_path: Path) -> None:
    # The scratch kernel's tasks need memory on every thread; so do those that pthread starts.
    program, room = chain("scratch", "seven_tasks", "scratch"), Workspace(4032, 4032)
    sources = generate(program, workspace=room)
    toolchain.link(objects, sources, (), tmp_path / "libmodel.so")
    (tmp_path / "model.h").write_text(sources["model.h"])
    assert "#define GO_WORKSPACE_BYTES 4032 " in sources["model.h"]
    args = [
        "-std=c11",
        "-O1",
        "-I.",
        str(ALLOCATIONS),
        "-o",
        "count",
        "-L.",
        "-lmodel",
        "-Wl,-rpath,.",
    ]
    toolchain.run(toolchain.find(), args, tmp_path)
    for threads in THREADS:
        command = ["./count", str(threads)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        made, later = map(int, done.stdout.split())
        assert made >= 2 + threads  # the context, the arena, the workspaces
        assert later == 0
