# pyright: basic
# TVM ships no types.
"""Register tiles on the stack, and how much memory the others take.

TVM's lowering gives a local buffer of 1 KiB or more a workspace from the runtime, though sixteen
512-bit accumulators are that much: every tile then costs a call for memory, a call that clears it,
and stores that nobody reads, since LLVM can't know that the memory isn't seen elsewhere. Buffers of
scope `local` that are small enough are marked here so that they stay on the stack, where LLVM turns
them into registers. What is left asks the runtime for memory; `noted` has the sum of it, so that
the driver can have it ready.
"""

from __future__ import annotations

import math
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.tirx import compilation_pipeline as pipelines

from graphopt.targets.program import ALIGN, Workspace
from graphopt.targets.tvm import quads
from graphopt.targets.tvm.walk import inside

NAME = "graphopt"
BY_LANES = "graphopt_by_lanes"  # for machines that multiply by a lane of a vector
LARGEST = 16384  # bytes of a buffer on the stack; a thread of the driver has 1 MiB
OF_VECTORS = 1 << 16  # of one that is asked for as vectors
KEEP = "disable_lower_builtin"  # TVM's name of the mark
ASK = "tirx.TVMBackendAllocWorkspace"
noted: list[Workspace] = []  # of each function compiled, in order


def _kept(stmt: Any) -> Any:
    """A lowered statement with its small local buffers marked."""
    if type(stmt).__name__ == "AllocBuffer" and _fits(stmt.buffer):
        return tirx.AllocBuffer(stmt.buffer, {KEEP: tirx.IntImm("bool", 1)})
    return inside(stmt, _kept)


def _fits(buffer: Any) -> bool:
    sizes = [int(d) for d in buffer.shape if isinstance(d, int | tirx.IntImm)]
    if buffer.scope() != "local" or len(sizes) != len(buffer.shape):
        return False
    of = tvm.DataType(buffer.dtype)
    if of.lanes > 1:
        return math.prod(sizes) * of.lanes * of.bits // 8 <= OF_VECTORS
    return math.prod(sizes) * 8 <= LARGEST  # no element has more than 8 bytes


@tirx.transform.prim_func_pass(opt_level=0)
def keep_on_stack(func: Any, module: Any, context: Any) -> Any:
    """Mark the small local buffers of a function."""
    return func.with_body(_kept(func.body))


@tirx.transform.prim_func_pass(opt_level=0)
def note_workspace(func: Any, module: Any, context: Any) -> Any:
    """Note what a lowered function asks the runtime for."""
    noted.append(workspace(func.body))
    return func


def workspace(body: Any) -> Workspace:
    """What a lowered body asks for, each place of its code once: loops give back what they take.

    Tasks of a parallel loop run on all threads, the caller's among them.
    """
    loops: list[Any] = []
    _visit(body, tirx.For, lambda node: loops.append(node) if _parallel(node) else None)
    return Workspace(_asked([body]), _asked(loops))


def _parallel(node: Any) -> bool:
    return node.kind == tirx.ForKind.PARALLEL


def _asked(bodies: list[Any]) -> int:
    """Bytes, in lines as the driver gives them."""
    sizes: dict[int, int] = {}

    def ask(node: Any) -> None:
        if getattr(node.op, "name", "") == ASK:
            sizes[hash(node)] = -(-int(node.args[2]) // ALIGN) * ALIGN

    for body in bodies:
        _visit(body, tvm.ir.Call, ask)
    return sum(sizes.values())


def _visit(body: Any, kind: Any, fn: Any) -> None:
    def each(node: Any) -> None:
        fn(node)

    tvm_ffi.structural_walk(body, (kind, each))


def pipeline(*more: Any) -> Any:
    """TVM's default lowering, but for the marks, `more` passes, and notes."""
    default: Any = pipelines.get_tir_pipeline("s_tir")
    lower, host, device = default
    passes = lambda: [keep_on_stack, *more, host(), note_workspace]  # noqa: E731
    return lower, lambda: tvm.transform.Sequential(passes()), device


pipelines.register_tir_pipeline(NAME, pipeline)
pipelines.register_tir_pipeline(BY_LANES, lambda: pipeline(quads.by_quads))
