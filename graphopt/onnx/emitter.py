"""What the tables of `emit_*` write with: nodes, shared parameters, fresh names. No IR graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import onnx

from graphopt.errors import GraphoptError
from graphopt.ir.core import Op, OpKind
from graphopt.ir.data import Inline
from graphopt.ir.types import Array, DType
from graphopt.onnx.attrs import write_attribute
from graphopt.onnx.checks import MAX_OPSET, MIN_OPSET, known
from graphopt.onnx.tensors import write_tensor


class NeedsOpset(Exception):  # noqa: N818  (a request to the exporter, which catches it)
    """A kind has no form at the opset being written; `opset` is the first that has one."""

    def __init__(self, opset: int, what: str) -> None:
        """What needs it."""
        super().__init__(f"{what} needs opset {opset}")
        self.opset, self.what = opset, what


Ints = tuple[int, ...]


class Names:
    """Gives names that no other value (or node) of the model has."""

    def __init__(self) -> None:
        """All names are free."""
        self.taken: dict[str, int] = {}

    def take(self, name: str) -> bool:
        """Claim a name; tell whether it was free."""
        if not name or name in self.taken:
            return False
        self.taken[name] = 0
        return True

    def fresh(self, base: str) -> str:
        """Claim `base`, or `base_1` and so on where it is taken."""
        name, count = base or "v", self.taken.get(base or "v", 0)
        stem = name
        while name in self.taken:
            count += 1
            name = f"{stem}_{count}"
        self.taken[stem] = count
        self.taken.setdefault(name, 0)
        return name


class Emitter:
    """The nodes and parameters of one ONNX graph on its way out."""

    def __init__(self, opset: int, values: Names, nodes: Names) -> None:
        """Make it for a graph; names are shared by all graphs of the model."""
        self.opset, self.values, self.node_names = opset, values, nodes
        self.nodes: list[onnx.NodeProto] = []
        self.parameters: dict[tuple[object, ...], onnx.TensorProto] = {}
        self.turned: dict[str, tuple[str, Ints]] = {}  # what a value is the transpose of, and how
        self.transposes: dict[tuple[str, Ints], str] = {}  # those that are written, by that
        self.at = ""  # the name for the next nodes: where the op came from

    def node(
        self,
        op_type: str,
        inputs: Iterable[str],
        outputs: Sequence[str],
        **attrs: object,
    ) -> None:
        """Append a node of the standard domain; attributes that are None are left out.

        Raises:
            NeedsOpset: the opset has no such op, or none with these attributes.
        """
        given = {k: v for k, v in attrs.items() if v is not None}
        demand(op_type, self.opset, frozenset(given))
        proto = onnx.NodeProto(op_type=op_type, name=self.node_names.fresh(self.at or op_type))
        operands = list(inputs)
        while operands and not operands[-1]:
            operands.pop()
        proto.input.extend(operands)
        proto.output.extend(outputs)
        proto.attribute.extend(write_attribute(k, v, INTS) for k, v in given.items())
        self.nodes.append(proto)

    def temp(self, op_type: str, inputs: Iterable[str], **attrs: object) -> str:
        """Append a node with one fresh output, and give its name."""
        out = self.values.fresh(f"{self.at or op_type}_{op_type}")
        self.node(op_type, inputs, [out], **attrs)
        return out

    def ints(self, values: Sequence[int]) -> str:
        """The name of an int64 vector."""
        shown = "_".join(map(str, values)).replace("-", "m")
        base = f"ints_{shown}" if 0 < len(values) <= 8 and len(shown) < 40 else "ints"
        return self.constant(np.array(values, np.int64), base)

    def integers(self, values: Sequence[int], dtype: DType) -> str:
        """The name of a vector of some integer type."""
        return self.constant(np.array(values, dtype.numpy), f"{dtype}s")

    def floats(self, values: Sequence[float]) -> str:
        """The name of a float32 vector."""
        return self.constant(np.array(values, np.float32), "floats")

    def number(self, value: float | int | bool, dtype: DType) -> str:
        """The name of a scalar."""
        shown = str(value).replace("-", "m")
        return self.constant(np.asarray(value).astype(dtype.numpy), f"{dtype}_{shown}"[:40])

    def constant(self, array: Array, base: str) -> str:
        """The name of a parameter, shared with equal ones."""
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self.parameters:
            self.parameters[key] = write_tensor(Inline(array), self.values.fresh(base))
        return self.parameters[key].name


INTS = int(onnx.AttributeProto.INTS)


@lru_cache(maxsize=4096)
def demand(op_type: str, opset: int, attrs: frozenset[str]) -> None:
    """Check that an opset has an op with these attributes.

    Raises:
        NeedsOpset: with the first later one that has.
        GraphoptError: none has.
    """
    if _has(op_type, opset, attrs):
        return
    later = (v for v in range(MIN_OPSET, MAX_OPSET + 1) if _has(op_type, v, attrs))
    found = next((v for v in later if v > opset), None)
    if found is None:
        raise GraphoptError(f"opset {opset} and later ones have no {op_type} with {sorted(attrs)}")
    raise NeedsOpset(found, op_type)


def _has(op_type: str, opset: int, attrs: frozenset[str]) -> bool:
    found = known(op_type, opset, "")
    return found is not None and not found.deprecated and attrs <= found.attributes.keys()


Emit = Callable[[Emitter, Op, list[str], list[str]], None]
EMITTERS: dict[type[OpKind], Emit] = {}
NATIVE: dict[type[OpKind], int] = {}  # the opset from which a kind is one op, where it matters
F = TypeVar("F", bound=Emit)


def emits(*kinds: type[OpKind], native: int = 0) -> Callable[[F], F]:
    """Enter the function that writes an op of some kinds: (emitter, op, input, output names).

    `native`: the opset from which on the kind is a single op; it has a longer form below.
    """

    def enter(emit: F) -> F:
        for kind in kinds:
            EMITTERS[kind] = emit
            if native:
                NATIVE[kind] = native
        return emit

    return enter


def kind_of(op: Op) -> Any:
    """An op's kind, typed by the table entry that reads it."""
    return op.kind
