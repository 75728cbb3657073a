# pyright: basic
# TVM ships no types.
"""Steps of a sum from one load: for machines that multiply by a lane of a vector (NEON).

    for k: acc[i] += broadcast(x[f(k)]) * w[..k..]          x is read with stride 1
 -> for k/8: q = x[f(8k) .. f(8k) + 7]; acc[i] += broadcast(q[0]) * w[..8k..]; ... q[7] ...

A broadcast of a lane is part of the multiply-add, so that a register tile loads an eighth as often,
and LLVM's scheduler has fewer scalars to keep in registers, which it would spill.

For the same reason LLVM is not told how often the loop around a tile's sum runs, nor that over the
rows of a window: it would write out all turns, load their operands far ahead, and spill sums.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx

from graphopt.targets.tvm import bases, lines, rowcopy
from graphopt.targets.tvm.steps import LEAST, MOST, Copy, OtherError, inlined, scalars, stores_of
from graphopt.targets.tvm.walk import inside

WIDTHS = (8, 4, LEAST)  # steps from one load
REGISTERS = 32  # of NEON


def rewritten(stmt: Any) -> Any:
    """A lowered statement, with the innermost loops rewritten that can be."""
    kind = type(stmt).__name__
    if kind == "SeqStmt":
        return bases.sequence([rewritten(s) for s in stmt.seq])
    if kind != "For":
        return inside(stmt, rewritten)
    found = rowcopy.in_parts(stmt) or lines.by_words(stmt)
    for width in WIDTHS:
        if found is None and width == WIDTHS[-1]:
            found = lines.by_line(stmt)
        found = found or _together(stmt, width)
    if found is not None:
        return found
    around = _sums(stmt.body) or _window(stmt) or lines.written_out(stmt.body) is not None
    extent = bases.hidden(stmt.extent) if around else stmt.extent
    body, before = rewritten(stmt.body), list[Any]()
    if bases.is_kind(stmt.body, "For") and int(stmt.kind) == 0:
        before, body = bases.lifted(body)
    made = tirx.For(stmt.loop_var, stmt.min, extent, stmt.kind, body, stmt.thread_binding,
                    stmt.annotations)  # fmt: skip
    return bases.sequence([*before, made])


def _sums(body: Any) -> bool:
    """Whether a loop's body is an innermost loop, of a tile's sum."""
    if not bases.is_kind(body, "For") or int(body.kind) != 0:
        return False
    try:
        stores, _ = stores_of(body.body)
    except OtherError:
        return False
    return len(stores) > 1 and all(scalars(s.value) for s in stores)


def _window(loop: Any) -> bool:
    """Whether a loop is over the rows of a window, channel by channel.

    Of rows that are written out LLVM keeps all weights in registers, and spills.
    """
    if int(loop.kind) != 0 or not bases.is_kind(loop.extent, "IntImm"):
        return False
    try:
        stores, _ = stores_of(loop.body)
    except OtherError:
        return False
    local = all(str(s.buffer.scope()) == "local" for s in stores)
    return len(stores) > 2 and local and all(_product(s.value) for s in stores)


def _product(value: Any) -> bool:
    """Whether a value is a sum and a product of vectors."""
    summed = bases.is_kind(value, "Add") and bases.is_kind(value.b, "Mul")
    return summed and not scalars(value)


def _together(loop: Any, width: int) -> Any:
    """An innermost loop of sums, `width` steps at a time; None where that isn't possible."""
    try:
        return _by_quads(loop, width)
    except OtherError:
        return None


def _by_quads(loop: Any, width: int) -> Any:
    turns = int(loop.extent) if bases.is_kind(loop.extent, "IntImm") else 0
    if int(loop.kind) != 0 or turns % width or int(loop.min) != 0:
        return None
    stores, values = stores_of(loop.body)
    turn = loop.loop_var if turns > width else tirx.const(0, "int32")
    step = lambda i: inlined(values, {loop.loop_var: turn * width + i})  # noqa: E731
    plain = [Copy(step(i), {}) for i in range(width)]
    rows: dict[Any, list[Any]] = {}
    for load in [found for s in stores for found in scalars(s.value)]:
        if width > MOST[str(load.source.dtype)]:
            return None
        each = [copy(load) for copy in plain]
        if _beside(each):
            rows.setdefault(bases.key(each[0]), each)
    if not rows or any(bases.key(tirx.BufferLoad(s.buffer, s.indices)) in rows for s in stores):
        return None
    half = tirx.Var("half", "int64")
    binds, quads, split = _quads(list(rows.values()), stores, width, half)
    outside, inside, parts = bases.far_vectors(stores, plain)
    if split:
        outside = [bases.distance(half, width // 2), *outside]
    copies = [Copy(step(i), quads, parts) for i in range(width)]
    body: Any = tirx.SeqStmt([
        *inside,
        *(one for i, c in enumerate(copies) for one in (
            *binds.get(i, ()),
            *(tirx.BufferStore(s.buffer, c(s.value), [c(i) for i in s.indices]) for s in stores))),
    ])  # fmt: skip
    if turns != width:
        body = tirx.For(loop.loop_var, loop.min, tirx.const(turns // width, "int32"), loop.kind,
                        body, loop.thread_binding, loop.annotations)  # fmt: skip
    return bases.sequence([*outside, body])


def _quads(
    rows: list[list[Any]], stores: list[Any], width: int, half: Any
) -> tuple[dict[int, list[Any]], dict[Any, tuple[Any, int]], bool]:
    """One load for each row of neighbours, or two where so many wouldn't fit into the registers.

    Returns:
        The loads, by the step that they come before; where each number is in them; whether `half`,
        how far the second of two is from the first, is used.
    """
    vectors = [bases.registers(s.value.ty.dtype) for s in stores]
    quad = max(1, width * bases.nbytes(rows[0][0]) // bases.VECTOR)
    over = sum(vectors) + quad * len(rows) + max(vectors) - REGISTERS
    binds, quads = dict[int, list[Any]](), dict[Any, tuple[Any, int]]()
    for i, each in enumerate(rows):
        parts = 2 if quad > 1 and len(rows) - i <= over else 1
        size = width // parts
        for begin in range(0, width, size):
            first = each[0].indices[0]
            at = bases.ramp(first, half, size) if begin else tirx.Ramp(first, 1, size)
            wide = tirx.BufferLoad(each[0].source, [at])
            var = tirx.Var("quad", wide.ty)
            binds.setdefault(begin, []).append(tirx.Bind(var, wide))
            quads |= {bases.key(each[begin + j]): (var, j) for j in range(size)}
    return binds, quads, over > 0 and quad > 1


def _beside(loads: list[Any]) -> bool:
    """Whether loads are of neighbouring elements."""
    simplify = tvm.sym.Analyzer().simplify
    first = loads[0].indices[0]
    apart = (simplify(one.indices[0] - first) for one in loads)
    return all(bases.is_kind(d, "IntImm") and int(d) == i for i, d in enumerate(apart))


@tirx.transform.prim_func_pass(opt_level=0)
def by_quads(func: Any, module: Any, context: Any) -> Any:
    """Rewrite the innermost sums of a function."""
    return func.with_body(rewritten(func.body))
