# pyright: basic
# TVM ships no types.
"""The two products of an attention of bfloat16, by words of two numbers (`words`).

    scores[m, n] = sum over words of dot(q[m, word], kt[n/lanes, word, n%lanes])
    y[m, e]      = sum over words of dot(p[m, word], vp[e/lanes, word, e%lanes])

A word of q and kt has two numbers of a query and a key, one of p and vp those of two keys. Keys
past the last have zeros there.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from tvm import tirx

from graphopt.ir.core import Op, Value
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import amx
from graphopt.targets.tvm.kernels import matmul, words
from graphopt.targets.tvm.region import Region, broadcast, shape_of, widenings

if TYPE_CHECKING:
    from graphopt.targets.tvm.kernels.attention import Plan

Expr = Any
PER = words.HALVES.per


def fits(region: Region, op: Op, machine: Machine) -> bool:
    """Whether an attention's products are those of pairs: of arguments, with pairs along D."""
    held = widenings(region.graph)
    return (
        machine.halves > 1
        and amx.attends(op)
        and shape_of(op.operand(0))[-1] % PER == 0
        and all(op.operand(i) in held for i in range(2))
    )


def scores(region: Region, op: Op, p: Plan) -> Any:
    """The stage of the first product."""
    q, k = op.operand(0), op.operand(1)
    left, right = region.words(q), region.words(k)
    s = dataclasses.replace(p.first, k=p.first.k // PER)
    own = shape_of(q)[:-2]
    kt = matmul.panels(region, "kt", s, p.tiles[0], shape_of(k)[:-2],
                       lambda batch, d, n: right(*batch, n, d))  # fmt: skip
    return matmul.product(
        region, "scores", s, p.tiles[0],
        lambda batch, m, d: left(*broadcast(batch, own, p.first.batch), m, d),
        kt, p.rows, words.HALVES.times,
    )  # fmt: skip


def weighted(region: Region, op: Op, p: Plan, weights: Any) -> Any:
    """The stage of the second product, by weights(batch, m, s) that are rounded, 0 past S."""
    keys, lanes = p.first.n, p.tiles[0].lanes
    v, count = op.operand(2), p.panels * lanes // PER
    pairs = region.compute(
        (*p.first.batch, p.rows, count),
        lambda *at: _word([weights(at[:-2], at[-2], PER * at[-1] + i) for i in range(PER)]),
        "pairs",
    )
    s = dataclasses.replace(p.second, m=p.rows, k=count)
    vp = matmul.panels(region, "vp", s, p.tiles[1], shape_of(v)[:-2],
                       lambda batch, word, e: _rows(region, v, batch, word, e, keys))  # fmt: skip
    return matmul.product(
        region, "anchor", s, p.tiles[1], lambda batch, m, word: pairs(*batch, m, word), vp,
        p.rows, words.HALVES.times,
    )  # fmt: skip


def _rows(region: Region, v: Value, batch: list[Expr], word: Expr, e: Expr, keys: int) -> Expr:
    """The numbers of two keys in a column of v; 0 past the last key."""
    found: list[Expr] = []
    for i in range(PER):
        key = PER * word + i
        value = region.at(v, [*batch, tirx.min(key, keys - 1), e])
        found.append(tirx.Select(key < keys, value, tirx.const(0, "float32")))
    return _word(found)


def _word(numbers: list[Expr]) -> Expr:
    """Two bfloat16 that are read as float32, as a word."""
    low, high = (tirx.reinterpret("uint32", n) for n in numbers)
    upper = tirx.bitwise_and(high, tirx.const(0xFFFF0000, "uint32"))
    both = tirx.bitwise_or(tirx.shift_right(low, tirx.const(16, "uint32")), upper)
    return tirx.reinterpret("int32", both)


def contract(func: Any) -> Any:
    """Both products by the instruction that adds to its sum."""
    for name in ("scores", "anchor"):
        func = words.contract(func, words.HALVES, name)
    return func
