# pyright: basic
# TVM ships no types.
"""Matrix products: y[batch, m, n] = sum over k of a[batch, m, k] * b[batch, k, n].

b is wanted in panels of `lanes` columns, [n/lanes, k, lanes]: weights come packed so (tag Ba16b of
a [K, N] matrix, Ab16a of a transposed one), anything else is packed here first, which costs 1/M of
the product. A tile of `rows` x `panels` vectors stays in registers over the whole sum. Rows past
the end repeat the last one and are not stored.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from graphopt.ir.core import Op
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import ahead, bfloat, expr, loops
from graphopt.targets.tvm.region import Region, broadcast, shape_of, static

Ints = tuple[int, ...]
FEW = 4  # times fewer elements of b than of a: then some rows of a stay while all of b passes
STEP = 16  # turns of a sum between fetches ahead
PASSES_WORTH = 7  # of a panel of bfloat16, from which on it is converted once for all of them
TILES = 16  # that tuning may choose from


@dataclass(frozen=True)
class Shape:
    """batch: leading sizes of the result; m, n, k; whether a, b are transposed or vectors."""

    batch: Ints
    m: int
    n: int
    k: int
    trans_a: bool
    trans_b: bool
    shared: bool

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return math.prod(self.batch) * self.m * self.n * self.k


@dataclass(frozen=True)
class Knobs:
    """lanes: columns of a panel; rows, panels: the register tile; steps: rows of a loop turn."""

    lanes: int
    rows: int
    panels: int


def shape(op: Op) -> Shape:
    """Read the sizes off the op."""
    kind: Any = op.kind
    a, b = shape_of(op.operand(0)), shape_of(op.operand(1))
    ta, tb = getattr(kind, "trans_a", False), getattr(kind, "trans_b", False)
    left, right = a if len(a) > 1 else (1, *a), b if len(b) > 1 else (*b, 1)
    m, k = (left[-1], left[-2]) if ta else (left[-2], left[-1])
    n = right[-2] if tb else right[-1]
    result = shape_of(op.result)
    batch = result[: len(result) - (len(a) > 1) - (len(b) > 1)]
    shared = math.prod(right[:-2]) == 1
    if shared and len(a) > 1 and batch and not ta and math.prod(left[:-2]) == math.prod(batch):
        return Shape((), math.prod(batch) * m, n, k, ta, tb, True)
    return Shape(batch, m, n, k, ta, tb, shared)


def choose(s: Shape, machine: Machine, bits: int = 32) -> list[Knobs]:
    """The schedules for a shape and numbers of some bits, the best by rule first."""
    lanes = max(machine.lanes, 8)
    panels = -(-s.n // lanes)
    per = loops.vectors(lanes, machine, bits)

    def cost(rows: int, count: int) -> float:
        vectors = rows * count * per
        useful = s.m / (-(-s.m // rows) * rows) * panels / (-(-panels // count) * count)
        loads = loops.tile_loads(rows, count * per, machine, bits) / vectors
        return (max(1.0, 8 / vectors) + 0.4 * loads) / useful

    whole = s.n % lanes == 0  # then tiles must be too, so that no store needs a condition a lane
    fitting = [
        (cost(r, p), -p, r)
        for p in (loops.divisors(panels, 8) if whole else range(1, min(panels, 8) + 1))
        for r in range(1, min(s.m, 16) + 1)
        if loops.tile_registers(r, p, per, machine) <= machine.registers or r * p == 1
    ]
    return [Knobs(lanes, r, -p) for _, p, r in sorted(fitting)[:TILES]]


def packed_tag(s: Shape, k: Knobs, rank: int) -> str:
    """The layout in which a constant matrix b needs no packing."""
    if rank != 2:
        return ""
    return f"Ab{k.lanes}a" if s.trans_b else f"Ba{k.lanes}b"


def compute(region: Region, op: Op, s: Shape, k: Knobs) -> None:
    """Bind the op's result to the stage `anchor`."""
    b = columns(region, op, s, k, padded_panels(s, k))
    y = product(region, "anchor", s, k, left(region, op, s), b)
    region.bind(op.result, lambda index: finish(region, op, s, k, y, index))


