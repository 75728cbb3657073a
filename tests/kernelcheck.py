# pyright: basic
# TVM ships no types.
"""Build a region's kernel in this process, run it, and compare with the numpy meaning of its ops."""

from __future__ import annotations

import os

os.environ.setdefault("TVM_NUM_THREADS", "2")

import numpy as np
import tvm

import graphopt.ops
from graphopt.ir.core import Graph
from graphopt.ir.layout import pack, physical_shape, unpack
from graphopt.ir.parser import parse
from graphopt.targets import machine
from graphopt.targets.tvm import build

assert graphopt.ops
MACHINES = ("avx512bf16", "avx512vnni", "avx512", "avxvnni", "avx2", "x86-64-v2")
HOST = machine.host_features()


def runnable() -> list[str]:
    """The machines whose code this computer can run."""
    return [m for m in MACHINES if machine.load(m).runs_on(HOST)]


def block(name: str) -> int:
    """The channel block of a machine."""
    return max(machine.load(name).lanes, 8)


def evaluate(graph: Graph, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The logical results by numpy."""
    env = dict(zip(graph.args, arrays, strict=True))
    for op in graph:
        if op.kind.name == "return":
            break
        results = op.kind.evaluate(*(v and env[v] for v in op.operands))
        env.update(zip(op.results, results, strict=True))
    return [env[v] for v in graph.outputs]


def random_arrays(graph: Graph, seed: int = 0) -> list[np.ndarray]:
    """An argument of each type: normal floats, small integers, bools."""
    rng = np.random.default_rng(seed)
    found = []
    for a in graph.args:
        shape, dtype = a.tensor.static, a.tensor.dtype
        if dtype.is_float:
            found.append(rng.standard_normal(shape).astype(dtype.numpy))
        elif dtype.is_int:
            low = 0 if dtype.name[0] == "u" else -8
            found.append(rng.integers(low, 9, shape).astype(dtype.numpy))
        else:
            found.append(rng.integers(0, 2, shape).astype(np.bool_))
    return found


def run(graph: Graph, name: str, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The *physical* results of the kernel; what the kernel leaves unwritten stays 7."""
    m = machine.load(name)
    lib = build.compile_module({"k": build.primfunc(graph, m, "k")}, m)
    given = [_aligned(pack(a, v.tensor.layout)) for a, v in zip(arrays, graph.args, strict=True)]
    outs = []
    for v in graph.outputs:
        shape = physical_shape(v.tensor.static or (), v.tensor.layout)
        outs.append(_aligned(np.full(shape or (1,), 7, v.tensor.dtype.numpy)))
    lib["k"](*given, *outs)
    return [o.numpy() for o in outs]


def _aligned(a: np.ndarray):
    return tvm.runtime.tensor(np.ascontiguousarray(a).reshape(a.shape or (1,)))


def check(
    text: str, name: str = "avx512", *, tolerance: float = 2e-6, arrays: list[np.ndarray] | None = None
) -> None:
    """Compare a kernel with numpy; integers exactly, floats relative to the largest result.

    Sums are taken in another order (and with FMA) than numpy's, so a result's error is some
    rounding errors of the largest partial sum: `tolerance` times the largest magnitude. Padded
    lanes must be zero.
    """
    graph = parse(text).main
    arrays = arrays or random_arrays(graph)
    compare(graph, arrays, run(graph, name, arrays), tolerance)


def compare(
    graph: Graph, arrays: list[np.ndarray], found: list[np.ndarray], tolerance: float
) -> None:
    """Compare physical results with numpy's, as `check`."""
    wanted = evaluate(graph, arrays)
    for value, want, got in zip(graph.outputs, wanted, found, strict=True):
        logical = unpack(got, value.tensor.layout, value.tensor.static or ())
        stored = pack(logical, value.tensor.layout)
        np.testing.assert_array_equal(stored.reshape(got.shape), got, "padded lanes aren't zero")
        assert want.dtype == logical.dtype
        if not value.tensor.dtype.is_float:
            np.testing.assert_array_equal(logical, want)
            continue
        np.testing.assert_array_equal(np.isnan(logical), np.isnan(want))
        finite = np.isfinite(want)
        np.testing.assert_array_equal(logical[~finite], want[~finite])
        scale = np.abs(want[finite]).max(initial=1e-30)
        worst = np.abs(logical[finite].astype(np.float64) - want[finite]).max(initial=0.0)
        assert worst <= tolerance * scale, f"off by {worst / scale:.1e} of the largest"
