# pyright: basic
# TVM ships no types.
"""Matrix products on AMX tiles (`tiled`): rows of x are read where they are.

y[.., m, n] is the sum over words of dot(x[.., m, word], w[n/16, word, n%16]).
"""

from __future__ import annotations

from typing import Any

from graphopt.ir.core import Op
from graphopt.ir.types import DType
from graphopt.ops.unary import is_half
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import amx, movement, tiles
from graphopt.targets.tvm.kernels import matmul, tiled
from graphopt.targets.tvm.kernels.tiled_plan import (
    BYTES,
    GROUPS,
    HALVES,
    Plan,
    Rows,
    Words,
)
from graphopt.targets.tvm.region import broadcast, shape_of, static

Expr = Any
PARTS = 2  # of the panels of a product of few rows


def integers(op: Op, machine: Machine) -> Plan | None:
    """How a matrix product of integers runs on tiles; None where it doesn't."""
    a, b, y = (static(v) for v in (op.operand(0), op.operand(1), op.result))
    if amx.FEATURE not in machine.cpu_features or a.layout or y.layout or b.layout != amx.PANELS:
        return None
    s = matmul.shape(op)
    if (a.dtype, b.dtype) != (DType.u8, DType.i8) or s.batch or s.trans_a or s.m < 2 or s.k % 4:
        return None
    return _matrix(BYTES, s, machine)


def halves(op: Op, machine: Machine) -> Plan | None:
    """How a product of bfloat16 runs on tiles; None where it doesn't."""
    tag, b = amx.weights(op), op.operand(1)
    if amx.FEATURE not in machine.cpu_features or not tag or static(b).layout != tag:
        return None
    s = matmul.shape(op)
    return None if s.batch or not is_half(b) else _matrix(HALVES, s, machine)


def _matrix(of: Words, s: matmul.Shape, machine: Machine) -> Plan | None:
    words = amx.together(s.k // of.per)
    if not words:
        return None
    groups, cold = -(-s.m // (2 * tiles.ROWS)), amx.passes_once(s.k * s.n * 4 // of.per, machine)
    # Rows that the first cache can't keep stay in turn, though they are few: threads share panels.
    far = s.m * s.k * 4 // of.per > machine.l1_bytes and -(-s.n // (2 * amx.BLOCK)) % PARTS == 0
    first = cold or (groups < GROUPS and not far)
    parts = PARTS if not first and groups < GROUPS else 1
    return Plan(of, 1, 1, s.m, s.n, words, first, cold, parts)


class Product(tiled.Kernel):
    """A matrix product; x is [.., m, k], w [n/16, words, 16, numbers of a word]."""

    def steps(self) -> tuple[int, ...]:
        """Words by as many as are summed at once."""
        return (shape_of(self.op.operand(0))[-1] // self.p.of.per // self.p.words,)

    def left(self, image: Expr, i: int, rows: Rows, at: list[Expr]) -> tuple[list[Expr], int]:
        """Row after row of x."""
        own, per = shape_of(self.op.operand(0)), self.p.of.per
        word = at[0] * (self.p.words * per)
        return [*movement.unflat(rows.start, own[:-1]), word], own[-1] * 4 // per

    def right(self, panel: Expr, at: list[Expr]) -> list[Expr]:
        """Words of a panel."""
        return [panel, at[0] * self.p.words, 0, 0]

    def place(self, rows: Rows, r: Expr) -> list[Expr]:
        """All axes but the last are rows."""
        simplify = self.region.analyzer.simplify
        return [*map(simplify, movement.unflat(rows.start + r, shape_of(self.op.result)[:-1]))]

    def index(self, image: Expr, place: list[Expr], column: Expr) -> list[Expr]:
        """The columns last."""
        return [*place, column]

    def summed(self, value: Expr, index: Any) -> Expr:
        """A gemm's addend joins."""
        addend = self.op.operands[2] if self.op.kind.name == "gemm" else None
        if addend is None:
            return value
        at = broadcast(index, shape_of(addend), shape_of(self.op.result))
        return value + self.region.at(addend, at)
