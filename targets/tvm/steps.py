# pyright: basic
# TVM ships no types.
"""Steps of a sum: a loop's body taken apart, and copies of it for turns of the loop."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx

from graphopt.targets.tvm import bases

LEAST = 2  # numbers that are loaded together
MOST = {"float32": 8, "int32": 4, "int16": 4, "float16": 8}  # of each type


class OtherError(Exception):
    """An expression or statement that isn't known here: its loop stays as it is."""


class Copy:
    """Copies of expressions with variables replaced and, once they are made, with quads."""

    def __init__(
        self,
        values: dict[Any, Any],
        quads: dict[Any, tuple[Any, int]],
        parts: dict[Any, tuple[Any, int]] | None = None,
    ) -> None:
        self.values, self.quads, self.parts = values, quads, parts or {}
        self.simplify = False

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
            base = self(e.base)
            if self.simplify:
                base = tvm.sym.Analyzer().simplify(base)
            return tirx.Ramp(base, self(e.stride), e.lanes)
        if kind == "TensorLoad":
            return self.part(tirx.BufferLoad(e.source, [self(i) for i in e.indices]))
        if kind == "Call":
            return tvm.ir.Call(e.op, [self(a) for a in e.args], ret_ty=e.ty)
        raise OtherError

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
        parts = -(-lanes // LEAST)  # a shuffle has at least as many lanes to choose from
        return tirx.Shuffle([quad] * parts, [lane] * lanes)


def stores_of(body: Any) -> tuple[list[Any], dict[Any, Any]]:
    """The stores of a loop's body, and the values bound in it."""
    stores: list[Any] = []
    values: dict[Any, Any] = {}
    for s in body.seq if bases.is_kind(body, "SeqStmt") else [body]:
        if bases.is_kind(s, "Bind"):
            values[s.var] = s.value
        elif bases.is_kind(s, "BufferStore"):
            stores.append(s)
        else:
            raise OtherError
    return stores, values


def inlined(bound: dict[Any, Any], at: dict[Any, Any]) -> dict[Any, Any]:
    """The values of loop variables, and bound values by them; later ones use earlier ones."""
    done = dict(at)
    for v, value in bound.items():
        done[v] = Copy(done, {})(value)
    return done


def scalars(e: Any) -> list[Any]:
    """The scalar loads that are broadcast in an expression."""
    kind = type(e).__name__
    if kind == "Broadcast":
        load = e.value.value if bases.is_kind(e.value, "Cast") else e.value
        known = bases.is_kind(load, "TensorLoad") and str(load.source.dtype) in MOST
        return [load] if known and len(load.indices) == 1 else []
    if kind in bases.PAIRS:
        return [*scalars(e.a), *scalars(e.b)]
    if kind == "Call":
        return [found for a in e.args for found in scalars(a)]
    return []
