# pyright: basic
# Arrays of many types.
"""Kernels for other machines than this: a bundle of many regions, run once, compared with numpy."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import UnsupportedError
from graphopt.ir.layout import pack, physical_shape
from graphopt.ir.parser import parse
from graphopt.targets import bundle, machine
from graphopt.targets.base import Runner
from graphopt.targets.driver import toolchain
from graphopt.targets.emulator import qemu
from graphopt.targets.emulator.artifact import Emulated
from graphopt.targets.emulator.instructions import proved, tools
from graphopt.targets.program import (
    Buffer,
    Input,
    Kernel,
    KernelCall,
    Output,
    Program,
    Workspace,
)
from graphopt.targets.tvm.compile import CompileFailure, compile_kernels
from tests.kernelcheck import compare, random_arrays


@dataclass
class Region:
    """A region's text, its arguments (None: random), how far results may be from numpy's."""

    text: str
    arrays: list[np.ndarray] | None = None
    tolerance: float = 2e-6


def program(regions: dict[str, Region]) -> Program:
    """Each region's kernel, once, from inputs of its own to outputs of its own."""
    buffers: list[Buffer] = []
    ins: list[int] = []
    outs: list[int] = []
    steps: list[KernelCall] = []
    kernels: list[Kernel] = []
    for name, region in regions.items():
        graph = parse(region.text).main
        symbol, args = f"k_{name}", []
        for kind, values, ends in ((Input, graph.args, ins), (Output, graph.outputs, outs)):
            for v in values:
                shape = physical_shape(v.tensor.static or (), v.tensor.layout) or (1,)
                place = kind(len(ends))
                ends.append(len(buffers))
                args.append(len(buffers))
                label = f"{name}_{kind.__name__}{len(ends)}"
                buffers.append(Buffer(label, v.tensor.dtype, shape, place))
        steps.append(KernelCall(symbol, tuple(args)))
        kernels.append(Kernel(symbol, f"key_{name}", region.text, name))
    return Program("kernels", tuple(buffers), tuple(ins), tuple(outs), tuple(steps), tuple(kernels))


def check_all(
    regions: dict[str, Region],
    m: machine.Machine,
    compiler: toolchain.Toolchain,
    runner: Runner,
    folder: Path,
    threads: int = 1,
) -> None:
    """Compile the regions for a machine, run them, compare what they give with numpy."""
    p = program(regions)
    compiled = compile_kernels(p.kernels, m, jobs=2, cache_dir=folder / "objects")
    failed = {k: c.reason for k, c in compiled.items() if isinstance(c, CompileFailure)}
    assert not failed
    objects = [c for c in compiled.values() if isinstance(c, Path)]
    place = folder / "bundle"
    meta = bundle.Meta(target="arm", arch=platform.machine() if m.portable else m.arch)
    bundle.write(p, objects, place, model=b"", meta=meta, toolchain=compiler, static=True,
                 workspace=Workspace.beside(objects))  # fmt: skip
    if m.arch == "aarch64" and tools():
        assert proved([place / bundle.ARCHIVE], m, compiler)
    given = {name: r.arrays or random_arrays(parse(r.text).main) for name, r in regions.items()}
    feed: dict[str, np.ndarray] = {}
    inputs = iter(p.inputs)
    for name, region in regions.items():
        for a, v in zip(given[name], parse(region.text).main.args, strict=True):
            buffer = p.buffers[next(inputs)]
            feed[buffer.name] = np.ascontiguousarray(pack(a, v.tensor.layout)).reshape(buffer.shape)
    (found,) = runner.run(place, [feed], threads)
    outputs = iter(p.outputs)
    for name, region in regions.items():
        graph = parse(region.text).main
        got = [found[p.buffers[next(outputs)].name] for _ in graph.outputs]
        try:
            compare(graph, given[name], got, region.tolerance)
        except AssertionError as why:
            raise AssertionError(f"{name}: {why}") from why


def emulated(m: machine.Machine) -> tuple[toolchain.Toolchain, Emulated]:
    """A compiler for a machine, and what runs its programs; skips where there is none."""
    try:
        compiler = toolchain.find(m.triple)
        return compiler, Emulated(compiler, qemu.find(m))
    except UnsupportedError as why:
        pytest.skip(str(why))
