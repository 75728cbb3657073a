# pyright: basic
# TVM ships no types.
"""Vectors that lie far apart, from bases of their own; and how `quads` takes statements apart.

Loads in pairs (ldp) reach 1008 bytes from their base. LLVM takes one base for all of a buffer, and
then loads those singly that are further away, as the weights of another block of channels are.
Where it doesn't know how far that is, it must take another base.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import tirx

from graphopt.targets.tvm import vecmath

DISTANCES = ("far", "half")  # names of variables
PAIRS_REACH = 504  # bytes from a base, of what is loaded in pairs: half of what ldp can
VECTOR = 16  # bytes of a register
PAIRS = {n: getattr(tirx, n) for n in
          ("Add", "Sub", "Mul", "FloorDiv", "FloorMod", "Min", "Max")}  # fmt: skip


def is_kind(node: Any, kind: str) -> bool:
    """Whether a node is of a class of TVM's."""
    return type(node).__name__ == kind


def key(load: Any) -> tuple[Any, str]:
    """What tells loads apart: the buffer, and the index in one form."""
    simplify = tvm.sym.Analyzer().simplify
    return load.source, str([simplify(i) for i in load.indices])


def sequence(stmts: list[Any]) -> Any:
    """Statements one after another, as TVM wants them: none of them a sequence itself."""
    flat = [one for s in stmts for one in (s.seq if is_kind(s, "SeqStmt") else [s])]
    return tirx.SeqStmt(flat) if len(flat) > 1 else flat[0]


def hidden(number: Any) -> Any:
    """A number, but LLVM doesn't know which."""
    return tirx.call_pure_extern("int32", vecmath.symbol("hidden", 1), number)


def far_vectors(
    stores: list[Any], plain: list[Callable[[Any], Any]]
) -> tuple[list[Any], list[Any], dict[Any, tuple[Any, int]]]:
    """Vectors that lie too far from others for one base: those of all steps from one load.

    Args:
        stores: of one step.
        plain: for each step, what makes its expressions.

    Returns:
        The distances, as numbers that LLVM doesn't know; the loads; where each vector is in them.
    """
    simplify = tvm.sym.Analyzer().simplify
    first: dict[Any, Any] = {}
    outside, inside, parts = list[Any](), list[Any](), dict[Any, tuple[Any, int]]()
    for load in [found for s in stores for found in vectors_in(s.value)]:
        each = [copy(load) for copy in plain]
        base, lanes = each[0].indices[0].base, int(each[0].indices[0].lanes)
        apart = simplify(base - first.setdefault(load.source, base))
        steps = [simplify(one.indices[0].base - base) for one in each]
        row = all(is_kind(d, "IntImm") and int(d) == i * lanes for i, d in enumerate(steps))
        far = is_kind(apart, "IntImm") and abs(int(apart)) * nbytes(load) > PAIRS_REACH
        if not row or not far or key(each[0]) in parts or stored([load], stores):
            continue
        away, whole = tirx.Var("far", "int64"), lanes * len(plain)
        at = ramp(first[load.source], away, whole)
        wide = tirx.BufferLoad(load.source, [at])
        var = tirx.Var("wide", wide.ty)
        outside.append(distance(away, int(apart)))
        inside.append(tirx.Bind(var, wide))
        parts |= {key(one): (var, i * lanes) for i, one in enumerate(each)}
    return outside, inside, parts


def ramp(first: Any, away: Any, lanes: int) -> Any:
    """Neighbours from `away` after `first` on; of 64 bits, so that LLVM may split the sum."""
    return tirx.Ramp(tirx.Cast("int64", first) + away, tirx.const(1, "int64"), lanes)


def distance(var: Any, value: int) -> Any:
    """A number that LLVM doesn't know."""
    return tirx.Bind(var, tirx.Cast("int64", hidden(tirx.const(value, "int32"))))


def lifted(body: Any) -> tuple[list[Any], Any]:
    """The distances that a body begins with, and the rest of it."""
    parts = list(body.seq) if is_kind(body, "SeqStmt") else [body]
    count = next((i for i, s in enumerate(parts)
                  if not (is_kind(s, "Bind") and s.var.name in DISTANCES)), len(parts))  # fmt: skip
    return parts[:count], sequence(parts[count:])


def stored(loads: list[Any], stores: list[Any]) -> bool:
    """Whether something is loaded from a buffer that is written."""
    return any(one.source.same_as(s.buffer) for one in loads for s in stores)


def nbytes(load: Any) -> int:
    """Of an element of what is loaded from."""
    return tvm.DataType(load.source.dtype).bits // 8


def vectors_in(e: Any) -> list[Any]:
    """The loads of vectors in an expression."""
    kind = type(e).__name__
    if kind == "TensorLoad":
        (at, *more) = e.indices
        row = not more and is_kind(at, "Ramp") and int(at.stride) == 1
        return [e] if row else []
    if kind in PAIRS:
        return [*vectors_in(e.a), *vectors_in(e.b)]
    return []


def registers(dtype: Any) -> int:
    """Vector registers that a value takes."""
    kind = tvm.DataType(dtype)
    return max(1, kind.bits * kind.lanes // 8 // VECTOR)
