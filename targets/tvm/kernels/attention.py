# pyright: basic
# TVM ships no types.
"""Attention: softmax(q k^T * scale + mask) v, a band of rows at a time.

The scores of a band, [rows, S], stay in the cache between the two products. Columns past S are
-inf, so that whole vectors can be taken; the sum divides the result, which is shorter than the
weights. A streaming form (arXiv 2205.14135) would also cut S, for long sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tvm import te, tirx

from graphopt.ir.core import Op
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import bfloat, expr, loops
from graphopt.targets.tvm.kernels import attention_pairs, matmul
from graphopt.targets.tvm.region import Region, broadcast, shape_of, static

Expr = Any
BAND = 32  # rows of a band, at most
STAGES = (  # of a band
    "scores", "top_part", "top", "e", "total_part", "total", "p", "pairs", "anchor",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """The two products, [T, D] x [D, S] and [T, S] x [S, E] by batch, their tiles, and the band."""

    first: matmul.Shape
    second: matmul.Shape
    tiles: tuple[matmul.Knobs, matmul.Knobs]
    band: int

    @property
    def rows(self) -> int:
        """Rows that are computed: whole bands."""
        return -(-self.first.m // self.band) * self.band

    @property
    def panels(self) -> int:
        """Vectors of a row of scores, computed ones that aren't needed among them."""
        return matmul.padded_panels(self.first, self.tiles[0])


