# pyright: basic
# TVM ships no types.
"""Steps of a sum from one load: for machines that multiply by a lane of a vector (NEON).

    for k: acc[i] += broadcast(x[f(k)]) * w[..k..]          x is read with stride 1
 -> for k/8: q = x[f(8k) .. f(8k) + 7]; acc[i] += broadcast(q[0]) * w[..8k..]; ... q[7] ...

A broadcast of a lane is part of the multiply-add, so that a register tile loads an eighth as often,
and LLVM's scheduler has fewer scalars to keep in registers, which it would spill.

For the same reason LLVM is not told how often the loop around a tile's sum runs: it would write out
all turns, load their operands far ahead, and spill sums.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx

from graphopt.targets.tvm import bases
from graphopt.targets.tvm.walk import inside

WIDTHS = (8, 4, 2)  # steps from one load
MOST = {"float32": 8, "int32": 4, "int16": 4, "float16": 8}  # of each type that is loaded so
REGISTERS = 32  # of NEON
MOST_TURNS = 7  # of a loop that is written out


class _Other(Exception):  # noqa: N818
    """An expression or statement that isn't known here: its loop stays as it is."""


class _Copy:
    """Copies of expressions with variables replaced and, once they are made, with quads."""

    def __init__(
        self,
        values: dict[Any, Any],
        quads: dict[Any, tuple[Any, int]],
        parts: dict[Any, tuple[Any, int]] | None = None,
    ) -> None:
        self.values, self.quads, self.parts = values, quads, parts or {}

    def __call__(self, e: Any) -> Any:
        kind = type(e).__name__
        if kind in ("IntImm", "FloatImm", "StringImm"):
            return e
        if kind == "Var":
            return self.values.get(e, e)
        if kind in bases.PAIRS:
            return bases.PAIRS[kind](self(e.a), self(e.b))
        if kind == "Broadcast":
            return self.broadcast(e.value, int(e.lanes))
        if kind == "Cast":
            return tirx.Cast(e.ty, self(e.value))
        if kind == "Ramp":
            return tirx.Ramp(self(e.base), self(e.stride), e.lanes)
        if kind == "TensorLoad":
            return self.part(tirx.BufferLoad(e.source, [self(i) for i in e.indices]))
        if kind == "Call":
            return tvm.ir.Call(e.op, [self(a) for a in e.args], ret_ty=e.ty)
        raise _Other

    def part(self, load: Any) -> Any:
        """A vector that is loaded, or the part of a longer one that has it."""
        found = self.parts.get(bases.key(load)) if self.parts else None
        if found is None:
            return load
        whole, first = found
        lanes = int(load.indices[0].lanes)
        return tirx.Shuffle([whole], [first + i for i in range(lanes)])

    def broadcast(self, value: Any, lanes: int) -> Any:
        """A number in all lanes: of the quad that has it, by a shuffle.

        Of an element that is taken out LLVM would make a load of its own.
        """
        if bases.is_kind(value, "Cast"):
            dtype = f"{value.ty.dtype}x{lanes}"
            return tirx.Cast(dtype, self.broadcast(value.value, lanes))
        made = self(value)
        found = self.quads.get(bases.key(made)) if bases.is_kind(made, "TensorLoad") else None
        if found is None:
            return tirx.Broadcast(made, lanes)
        quad, lane = found
        parts = -(-lanes // WIDTHS[-1])  # a shuffle has at least as many lanes to choose from
        return tirx.Shuffle([quad] * parts, [lane] * lanes)


def rewritten(stmt: Any) -> Any:
    """A lowered statement, with the innermost loops rewritten that can be."""
    kind = type(stmt).__name__
    if kind == "SeqStmt":
        return bases.sequence([rewritten(s) for s in stmt.seq])
    if kind != "For":
        return inside(stmt, rewritten)
    for width in WIDTHS:
        found = (_by_line(stmt) if width == WIDTHS[-1] else None) or _together(stmt, width)
        if found is not None:
            return found
    extent = bases.hidden(stmt.extent) if _sums(stmt.body) else stmt.extent
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
        stores, _ = _stores(body.body)
    except _Other:
        return False
    return len(stores) > 1 and all(_scalars(s.value) for s in stores)


def _together(loop: Any, width: int) -> Any:
    """An innermost loop of sums, `width` steps at a time; None where that isn't possible."""
    try:
        return _by_quads(loop, width)
    except _Other:
        return None


def _by_quads(loop: Any, width: int) -> Any:
    turns = int(loop.extent) if bases.is_kind(loop.extent, "IntImm") else 0
    if int(loop.kind) != 0 or turns % width or int(loop.min) != 0:
        return None
    stores, values = _stores(loop.body)
    turn = loop.loop_var if turns > width else tirx.const(0, "int32")
    step = lambda i: {**values, loop.loop_var: turn * width + i}  # noqa: E731
    plain = [_Copy(_inlined(step(i)), {}) for i in range(width)]
    rows: dict[Any, list[Any]] = {}
    for load in [found for s in stores for found in _scalars(s.value)]:
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
    copies = [_Copy(_inlined(step(i)), quads, parts) for i in range(width)]
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


def _by_line(loop: Any) -> Any:
    """A short innermost loop written out, all whose numbers are of one line: by quads of that.

    So is a row of a window over a dense image: of 17 neighbours that eight columns of stride 2
    and three taps see, five loads, not one a number.
    """
    turns = int(loop.extent) if bases.is_kind(loop.extent, "IntImm") else 0
    if int(loop.kind) != 0 or not 1 < turns <= MOST_TURNS or int(loop.min) != 0:
        return None
    try:
        stores, values = _stores(loop.body)
        copies = [_Copy(_inlined({**values, loop.loop_var: tirx.const(i, "int32")}), {})
                  for i in range(turns)]  # fmt: skip
        loads = [copy(load) for s in stores for load in _scalars(s.value) for copy in copies]
        found = None if bases.stored(loads, stores) else _line(loads)
        if found is None:
            return None
        binds, quads = found
        for copy in copies:
            copy.quads = quads
        sums = [tirx.BufferStore(s.buffer, copy(s.value), [copy(i) for i in s.indices])
                for copy in copies for s in stores]  # fmt: skip
    except _Other:
        return None
    return bases.sequence([*binds, *sums])


def _line(loads: list[Any]) -> tuple[list[Any], dict[Any, tuple[Any, int]]] | None:
    """Quads that hold all of some float32 numbers and nothing before or after; None: too few."""
    simplify = tvm.sym.Analyzer().simplify
    if not loads or any(str(one.source.dtype) != "float32" for one in loads):
        return None
    source, first = loads[0].source, loads[0].indices[0]
    apart = [simplify(one.indices[0] - first) for one in loads]
    alike = all(one.source.same_as(source) for one in loads)
    if not alike or not all(bases.is_kind(d, "IntImm") for d in apart):
        return None
    places = {int(d): one for d, one in zip(apart, loads, strict=True)}
    low, high = min(places), max(places)
    starts = [min(at, high - 3) for at in range(low, high + 1, 4)]
    if high - low < 3 or 2 * len(starts) > len(places):
        return None
    binds, quads = list[Any](), dict[Any, tuple[Any, int]]()
    for start in starts:
        wide = tirx.BufferLoad(source, [tirx.Ramp(first + start, 1, 4)])
        var = tirx.Var("quad", wide.ty)
        binds.append(tirx.Bind(var, wide))
        quads |= {bases.key(one): (var, at - start)
                  for at, one in places.items() if start <= at < start + 4}  # fmt: skip
    return binds, quads


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


def _stores(body: Any) -> tuple[list[Any], dict[Any, Any]]:
    """The stores of a loop's body, and the values bound in it."""
    stores: list[Any] = []
    values: dict[Any, Any] = {}
    for s in body.seq if bases.is_kind(body, "SeqStmt") else [body]:
        if bases.is_kind(s, "Bind"):
            values[s.var] = s.value
        elif bases.is_kind(s, "BufferStore"):
            stores.append(s)
        else:
            raise _Other
    return stores, values


def _inlined(values: dict[Any, Any]) -> dict[Any, Any]:
    """Bound values in terms of what is bound outside; later ones use earlier ones."""
    *bound, loop_var = values  # the loop's own variable comes last
    done = {loop_var: values[loop_var]}
    for v in bound:
        done[v] = _Copy(done, {})(values[v])
    return done


def _scalars(e: Any) -> list[Any]:
    """The scalar loads that are broadcast in an expression."""
    kind = type(e).__name__
    if kind == "Broadcast":
        load = e.value.value if bases.is_kind(e.value, "Cast") else e.value
        known = bases.is_kind(load, "TensorLoad") and str(load.source.dtype) in MOST
        return [load] if known and len(load.indices) == 1 else []
    if kind in bases.PAIRS:
        return [*_scalars(e.a), *_scalars(e.b)]
    if kind == "Call":
        return [found for a in e.args for found in _scalars(a)]
    return []


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
