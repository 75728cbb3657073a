"""Prices: what running ops on a target takes, and graphs to ask about ops that don't exist yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from graphopt.ir.builtin import Const, Return
from graphopt.ir.clone import extract
from graphopt.ir.core import Graph, Op, OpKind, Value
from graphopt.ir.data import Data, Rand
from graphopt.ir.types import DType, TensorType


@dataclass(frozen=True)
class Price:
    """Seconds of one run; `measured` is how much of them was measured and not modelled."""

    seconds: float
    measured: float = 0.0

    def __add__(self, other: Price) -> Price:
        """One after the other."""
        return Price(self.seconds + other.seconds, self.measured + other.measured)


FREE = Price(0.0)


class Costs(Protocol):
    """A target's prices, as passes ask for them.

    `used` has the seconds of every kernel that a price was made of, by its key.
    """

    used: dict[str, float]

    def price(self, graph: Graph, footprint: int = 0) -> Price:
        """What one run of a graph of static types takes, its inputs and outputs where they are.

        Its constants are as far away as `footprint` bytes are, those of the whole model.

        Raises:
            UnsupportedError: this computer can't tell.
        """
        ...

    def families(self, graph: Graph) -> set[str]:
        """The families of the kernels that compute a graph of static types."""
        ...

    def described(self) -> Costs:
        """Prices of the target as its description says: the same on every computer."""
        ...


def graph_of(ops: Iterable[Op]) -> Graph:
    """Ops of a graph as one of their own, to be priced; their constants are shared, not copied."""
    graph, _, _ = extract(ops, "priced")
    return graph


def graph_with(kind: OpKind, types: Sequence[TensorType | None], constant: Sequence[int]) -> Graph:
    """A graph of one op that doesn't exist: what would it cost?

    Args:
        kind: with its attributes.
        types: of the operands; None where an optional one is absent.
        constant: which operands are constants (a price doesn't depend on their numbers).

    Raises:
        ValueError: the operands don't fit the kind.
    """
    graph = Graph(name="priced")
    operands = [t and _operand(graph, t, i in constant) for i, t in enumerate(types)]
    op = graph.insert(Op(kind, operands))
    graph.insert(Op(Return(), op.results))
    return graph


def _operand(graph: Graph, type_: TensorType, constant: bool) -> Value:
    if not constant:
        return graph.add_arg(type_)
    shape = type_.static
    if shape is None:
        raise ValueError(f"a constant of {type_} has no size")
    return graph.insert(Op(Const(stand_in(type_.dtype, shape, graph)))).result


def stand_in(dtype: DType, shape: tuple[int, ...], graph: Graph) -> Data:
    """A constant for a graph to be priced, where its numbers aren't known yet.

    They are dense, since what is stored in few bytes may be computed otherwise, and no two in a
    graph are alike, since equal ops would be computed once.
    """
    return Rand(dtype, shape, sum(isinstance(op.kind, Const) for op in graph))
