"""What a converter sees of an ONNX node, and the table of converters. Knows no protobuf."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from graphopt.ir.builtin import Const
from graphopt.ir.core import OpKind, Value
from graphopt.ir.data import Data, size
from graphopt.ir.types import Array, Dim, DType, TensorType

MAX_PARAMETER = 4096  # elements: shapes, axes, pads and the like are shorter


class Step(NamedTuple):
    """One op of a modelled node; an int operand is the result of that earlier step."""

    kind: OpKind
    operands: tuple[Value | int | None, ...]


Modelled = Step | list[Step]  # a list: a chain, the last of which makes the node's result


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node of a model: plain attributes (tensors as Data), operands as values.

    `outputs` tells of each output whether the model names it, `used` whether anything reads it.
    """

    op_type: str
    domain: str
    version: int
    attrs: Mapping[str, Any]
    operands: tuple[Value | None, ...]
    outputs: tuple[bool, ...]
    used: tuple[bool, ...]

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, or its default."""
        return self.attrs.get(name, default)

    def operand(self, index: int) -> Value | None:
        """An operand; None where it is absent."""
        return self.operands[index] if index < len(self.operands) else None

    def has(self, index: int) -> bool:
        """Whether an operand is present."""
        return self.operand(index) is not None

    def type(self, index: int) -> TensorType | None:
        """An operand's type, if it is a tensor."""
        value = self.operand(index)
        return value.type if value and isinstance(value.type, TensorType) else None

    def dtype(self, index: int) -> DType | None:
        """An operand's element type, if known."""
        type_ = self.type(index)
        return type_ and type_.dtype

    def shape(self, index: int) -> tuple[Dim, ...] | None:
        """An operand's shape, if its rank is known."""
        type_ = self.type(index)
        return type_.shape if type_ else None

    def rank(self, index: int) -> int | None:
        """An operand's rank, if known."""
        shape = self.shape(index)
        return None if shape is None else len(shape)

    def data(self, index: int) -> Data | None:
        """An operand's data, if it is a constant of a parameter's size."""
        value = self.operand(index)
        op = value.op if value else None
        if op is None or not isinstance(op.kind, Const):
            return None
        return op.kind.data if size(op.kind.data) <= MAX_PARAMETER else None

    def const(self, index: int) -> Array | None:
        """An operand's numbers, if it is a constant of a parameter's size."""
        data = self.data(index)
        return None if data is None else data.numpy()

    def ints(self, index: int) -> tuple[int, ...] | None:
        """An operand as a tuple of integers, if it is a constant vector (or scalar) of them."""
        data = self.data(index)
        if data is None or not data.dtype.is_int or len(data.shape) > 1:
            return None
        return tuple(int(v) for v in data.numpy().reshape(-1))

    def number(self, index: int) -> Any:
        """An operand as a Python number, if it is a constant of one element."""
        data = self.data(index)
        if data is None or size(data) != 1 or data.dtype is DType.string:
            return None
        value: Any = data.numpy().reshape(-1)[0]
        return float(value) if data.dtype.is_float else value.item()

    def list(self, name: str, index: int, since: int) -> tuple[int, ...] | None:
        """A parameter that is an attribute before opset `since`, and an operand from then on.

        Gives None where the operand isn't constant; `()` where the parameter is absent.
        """
        if self.version < since:
            return tuple(self.attr(name, ()))
        return self.ints(index) if self.has(index) else ()

    @property
    def single(self) -> bool:
        """Whether nothing reads any output but the first."""
        return not any(self.used[1:])


Converter = Callable[[NodeView], Modelled | None]
CONVERTERS: dict[tuple[str, str], Converter] = {}
F = TypeVar("F", bound=Converter)


def converts(*op_types: str, domain: str = "") -> Callable[[F], F]:
    """Enter a converter into the table. It gives None for a node that no kind expresses."""

    def enter(converter: F) -> F:
        for op_type in op_types:
            CONVERTERS[domain, op_type] = converter
        return converter

    return enter


def normal(axes: tuple[int, ...], rank: int) -> tuple[int, ...] | None:
    """Axes non-negative, in the given order; None where one is out of range or repeats."""
    if any(not -rank <= a < rank for a in axes):
        return None
    found = tuple(a % rank for a in axes)
    return found if len(set(found)) == len(found) else None
