# pyright: basic
# TVM ships no types.
"""From a region's graph to a TIR function, and from functions to an object file."""

from __future__ import annotations

import importlib
import operator
import os
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import tvm

from graphopt.errors import UnsupportedError
from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Graph
from graphopt.targets.cache import write
from graphopt.targets.machine import Machine
from graphopt.targets.program import NOTE, Workspace
from graphopt.targets.tvm import intrinsics, joint, packs, parted, portable, stack
from graphopt.targets.tvm.legal import ALONE, family, is_anchor
from graphopt.targets.tvm.region import Region

PACKAGE = "graphopt.targets.tvm.kernels"


def graph_family(graph: Graph) -> str:
    """The family of a region: that of its anchor, or elementwise; a chain of several is one.

    Raises:
        UnsupportedError: the region has several anchors.
    """
    if any(isinstance(op.kind, Opaque) for op in graph):
        return "imported"
    graph, _ = parted.taken(graph)
    anchors = [op for op in graph if is_anchor(op) or op.kind.name in ALONE]
    if len(anchors) > 1 and (found := joint.family(list(graph))):
        return found
    if len(anchors) > 1:
        raise UnsupportedError(f"a region with {len(anchors)} anchors")
    return family(anchors[0]) if anchors else "elementwise"


def primfunc(graph: Graph, machine: Machine, symbol: str, knobs: str = "") -> Any:
    """The scheduled tvm.tirx.PrimFunc of a region.

    Its arguments are the graph's, then the returned values, in their physical shapes. `knobs` are
    one of `choices`; empty: the best by rule.

    Raises:
        UnsupportedError: no kernel computes the region.
    """
    graph, larger = parted.taken(graph)
    kernel = importlib.import_module(f"{PACKAGE}.{graph_family(graph)}")
    intrinsics.start()
    func = packs.spread(intrinsics.attach(kernel.build(Region(graph, machine, knobs)), machine))
    func = parted.spaced(func, larger) if larger else func
    return func.with_attr("global_symbol", symbol).with_attr("tirx.noalias", True)


def choices(graph: Graph, machine: Machine) -> list[str]:
    """The knobs that a region's template may be given, the best by rule first."""
    graph, _ = parted.taken(graph)
    region = Region(graph, machine)
    intrinsics.start()
    importlib.import_module(f"{PACKAGE}.{graph_family(graph)}").build(region)
    return region.choices


def target(machine: Machine) -> Any:
    """TVM's description of a machine."""
    fields: dict[str, Any] = {"kind": "llvm", "mtriple": machine.triple, "mcpu": machine.mcpu}
    if machine.mattr:
        fields["mattr"] = list(machine.mattr)
    return tvm.target.Target(fields)


def compile_module(funcs: Mapping[str, Any], machine: Machine) -> Any:
    """A loadable tvm module of functions by symbol.

    Assertions on the arguments are off: callers pass contiguous 64-byte aligned buffers.
    """
    lowering = stack.BY_LANES if machine.arch == "aarch64" else stack.NAME
    with tvm.transform.PassContext(config={"tirx.disable_assert": True}):
        return tvm.tirx.build(tvm.IRModule(dict(funcs)), target(machine), lowering)


def compile_object(funcs: Mapping[str, Any], machine: Machine, path: Path) -> None:
    """Write an object file of functions, atomically; the same input gives the same bytes.

    Of a portable machine it is a C file. What memory the functions ask for is written before,
    beside it, with the file's hash.

    Raises:
        OSError: the files can't be written.
    """
    if machine.portable:
        texts = [portable.source(func, symbol) for symbol, func in funcs.items()]
        made = "\n".join(text for text, _ in texts).encode()
        asked = [workspace for _, workspace in texts]
    else:
        stack.noted.clear()
        made = _object(compile_module(funcs, machine))
        asked = stack.noted
    write(path.with_suffix(NOTE), reduce(operator.or_, asked, Workspace()).note(made).encode())
    write(path, made)


def _object(module: Any) -> bytes:
    """A module's object file, by a file in memory: on a full disk LLVM would end the process."""
    handle = os.memfd_create("graphopt")
    try:
        module.write_to_file(f"/proc/self/fd/{handle}", "o")
        with open(handle, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(handle)
