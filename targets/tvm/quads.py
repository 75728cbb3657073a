# pyright: basic
# TVM ships no types.
"""Four steps of a sum from one load: for machines that multiply by a lane of a vector (NEON).

    for k: acc[i] += broadcast(x[f(k)]) * w[..k..]          x is read with stride 1
 -> for k/4: q = x[f(4k) .. f(4k) + 3]; acc[i] += broadcast(q[0]) * w[..4k..]; ... q[3] ...

A broadcast of a lane is part of the multiply-add, so that a register tile loads a quarter as often,
and LLVM's scheduler has a quarter of the scalars to keep in registers, which it would spill.

For the same reason LLVM is not told how often the loop around a tile's sum runs: it would write out
all turns, load their operands far ahead, and spill sums.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx

from graphopt.targets.tvm import vecmath
from graphopt.targets.tvm.walk import inside

WIDTHS = (8, 4, 2)  # steps from one load
MOST = {"float32": 4, "int32": 4, "int16": 4, "float16": 8}  # of each type that is loaded so
_PAIRS = {n: getattr(tirx, n) for n in
          ("Add", "Sub", "Mul", "FloorDiv", "FloorMod", "Min", "Max")}  # fmt: skip


class _Other(Exception):  # noqa: N818
    """An expression or statement that isn't known here: its loop stays as it is."""


def _is(node: Any, kind: str) -> bool:
    return type(node).__name__ == kind