def padded_panels(s: Shape, k: Knobs) -> int:
    """Panels that are computed: whole tiles of them."""
    return -(-s.n // (k.lanes * k.panels)) * k.panels


def product(
    region: Region, name: str, s: Shape, k: Knobs, a: Any, b: Any, rows: int | None = None,
    times: Any = operator.mul,
) -> Any:  # fmt: skip
    """A stage [batch.., rows, panels, lanes]: the product of a(batch, m, k), b(batch, p, k, l).

    `rows` is at least m, a multiple of a tile's; None: the least such. `times` multiplies.
    """
    rows = rows or -(-s.m // k.rows) * k.rows
    kk = region.reduce_axis(s.k, f"{name}_k")

    def body(*at: Any) -> Any:
        *batch, m, panel, lane = at
        row = m if rows == s.m else tirx.min(m, s.m - 1)
        return te.sum(times(a(batch, row, kk.var), b(batch, panel, kk.var, lane)), axis=[kk])

    return region.compute((*s.batch, rows, padded_panels(s, k), k.lanes), body, name)


def finish(region: Region, op: Op, s: Shape, k: Knobs, y: Any, index: Any) -> Any:
    """The result at a logical index: alpha * y + beta * c for gemm."""
    kind: Any = op.kind
    vector_a, vector_b = (len(shape_of(op.operand(i))) == 1 for i in (0, 1))
    rest = list(index)
    column = tirx.const(0, "int32") if vector_b else rest.pop()
    row = tirx.const(0, "int32") if vector_a else rest.pop()
    if not s.batch and rest:
        row = _merged(rest, row, shape_of(op.result)[:-1] if not vector_b else shape_of(op.result))
        rest = []
    at = [*rest, row, tirx.floordiv(column, k.lanes), tirx.floormod(column, k.lanes)]
    value = y(*map(region.analyzer.simplify, at))
    if getattr(kind, "alpha", 1.0) != 1.0:
        value = value * expr.like(value, kind.alpha)
    c = op.operands[2] if op.kind.name == "gemm" else None
    if c is None:
        return value
    addend = region.at(c, broadcast(index, shape_of(c), shape_of(op.result)))
    return value + (addend if kind.beta == 1.0 else addend * expr.like(addend, kind.beta))


def _merged(batch: list[Any], row: Any, sizes: Ints) -> Any:
    """The row of the product whose batch axes were folded into its rows."""
    flat: Any = tirx.const(0, "int32")
    for i, d in zip([*batch, row], sizes, strict=True):
        flat = flat * d + i
    return flat


def left(region: Region, op: Op, s: Shape) -> Any:
    """A reader a(batch, m, k)."""
    value = op.operand(0)
    own = shape_of(value)

    def read(batch: list[Any], m: Any, k: Any) -> Any:
        at = position(region, own, s, batch, m)
        return region.at(value, [*at[:-1], k, at[-1]] if s.trans_a and at else [*at, k])

    return read


def position(region: Region, own: Ints, s: Shape, batch: list[Any], m: Any) -> list[Any]:
    """Where row m of a batch is in the operand a of shape `own`, but for the index along k."""
    if len(own) == 1:
        return []
    if s.batch or len(own) == 2:
        return [*(broadcast(batch, own[:-2], s.batch) if len(own) > 2 else []), m]
    sizes, at = own[:-1], []
    for i, d in enumerate(sizes):  # batches are folded into the rows
        below = math.prod(sizes[i + 1 :])
        at.append(region.analyzer.simplify(tirx.floormod(tirx.floordiv(m, below), d)))
    return at


def columns(region: Region, op: Op, s: Shape, k: Knobs, cols: int) -> Any:
    """A reader b(batch, panel, k, lane): the packed argument, or a stage `pack`."""
    value = op.operand(1)
    own = shape_of(value)
    tag = packed_tag(s, k, len(own))
    whole = -(-s.n // k.lanes)
    if tag and static(value).layout == tag and value in region.tensors:
        tensor = region.tensors[value]
        clip = (lambda p: p) if cols == whole else (lambda p: tirx.min(p, whole - 1))
        if isinstance(tensor, bfloat.Readable) and s.m >= PASSES_WORTH * k.rows:
            converted = lambda p, kk, lane: tensor(clip(p), kk, lane)  # noqa: E731
            wide = region.compute((cols, s.k, k.lanes), converted, "wide")
            return lambda batch, panel, kk, lane: wide(panel, kk, lane)
        return lambda batch, panel, kk, lane: tensor(clip(panel), kk, lane)
    lead = own[:-2] if s.batch else ()  # without batch axes of the result, all are of size 1

    def inside(batch: list[Any], kk: Any, n: Any) -> Any:
        outer = batch if lead else [tirx.const(0, "int32")] * (len(own) - 2)
        index = [kk] if len(own) == 1 else [*outer, n, kk] if s.trans_b else [*outer, kk, n]
        return region.at(value, index)

    return panels(region, "pack", s, k, lead, inside)


def panels(region: Region, name: str, s: Shape, k: Knobs, lead: Ints, element: Any) -> Any:
    """A reader of the stage that packs element(batch, k, n) into panels."""
    cols = padded_panels(s, k)

    def body(*at: Any) -> Any:
        *batch, panel, kk, lane = at
        n = panel * k.lanes + lane
        if cols * k.lanes == s.n:
            return element(batch, kk, n)
        inside = element(batch, kk, n)
        return tirx.if_then_else(n < s.n, inside, expr.like(inside, 0))

    tensor = region.compute((*lead, cols, s.k, k.lanes), body, name)

    def read(batch: list[Any], panel: Any, kk: Any, lane: Any) -> Any:
        return tensor(*(broadcast(batch, lead, s.batch) if lead else []), panel, kk, lane)

    return read


def apply(region: Region, s: Shape, k: Knobs) -> Any:
    """Schedule the stages pack, anchor, and out0.

    Where the columns fill vectors, out0 is computed from the register tile; else the product is
    written whole, since a store of part of a vector would be scalar.
    """
    (output,) = region.graph.outputs
    stage = region.store(output, "out0")
    sch = loops.schedule(region.primfunc([stage]))
    parallel = loops.parallel_worth(s.macs)
    if "pack" in region.stages:
        loops.padding_stage(sch, sch.get_sblock("pack"), region.machine, vector=not s.trans_b)
    result = shape_of(output)
    leading = math.prod(result[len(s.batch) : -2])  # rows folded from several axes stay apart
    tiled = s.n % k.lanes == 0 and bool(result) and result[-1] == s.n and leading == 1
    tiled = tiled and not static(output).layout
    wide = sch.get_sblock("wide") if "wide" in region.stages else None
    if wide is not None and (not tiled or s.batch or not by_panels(s, k)):
        loops.padding_stage(sch, wide, region.machine)
        wide = None
    if tiled:
        step = fused_tiles(sch, s, k, parallel=parallel, wide=wide)
        w = region.anchor.operand(1) if region.anchor else None
        held = region.parameter(w) if w else None
        if step is None or s.batch or "pack" in region.stages or held is None:
            return sch.mod["main"]
        ahead.mark(sch, step[0], 1, step[1])
        return ahead.insert(sch.mod["main"], held, k.panels, region.machine)
    product_tiles(sch, s, k, parallel=parallel)
    work = math.prod(result) * 4
    loops.simple_stage(sch, sch.get_sblock("out0"), region.machine, work=work)
    return sch.mod["main"]


def by_panels(s: Shape, k: Knobs) -> bool:
    """Whether all rows pass for some panels of b, not the other way round: b has more elements."""
    return FEW * s.n >= s.m or s.m <= k.rows


def fused_tiles(
    sch: Any, s: Shape, k: Knobs, *, parallel: bool, wide: Any
) -> tuple[Any, Any] | None:
    """Compute the product tile by tile in registers, and store each tile through the epilogue.

    `wide` is the stage that converts the panels of a tile, if any. Gives the loop over groups
    of panels, and one of the sum, where panels are fetched ahead.
    """
    *batch, column = sch.get_loops(sch.get_sblock("out0"))
    row = batch.pop() if len(batch) > len(s.batch) else sch.add_unit_loop(column)
    po, pi, lane = sch.split(column, [None, k.panels, k.lanes])
    mo, mi = sch.split(row, [None, k.rows])
    order = [po, mo] if by_panels(s, k) else [mo, po]
    sch.reorder(*batch, *order, mi, pi, lane)
    y = sch.get_sblock("anchor")
    fused = sch.fuse(*batch, order[0]) if batch else order[0]
    sch.compute_at(y, order[1], preserve_unit_loops=True)
    if parallel and loops.extent(sch, fused) > 1:
        sch.parallel(fused)
    if wide is not None:
        sch.compute_at(wide, fused, preserve_unit_loops=True)
        sch.vectorize(sch.get_loops(wide)[-1])
    passes = -(-s.m // k.rows)
    ahead_of = order[0] is po and passes >= ahead.PASSES_WORTH and s.k % STEP == 0 and s.k > STEP
    if ahead_of:
        sch.split(sch.get_loops(y)[-1], [None, STEP])
    sums = registers(sch, y, outer=2, sums=1 + ahead_of)
    sch.set_scope(sch.get_sblock("anchor_update"), 0, "local")
    sch.vectorize(lane)
    for loop in (mi, pi):
        sch.unroll(loop)
    return (fused, sums[0]) if ahead_of else None


def registers(sch: Any, y: Any, outer: int, sums: int = 1) -> list[Any]:
    """Put the sum's loops outside an unrolled, vectorized tile that starts below `outer` loops."""
    every = sch.get_loops(y)
    reduce, space = every[-sums:], every[outer:-sums]
    sch.reorder(*reduce, *space)
    sch.vectorize(space[-1])
    for loop in space[:-1]:
        sch.unroll(loop)
    init = sch.get_loops(sch.decompose_reduction(y, reduce[0]))[outer:]
    sch.vectorize(init[-1])
    for loop in init[:-1]:
        sch.unroll(loop)
    return reduce


def product_tiles(sch: Any, s: Shape, k: Knobs, *, parallel: bool, name: str = "anchor") -> None:
    """Compute the product tile by tile in registers, then write the tile."""
    y = sch.get_sblock(name)
    kept = sch.cache_write(y, 0, "local")
    *batch, m, p, lane = sch.get_loops(kept)
    mo, mi = sch.split(m, [None, k.rows])
    po, pi = sch.split(p, [None, k.panels])
    order = [po, mo] if by_panels(s, k) else [mo, po]
    sch.reorder(*batch, *order, mi, pi, lane)
    sch.compute_at(y, order[1], preserve_unit_loops=True)
    fused = sch.fuse(*batch, *order)
    if parallel and loops.extent(sch, fused) > 1:
        sch.parallel(fused)
    registers(sch, y, outer=1)
    for loop in (mi, pi):
        sch.unroll(loop)
    sch.vectorize(lane)


def build(region: Region) -> Any:
    """The scheduled function of a product and its epilogue."""
    from graphopt.targets.tvm.kernels import pairs, tiled, tiled_product

    op = region.anchor
    assert op is not None
    if pairs.fits(op, region.machine):
        return pairs.product(region, op)
    s, by_tiles = shape(op), tiled_product.halves(op, region.machine)
    if by_tiles:
        return tiled.build(region, op, by_tiles, tiled_product.Product, s.macs)
    knobs = region.pick(choose(s, region.machine, loops.bits_of(op.result)))
    compute(region, op, s, knobs)
    return apply(region, s, knobs)
