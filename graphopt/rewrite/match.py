"""Small questions that rules ask of values. Those that fail raise Miss with the reason."""

from __future__ import annotations

from typing import TypeVar

from graphopt.ir.builtin import Const
from graphopt.ir.core import Op, OpKind, Value
from graphopt.ir.data import Data
from graphopt.ir.types import Array
from graphopt.rewrite.driver import Miss

K = TypeVar("K", bound=OpKind)


def const(value: Value | None) -> Data | None:
    """The data of a constant, None for anything else."""
    op = value.op if value else None
    return op.kind.data if op and isinstance(op.kind, Const) else None


def data(value: Value | None) -> Data:
    """The data of a value that must be constant."""
    found = const(value)
    if found is None:
        raise Miss(f"%{value.hint if value else '_'} is not constant")
    return found


def array(value: Value | None) -> Array:
    """The numbers of a value that must be constant."""
    return data(value).numpy()


def scalar(value: Value | None) -> float | None:
    """The number of a constant with one element; None for anything else."""
    found = const(value)
    if found is None or any(d != 1 for d in found.shape) or found.dtype.bits == 0:
        return None
    number = found.numpy().reshape(-1)[0].item()
    return number if isinstance(number, int | float) else None


def made_by(value: Value | None, kind: type[K]) -> tuple[Op, K] | None:
    """The op that makes the value and its kind, if it is of that kind."""
    op = value.op if value else None
    return (op, op.kind) if op and isinstance(op.kind, kind) else None


def only_use(value: Value) -> None:
    """Raise Miss unless the value has exactly one use."""
    if value.use_count != 1:
        maker = value.op.kind.name if value.op else "argument"
        raise Miss(f"the {maker} %{value.hint} has {value.use_count} users")


def sides(op: Op) -> tuple[tuple[Value, Value], tuple[Value, Value]]:
    """The two operands of a commutative op, both ways round."""
    a, b = op.operand(0), op.operand(1)
    return (a, b), (b, a)