class _Copy:
    """Copies of expressions with variables replaced and, once they are made, with quads."""

    def __init__(self, values: dict[Any, Any], quads: dict[Any, tuple[Any, int]]) -> None:
        self.values, self.quads = values, quads

    def __call__(self, e: Any) -> Any:
        kind = type(e).__name__
        if kind in ("IntImm", "FloatImm", "StringImm"):
            return e
        if kind == "Var":
            return self.values.get(e, e)
        if kind in _PAIRS:
            return _PAIRS[kind](self(e.a), self(e.b))
        if kind == "Broadcast":
            return self.broadcast(e.value, int(e.lanes))
        if kind == "Cast":
            return tirx.Cast(e.ty, self(e.value))
        if kind == "Ramp":
            return tirx.Ramp(self(e.base), self(e.stride), e.lanes)
        if kind == "TensorLoad":
            return tirx.BufferLoad(e.source, [self(i) for i in e.indices])
        if kind == "Call":
            return tvm.ir.Call(e.op, [self(a) for a in e.args], ret_ty=e.ty)
        raise _Other

    def broadcast(self, value: Any, lanes: int) -> Any:
        """A number in all lanes: of the quad that has it, by a shuffle.

        Of an element that is taken out LLVM would make a load of its own.
        """
        if _is(value, "Cast"):
            dtype = f"{value.ty.dtype}x{lanes}"
            return tirx.Cast(dtype, self.broadcast(value.value, lanes))
        made = self(value)
        found = self.quads.get(_key(made)) if _is(made, "TensorLoad") else None
        if found is None:
            return tirx.Broadcast(made, lanes)
        quad, lane = found
        parts = -(-lanes // WIDTHS[-1])  # a shuffle has at least as many lanes to choose from
        return tirx.Shuffle([quad] * parts, [lane] * lanes)


def _key(load: Any) -> tuple[Any, str]:
    """What tells loads apart: the buffer, and the index in one form."""
    simplify = tvm.sym.Analyzer().simplify
    return load.source, str([simplify(i) for i in load.indices])


def rewritten(stmt: Any) -> Any:
    """A lowered statement, with the innermost loops rewritten that can be."""
    if _is(stmt, "For"):
        for width in WIDTHS:
            found = _together(stmt, width)
            if found is not None:
                return found
        if _sums(stmt.body):
            stmt = tirx.For(stmt.loop_var, stmt.min, _hidden(stmt.extent), stmt.kind, stmt.body,
                            stmt.thread_binding, stmt.annotations)  # fmt: skip
    return inside(stmt, rewritten)


def _sums(body: Any) -> bool:
    """Whether a loop's body is an innermost loop, of a tile's sum."""
    if not _is(body, "For") or int(body.kind) != 0:
        return False
    try:
        stores, _ = _stores(body.body)
    except _Other:
        return False
    return len(stores) > 1 and all(_scalars(s.value) for s in stores)


def _hidden(extent: Any) -> Any:
    """A number of turns that LLVM doesn't know."""
    return tirx.call_pure_extern("int32", vecmath.symbol("hidden", 1), extent)


def _together(loop: Any, width: int) -> Any:
    """An innermost loop of sums, `width` steps at a time; None where that isn't possible."""
    try:
        return _by_quads(loop, width)
    except _Other:
        return None


def _by_quads(loop: Any, width: int) -> Any:
    turns = int(loop.extent) if _is(loop.extent, "IntImm") else 0
    if int(loop.kind) != 0 or turns % width or int(loop.min) != 0:
        return None
    stores, values = _stores(loop.body)
    turn = loop.loop_var if turns > width else tirx.const(0, "int32")
    step = lambda i: {**values, loop.loop_var: turn * width + i}  # noqa: E731
    plain = [_Copy(_inlined(step(i)), {}) for i in range(width)]
    quads: dict[Any, tuple[Any, int]] = {}
    binds: list[Any] = []
    for load in [found for s in stores for found in _scalars(s.value)]:
        if width > MOST[str(load.source.dtype)]:
            return None
        each = [copy(load) for copy in plain]
        if _key(each[0]) in quads or not _beside(each):
            continue
        wide = tirx.BufferLoad(each[0].source, [tirx.Ramp(each[0].indices[0], 1, width)])
        quad = tirx.Var("quad", wide.ty)
        binds.append(tirx.Bind(quad, wide))
        quads |= {_key(one): (quad, i) for i, one in enumerate(each)}
    if not quads or any(_key(tirx.BufferLoad(s.buffer, s.indices)) in quads for s in stores):
        return None
    copies = [_Copy(_inlined(step(i)), quads) for i in range(width)]
    body = tirx.SeqStmt([
        *binds,
        *(tirx.BufferStore(s.buffer, c(s.value), [c(i) for i in s.indices])
          for c in copies for s in stores),
    ])  # fmt: skip
    if turns == width:
        return body
    return tirx.For(loop.loop_var, loop.min, tirx.const(turns // width, "int32"), loop.kind, body,
                    loop.thread_binding, loop.annotations)  # fmt: skip


def _stores(body: Any) -> tuple[list[Any], dict[Any, Any]]:
    """The stores of a loop's body, and the values bound in it."""
    stores: list[Any] = []
    values: dict[Any, Any] = {}
    for s in body.seq if _is(body, "SeqStmt") else [body]:
        if _is(s, "Bind"):
            values[s.var] = s.value
        elif _is(s, "BufferStore"):
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
        load = e.value.value if _is(e.value, "Cast") else e.value
        known = _is(load, "TensorLoad") and str(load.source.dtype) in MOST
        return [load] if known and len(load.indices) == 1 else []
    if kind in _PAIRS:
        return [*_scalars(e.a), *_scalars(e.b)]
    if kind == "Call":
        return [found for a in e.args for found in _scalars(a)]
    return []


def _beside(loads: list[Any]) -> bool:
    """Whether loads are of neighbouring elements."""
    simplify = tvm.sym.Analyzer().simplify
    first = loads[0].indices[0]
    apart = (simplify(one.indices[0] - first) for one in loads)
    return all(_is(d, "IntImm") and int(d) == i for i, d in enumerate(apart))


@tirx.transform.prim_func_pass(opt_level=0)
def by_quads(func: Any, module: Any, context: Any) -> Any:
    """Rewrite the innermost sums of a function."""
    return func.with_body(rewritten(func.body))
