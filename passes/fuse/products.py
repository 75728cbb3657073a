"""A product of several factors, however its multiplications are nested and its constants placed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from graphopt.ir.core import Op, Value
from graphopt.ir.types import DType
from graphopt.ops.elementwise import Add, Div, Mul, Neg, Pow
from graphopt.rewrite import Rewriter, made_by, scalar, sides

DEPTH = 4  # nested multiplications; the written forms of activations have at most three
_CLOSE = {DType.f16: 2e-3, DType.bf16: 1e-2}


@dataclass
class Product:
    """coefficient * factors[0] * factors[1] * ...; `ops` are the multiplications inside."""

    coefficient: float = 1.0
    factors: list[Value] = field(default_factory=list[Value])
    ops: list[Op] = field(default_factory=list[Op])

    def absorb(self, rw: Rewriter) -> None:
        """Record that the multiplications are fused."""
        for op in self.ops:
            rw.absorb(op)


def product(value: Value) -> Product:
    """Take a value apart; inner multiplications only where nothing else uses them."""
    found = Product()
    _collect(value, found, DEPTH)
    return found


def _collect(value: Value, found: Product, depth: int) -> None:
    number = scalar(value)
    if number is not None:
        found.coefficient *= number
        return
    op = value.op
    inner = depth == DEPTH or value.use_count == 1
    if op is None or not inner or depth == 0 or not _open(op, found, depth):
        found.factors.append(value)


def _open(op: Op, found: Product, depth: int) -> bool:
    """Add the factors of a multiplication; False when the op is none."""
    match op.kind:
        case Mul():
            pieces = [op.operand(0), op.operand(1)]
        case Neg():
            pieces, found.coefficient = [op.operand(0)], -found.coefficient
        case Div() if divisor := scalar(op.operand(1)):
            pieces, found.coefficient = [op.operand(0)], found.coefficient / divisor
        case Pow() if scalar(op.operand(1)) in (2, 3):
            pieces = [op.operand(0)] * int(scalar(op.operand(1)) or 0)
        case _:
            return False
    found.ops.append(op)
    for piece in pieces:
        _collect(piece, found, depth - 1)
    return True


def close(a: float, b: float, dtype: DType) -> bool:
    """Whether two coefficients are one number, rounded to the element type."""
    return math.isclose(a, b, rel_tol=_CLOSE.get(dtype, 2e-6))


def pair(found: Product) -> list[tuple[Value, Value]]:
    """The two factors, both ways round; nothing when there are more or fewer."""
    if len(found.factors) != 2:
        return []
    a, b = found.factors
    return [(a, b), (b, a)]


def plus(value: Value, number: float) -> tuple[Op, Value] | None:
    """The op and x where value is x + number."""
    found = made_by(value, Add)
    if found is None:
        return None
    for x, c in sides(found[0]):
        have = scalar(c)
        if have is not None and close(have, number, x.tensor.dtype):
            return found[0], x
    return None
