# pyright: basic
# TVM ships no types.
"""Scheduling steps that the families share."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from tvm import s_tir

from graphopt.ir.core import Value
from graphopt.ir.types import DType
from graphopt.targets.machine import Machine

SHORT = 8  # elements of a loop that LLVM vectorizes together with the one around it
PARALLEL_OPS = 60_000  # scalar operations worth a parallel call (about 1 us)


def extent(sch: Any, loop: Any) -> int:
    """The number of turns of a loop."""
    return int(sch.get(loop).extent)


def parallel_worth(work: int) -> bool:
    """Whether `work` scalar operations (a load, an add, ...) gain from several threads."""
    return work >= PARALLEL_OPS


def vectorize_inner(sch: Any, loop: Any, lanes: int) -> None:
    """Vectorize a loop by whole registers; leave it to LLVM where its length doesn't divide."""
    size = extent(sch, loop)
    for width in (lanes, lanes // 2, lanes // 4):
        if width >= 4 and size % width == 0:
            inner = loop if size == width else sch.split(loop, [None, width])[1]
            sch.vectorize(inner)
            return


def simple_stage(
    sch: Any, block: Any, machine: Machine, *, work: int, vector: bool = True, depth: int = 0
) -> None:
    """Run a stage in the order of its result: outer loops parallel, the last one vectorized.

    `depth` is how many loops it has around it.
    """
    loops, lanes = list(sch.get_loops(block))[depth:], lanes_of(sch, block, machine)
    last = loops[-1]
    if len(loops) == 1:
        size = extent(sch, last)
        chunk = next((c for c in (4096, 1024, 256, 64, 16) if size % c == 0 and size > c), None)
        if chunk is None:
            return vectorize_inner(sch, last, lanes) if vector else None
        outer, last = sch.split(last, [None, chunk])
        loops = [outer, last]
    short = len(loops) > 3 and extent(sch, last) < SHORT and not vector
    outer = loops[:-2] if short else loops[:-1]
    fused = sch.fuse(*outer) if len(outer) > 1 else outer[0]
    if parallel_worth(work) and extent(sch, fused) > 1:
        sch.parallel(fused)
    if vector:
        vectorize_inner(sch, last, lanes)
    return None


def lanes_of(sch: Any, block: Any, machine: Machine) -> int:
    """Elements of what a stage writes in a vector register; of float16 twice those of float32."""
    (written,) = sch.get(block).writes
    return machine.lanes * (2 if str(written.source.dtype) == "float16" else 1)


def padding_stage(
    sch: Any, block: Any, machine: Machine, *, vector: bool = True, depth: int = 0
) -> None:
    """Run a padded copy at the root of a kernel, or in `depth` loops, over all cores."""
    loops = sch.get_loops(block)[depth:]
    work = math.prod(extent(sch, loop) for loop in loops)
    lanes = lanes_of(sch, block, machine)
    if vector and len(loops) > 3 and extent(sch, loops[-1]) == lanes:
        sch.vectorize(loops[-1])  # rows apart from columns: no division for every vector
        rows = sch.fuse(*loops[:-2])
        if parallel_worth(4 * work) and extent(sch, rows) > 1:
            sch.parallel(rows)
        return
    simple_stage(sch, block, machine, work=4 * work, vector=vector, depth=depth)


def schedule(func: Any) -> Any:
    """A schedule of one function."""
    return s_tir.Schedule(func)


def tile_registers(columns: int, blocks: int, per: int, machine: Machine) -> int:
    """Vector registers that a tile of `columns` x `blocks` products takes, `per` registers a block.

    Accumulators, the weights of a step, and (where several blocks share them) broadcasts: one a
    column where all columns pass for a block, few where all blocks pass for a column (see `cells`).
    LLVM keeps the order, so a tile that leaves no room for them spills. AVX-512 multiplies by a
    broadcast from memory, so a single block needs none.
    """
    embedded = machine.lanes == 16 and blocks * per == 1
    broadcasts = 0 if embedded else machine.broadcasts or columns
    return columns * blocks * per + blocks * per + broadcasts


def by_blocks(machine: Machine) -> Machine:
    """The machine as kernels see it whose tiles' columns all pass for a block, then for the next.

    Those of integers and of phases: only tiles of float32 were measured the other way round.
    """
    return dataclasses.replace(machine, broadcasts=0)


def cells(columns: int, blocks: int, machine: Machine) -> list[tuple[int, int]]:
    """The (block, column) of a tile's products in the order that they are multiplied in."""
    if machine.broadcasts:
        return [(b, c) for c in range(columns) for b in range(blocks)]
    return [(b, c) for b in range(blocks) for c in range(columns)]


def tile_loads(columns: int, vectors: int, machine: Machine, bits: int = 32) -> float:
    """Loads of a step of a tile's sum: a broadcast a column, and `vectors` of weights.

    Where lanes are multiplied by (see `quads`), as many steps share a column's load as a vector
    has lanes of `bits`, and weights come in pairs.
    """
    if machine.arch == "aarch64":
        return columns * bits / 128 + vectors / 2
    return columns + vectors


def vectors(block: int, machine: Machine, bits: int = 32) -> int:
    """Vector registers that a block of channels of numbers of some bits takes."""
    return max(1, block * bits // (32 * machine.lanes))


def bits_of(value: Value) -> int:
    """Bits of the numbers that a kernel sums for a value: those of float16, else of float32."""
    return 16 if value.tensor.dtype is DType.f16 else 32


def divisors(n: int, limit: int) -> list[int]:
    """The divisors of n up to a limit, descending."""
    return [d for d in range(min(n, limit), 0, -1) if n % d == 0]


def reduction_stage(
    sch: Any, block: Any, machine: Machine, *, work: int, vector: bool = True
) -> None:
    """Run a reduction: kept axes outside, the last one in registers where it fills them.

    Up to four vectors of results are kept in a local accumulator while the reduced axes run.
    """
    every, info = sch.get_loops(block), sch.get(block)
    kinds = [int(it.iter_type) for it in info.iter_vars]
    kept = [loop for loop, kind in zip(every, kinds, strict=True) if kind != 2]
    reduced = [loop for loop, kind in zip(every, kinds, strict=True) if kind == 2]
    size = extent(sch, kept[-1])
    lanes = machine.lanes
    widths = [w for w in (4 * lanes, 2 * lanes, lanes, lanes // 2) if w >= 4 and size % w == 0]
    width = max(widths, default=0)
    if not (vector and width):
        outer = sch.fuse(*kept) if len(kept) > 1 else kept[0]
        if parallel_worth(work) and extent(sch, outer) > 1:
            sch.parallel(outer)
        return
    outer, inner = sch.split(kept[-1], [None, width])
    sch.reorder(*kept[:-1], outer, *reduced, inner)
    fused = sch.fuse(*kept[:-1], outer) if len(kept) > 1 else outer
    if parallel_worth(work) and extent(sch, fused) > 1:
        sch.parallel(fused)
    cached = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(cached, fused, preserve_unit_loops=True)
    _vectors(sch, sch.get_loops(cached)[-1], machine)
    _vectors(sch, inner, machine)
    init = sch.decompose_reduction(block, reduced[0])
    for loop in sch.get_loops(init)[1:-1]:
        sch.unroll(loop)
    sch.vectorize(sch.get_loops(init)[-1])


def _vectors(sch: Any, loop: Any, machine: Machine) -> None:
    """Split a loop into unrolled vectors."""
    size = extent(sch, loop)
    if size > machine.lanes:
        outer, loop = sch.split(loop, [None, machine.lanes])
        sch.unroll(outer)
    sch.vectorize(loop)
