# pyright: basic
# TVM ships no types.
"""The loops of a direct convolution: copies, a register tile's sums, its epilogue.

The stages are those that `conv` (or another kernel of its form) makes: `pad` or `rows`, copies of
x; `pack`, of the weights; `anchor`, the sums; `out0`, the epilogue. Of several images whose copies
would leave the second cache, each is copied just before it is read.
"""

from __future__ import annotations

import math
from typing import Any

from graphopt.ir.types import DType
from graphopt.targets.tvm import ahead, loops, packs
from graphopt.targets.tvm.kernels import conv
from graphopt.targets.tvm.region import Region, static


def apply(region: Region, s: conv.Shape, k: conv.Knobs) -> Any:
    """Schedule the stages pad, pack, anchor and out0."""
    (output,) = region.graph.outputs
    packed = packs.fits(region, output) and s.out[-1] % k.columns == 0
    stage = packs.stages(region, output) if packed else region.store(output, "out0")
    sch = loops.schedule(region.primfunc([stage]))
    stored = conv.channel_block(region.anchor.operand(0)) if region.anchor else 1
    vector = {"pad": k.inner > 1 and stored % k.inner == 0, "rows": True}
    copies = [sch.get_sblock(name) for name in ("pad", "rows") if name in region.stages]
    if "pack" in region.stages:
        loops.padding_stage(sch, sch.get_sblock("pack"), region.machine, vector=False)
    dense = not static(output).layout
    image = sch.get_loops(sch.get_sblock("out0"))[0] if by_image(sch, copies, s, region) else None
    outer = tile_loops(sch, sch.get_sblock("out0"), s, k, dense, alone=image is not None)
    parallel = loops.parallel_worth(s.macs)
    w = region.anchor.operand(1) if region.anchor else None
    floats = w is not None and w.tensor.dtype not in {DType.i8, DType.u8}
    depth = 2 if image is None else 3
    sums = register_tile(sch, outer, depth, parallel=parallel, dense=dense, packed=packed,
                         columns_first=floats and region.machine.broadcasts > 0)  # fmt: skip
    for copy in copies:
        if image is not None:
            sch.compute_at(copy, image, preserve_unit_loops=True)
        loops.padding_stage(sch, copy, region.machine, vector=vector[sch.get(copy).name_hint],
                            depth=int(image is not None))  # fmt: skip
    groups = -(-s.outs // (k.block * k.blocks))
    passes = loops.extent(sch, outer[0]) // ((1 if image is not None else s.n) * groups)
    few = passes * -(-s.out[-1] // k.columns) < ahead.PASSES_WORTH
    held = region.parameter(w) if w else None
    if few or k.input_first or k.inner == 1 or held is None:
        return sch.mod["main"]
    ahead.mark(sch, outer[0], passes, sums[-2])
    return ahead.insert(sch.mod["main"], held, k.blocks, region.machine)


def by_image(sch: Any, copies: list[Any], s: conv.Shape, region: Region) -> bool:
    """Whether each image is copied just before it is read: all together leave the second cache."""
    size = sum(4 * math.prod(loops.extent(sch, at) for at in sch.get_loops(c)) for c in copies)
    return s.n > 1 and size > region.machine.l2_bytes // 2


def tile_loops(
    sch: Any, block: Any, s: conv.Shape, k: conv.Knobs, dense: bool, *, alone: bool = False
) -> tuple[Any, list[Any]]:
    """Order the store's loops; give the fused parallel loop, and the ones within it.

    `alone`: the loop over images stays outside.
    """
    n, c, *space, last = sch.get_loops(block)
    images = [] if alone else [n]
    if dense:
        space, last = [*space, last], None
        c, last = sch.split(c, [None, k.block])
    column = space.pop()
    co, ci = sch.split(c, [None, k.blocks])
    wo, wi = sch.split(column, [None, k.columns])
    if k.input_first:
        sch.reorder(n, *space, wo, co, ci, wi, last)
        return sch.fuse(*images, *space, wo), [co, ci, wi, last]
    sch.reorder(n, co, *space, wo, ci, wi, last)
    return sch.fuse(*images, co, *space), [wo, ci, wi, last]


def register_tile(
    sch: Any,
    outer: tuple[Any, list[Any]],
    depth: int,
    *,
    parallel: bool,
    dense: bool,
    packed: bool,
    columns_first: bool,
) -> Any:
    """Compute the anchor's tile in registers in the store's tile loop; give the sum's loops.

    `depth` is how many loops there are with the tile loop.
    """
    fused, (inner, ci, wi, last) = outer
    if packed:
        packs.tile(sch, inner, wi, outer=depth)
    y = sch.get_sblock("anchor")
    sch.compute_at(y, inner, preserve_unit_loops=True)
    if parallel and loops.extent(sch, fused) > 1:
        sch.parallel(fused)
    loops_y = sch.get_loops(y)[depth:]
    count = sum(1 for it in sch.get(y).iter_vars if int(it.iter_type) == 2)
    space, reduce = loops_y[:-count], loops_y[-count:]
    if columns_first:
        space = [space[0], space[-2], *space[1:-2], space[-1]]
    sch.reorder(*reduce, *space)
    sch.vectorize(space[-1])
    for loop in space[:-1]:
        sch.unroll(loop)
    sch.decompose_reduction(y, reduce[0])
    init = sch.get_loops(sch.get_sblock("anchor_init"))[depth:]
    sch.vectorize(init[-1])
    for loop in init[:-1]:
        sch.unroll(loop)
    sch.set_scope(sch.get_sblock("anchor_update"), 0, "local")
    if not dense:
        sch.vectorize(last)
    for loop in (ci, wi):
        sch.unroll(loop)
    return reduce
