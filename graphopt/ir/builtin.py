"""Op kinds that the IR itself needs: const, return, opaque ONNX ops, and fused regions."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.core import Graph, Op, OpKind
from graphopt.ir.data import Data
from graphopt.ir.types import Array, TensorType, ValueType

IMPURE = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli",
          "Multinomial"}  # fmt: skip


@dataclass(frozen=True)
class Const(OpKind, name="const"):
    """A constant tensor; ONNX's initializers and Constant nodes."""

    data: Data

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The data's type."""
        return (TensorType(self.data.dtype, self.data.shape),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """The data."""
        return (self.data.numpy(),)


@dataclass(frozen=True)
class Return(OpKind, name="return"):
    """The end of a graph. `names` are the graph's output names in ONNX ("" : make one up)."""

    names: tuple[str, ...] = ()
    operands = ("xs*",)

    def pure(self) -> bool:
        """Never erased."""
        return False

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """No results."""
        return ()

    def result_count(self) -> int:
        """None."""
        return 0


@dataclass(frozen=True)
class Opaque(OpKind, name="opaque"):
    """Any ONNX op that no kind models; typed by ONNX's shape inference, kept as it is.

    `version` is the opset of `domain` that the op was written for. An attribute's value is an int,
    float, str or a tuple of them; bytes hold a serialised AttributeProto of any other sort. Graph
    attributes are the op's regions, each named after its attribute. `missing` lists the results
    that the model leaves unnamed.
    """

    op_type: str
    domain: str = ""
    version: int = 1
    attrs: tuple[tuple[str, object], ...] = ()
    missing: tuple[int, ...] = ()
    operands = ("xs*",)

    def pure(self) -> bool:
        """All but the random ops of ONNX."""
        return not (self.domain == "" and self.op_type in IMPURE)

    def infer(self, *types: ValueType | None) -> None:
        """Unknown to us: the types are given where the op is made."""
        return

    def attr(self, name: str, default: object = None) -> object:
        """One attribute."""
        return next((v for k, v in self.attrs if k == name), default)


@dataclass(frozen=True)
class Fused(OpKind, name="fused"):
    """Ops that run as one kernel: the region's arguments are the operands, one by one."""

    family: str
    operands = ("xs*",)

    def infer(self, *types: ValueType | None) -> None:
        """What the region returns; given where the op is made."""
        return


def name_ends(graph: Graph) -> None:
    """Give inputs and outputs without a name one of their own: data are kept by these names.

    An output is called as its value is, if nothing else is, else `out0`, `out1` ...
    """
    end = graph.terminator
    given = end.kind.names if isinstance(end.kind, Return) else ()
    taken = {*given, *(a.hint for a in graph.args)}
    for i, arg in enumerate(graph.args):
        arg.hint = arg.hint or _fresh((f"in{i}",), taken)
    names = list(given) + [""] * (len(graph.outputs) - len(given))
    for i, value in enumerate(graph.outputs):
        names[i] = names[i] or _fresh((value.hint, f"out{i}"), taken)
    if tuple(names) != given:
        graph.erase(end)
        graph.insert(Op(Return(tuple(names)), end.operands, loc=end.loc))


def _fresh(wanted: tuple[str, ...], taken: set[str]) -> str:
    """The first of some names that isn't taken, else the last with primes; takes it."""
    name = next((w for w in wanted if w and w not in taken), wanted[-1])
    while name in taken:
        name += "'"
    taken.add(name)
    return name