def plan(op: Op, machine: Machine) -> Plan:
    """The tiles that are the best by rule for each product, in bands that waste few rows."""
    q, k, v = (shape_of(op.operand(i)) for i in range(3))
    batch = shape_of(op.result)[:-2]
    first = matmul.Shape(batch, q[-2], k[-2], q[-1], False, True, False)
    second = matmul.Shape(batch, q[-2], v[-1], k[-2], False, False, False)
    choices = [matmul.choose(s, machine) for s in (first, second)]

    def rank(band: int, which: int) -> tuple[int, matmul.Knobs]:
        fitting = [(i, k) for i, k in enumerate(choices[which]) if band % k.rows == 0]
        return min(fitting, key=lambda found: found[0], default=(len(choices[which]), ONE_ROW))

    def cost(band: int) -> float:
        waste = -(-q[-2] // band) * band / q[-2]
        return waste * (1 + 0.02 * (rank(band, 0)[0] + rank(band, 1)[0])) + 0.5 / band

    band = min(range(1, BAND + 1), key=cost)
    return Plan(first, second, (rank(band, 0)[1], rank(band, 1)[1]), band)


def compute(region: Region, op: Op, p: Plan) -> None:
    """Bind the op's result to the stages of a band, after `kt`, and `vp` if v isn't in panels."""
    lanes, paired = p.tiles[0].lanes, attention_pairs.fits(region, op, region.machine)
    scores = (attention_pairs.scores if paired else products)(region, op, p)
    e, total = softmax(region, p, lambda at: score(region, op, p, scores, at))
    if op.kind.rounded:
        e = region.compute(
            (*p.first.batch, p.rows, p.panels, lanes),
            lambda *at: bfloat.rounded(e(*at) / total(*at[:-2])), "p",
        )  # fmt: skip
    y = (attention_pairs.weighted if paired else weighted)(
        region, op, p,
        lambda batch, m, s: e(*batch, m, tirx.floordiv(s, lanes), tirx.floormod(s, lanes)),
    )  # fmt: skip

    def read(at: Any) -> Expr:
        *row, column = at
        value = y(*row, tirx.floordiv(column, lanes), tirx.floormod(column, lanes))
        return value if op.kind.rounded else value / total(*row)

    region.bind(op.result, read)


def products(region: Region, op: Op, p: Plan) -> Any:
    """The stage of q k^T."""
    q, k = op.operand(0), op.operand(1)

    def query(batch: list[Expr], m: Expr, d: Expr) -> Expr:
        return region.at(q, [*_lead(shape_of(q), batch, p), m, d])

    kt = matmul.panels(region, "kt", p.first, p.tiles[0], shape_of(k)[:-2],
                       lambda batch, d, n: region.at(k, [*batch, n, d]))  # fmt: skip
    return matmul.product(region, "scores", p.first, p.tiles[0], query, kt, p.rows)


def weighted(region: Region, op: Op, p: Plan, weights: Any) -> Any:
    """The stage of the second product, by weights(batch, m, s)."""
    s = replace(p.second, m=p.rows) if op.kind.rounded else p.second
    v = values(region, op, p)
    return matmul.product(region, "anchor", s, p.tiles[1], weights, v, p.rows)


def score(region: Region, op: Op, p: Plan, scores: Any, at: list[Expr]) -> Expr:
    """The scaled, masked score at [batch.., row, panel, lane]."""
    kind: Any = op.kind
    *batch, m, panel, lane = at
    found = scores(*at) * tirx.const(kind.scale, "float32")
    column = panel * p.tiles[0].lanes + lane
    mask = op.operands[3]
    if mask is not None:
        last = (tirx.const(d - 1, "int32") for d in (p.first.m, p.first.n))
        inside = [tirx.min(i, end) for i, end in zip((m, column), last, strict=True)]
        whole = (*p.first.batch, p.first.m, p.first.n)
        found = found + region.at(mask, broadcast([*batch, *inside], shape_of(mask), whole))
    if p.panels * p.tiles[0].lanes == p.first.n:
        return found
    return tirx.Select(column < p.first.n, found, tirx.const(float("-inf"), "float32"))


def softmax(region: Region, p: Plan, element: Callable[[list[Expr]], Expr]) -> tuple[Any, Any]:
    """The stages `e`, the exponentials less their row's largest, and `total`, their sums."""
    lanes, outs = p.tiles[0].lanes, (*p.first.batch, p.rows)

    def across(name: str, reducer: Any, pair: Any, of: Callable[[list[Expr]], Expr]) -> Any:
        panel = region.reduce_axis(p.panels, f"{name}_panel")
        part = region.compute(
            (*outs, lanes), lambda *at: reducer(of([*at[:-1], panel.var, at[-1]]), axis=[panel]),
            f"{name}_part",
        )  # fmt: skip
        return region.compute(outs, lambda *at: _tree(pair, [part(*at, i) for i in range(lanes)]),
                              name)  # fmt: skip

    top = across("top", te.max, tirx.max, element)
    whole = (*outs, p.panels, lanes)
    e = region.compute(whole, lambda *at: expr.exp(None, element(list(at)) - top(*at[:-2])), "e")
    return e, across("total", te.sum, lambda a, b: a + b, lambda at: e(*at))


def _tree(pair: Callable[[Expr, Expr], Expr], items: list[Expr]) -> Expr:
    """The items combined two by two: short chains, which run side by side."""
    if len(items) == 1:
        return items[0]
    half = len(items) // 2
    return pair(_tree(pair, items[:half]), _tree(pair, items[half:]))


def values(region: Region, op: Op, p: Plan) -> Any:
    """A reader v(batch, panel, s, lane): of v itself if its rows are whole panels, else of `vp`."""
    v, k = op.operand(2), p.tiles[1]
    if p.second.n % k.lanes or static(v).layout or v not in region.tensors:
        return matmul.panels(region, "vp", p.second, k, shape_of(v)[:-2],
                             lambda batch, s, e: region.at(v, [*batch, s, e]))  # fmt: skip
    return lambda batch, panel, s, lane: region.at(
        v, [*_lead(shape_of(v), batch, p), s, panel * k.lanes + lane]
    )


def _lead(own: tuple[int, ...], batch: list[Expr], p: Plan) -> list[Expr]:
    return broadcast(batch, own[:-2], p.first.batch) if len(own) > 2 else []


def apply(region: Region, p: Plan) -> Any:
    """Schedule: packing first, then bands in parallel, each with all of its stages."""
    (output,) = region.graph.outputs
    stage = region.store(output, "out0")
    sch = loops.schedule(region.primfunc([stage]))
    for name in ("kt", "vp"):
        if name in region.stages:
            loops.padding_stage(sch, sch.get_sblock(name), region.machine, vector=name == "vp")
    kept = {n: sch.cache_write(sch.get_sblock(n), 0, "local") for n in ("scores", "anchor")}
    *batch, row, column = sch.get_loops(sch.get_sblock("out0"))
    band, _ = sch.split(row, [None, p.band])
    outer = sch.fuse(*batch, band)
    tiles: dict[str, list[Any]] = {}
    for name in (n for n in reversed(STAGES) if n in region.stages):
        block = sch.get_sblock(name)
        sch.compute_at(kept.get(name, block), outer, preserve_unit_loops=True)
        if name in kept:
            tiles[name] = _tile(sch, block, kept[name], p.tiles[name == "anchor"])
    if loops.parallel_worth(p.first.macs + p.second.macs) and loops.extent(sch, outer) > 1:
        sch.parallel(outer)
    for name, (mi, pi, lane) in tiles.items():
        matmul.registers(sch, sch.get_sblock(name), outer=len(sch.get_loops(kept[name])) - 3)
        sch.unroll(mi)
        sch.unroll(pi)
        sch.vectorize(lane)
    for name in ("top_part", "total_part"):
        _lanes(sch, sch.get_sblock(name))
    for name in ("e", "p", "pairs"):
        if name in region.stages:
            sch.vectorize(sch.get_loops(sch.get_sblock(name))[-1])
    loops.vectorize_inner(sch, column, region.machine.lanes)
    return sch.mod["main"]


def _tile(sch: Any, y: Any, kept: Any, k: matmul.Knobs) -> list[Any]:
    """Tile the copy of a product in its band, and compute the product in its tiles."""
    _, *batch, m, p, lane = sch.get_loops(kept)
    mo, mi = sch.split(m, [None, k.rows])
    po, pi = sch.split(p, [None, k.panels])
    sch.reorder(*batch, mo, po, mi, pi, lane)
    sch.compute_at(y, po, preserve_unit_loops=True)
    return [mi, pi, lane]


def _lanes(sch: Any, block: Any) -> None:
    """A reduction over panels, lane by lane."""
    lane, panel = sch.get_loops(block)[-2:]
    sch.reorder(panel, lane)
    sch.vectorize(lane)
    init = sch.decompose_reduction(block, panel)
    sch.vectorize(sch.get_loops(init)[-1])


ONE_ROW = matmul.Knobs(1, 1, 1)


def build(region: Region) -> Any:
    """The scheduled function of an attention and its epilogue."""
    from graphopt.targets.tvm.kernels import tiled_attention

    op = region.anchor
    assert op is not None
    by_tiles = tiled_attention.plan(op, region.machine)
    if by_tiles:
        return tiled_attention.build(region, op, by_tiles)
    p = plan(op, region.machine)
    paired = attention_pairs.fits(region, op, region.machine)
    compute(region, op, p)
    return attention_pairs.contract(apply(region, p)) if paired else apply(region, p)
