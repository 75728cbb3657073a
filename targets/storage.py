"""Whose memory a value is in: a view is in its operand's, a part of a concatenation in the whole's.

So a concatenation costs nothing where its parts are made for it alone: their kernels write straight
into the result, at multiples of ALIGN bytes. Where the parts follow one another once an image,
their kernels leave the other parts' memory between images (`apart`), and nothing else may read
them. And a kernel may write over an operand that nothing reads afterwards, if it reads each element
of it just to compute the result's element there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphopt.ir.builtin import Fused, Return
from graphopt.ir.core import Graph, Op, Value
from graphopt.ir.layout import physical_shape
from graphopt.ir.types import TensorType
from graphopt.ops.elementwise import Elementwise
from graphopt.ops.movement import Concat, Part
from graphopt.passes.group import is_constant, is_view, turns
from graphopt.targets.program import ALIGN


@dataclass(frozen=True)
class Spot:
    """The bytes of a value: `offset` bytes into the memory of `root`."""

    root: Value
    offset: int = 0


class Storage:
    """The memory that the values of a grouped graph share."""

    def __init__(self, graph: Graph) -> None:
        """Find the concatenations whose parts can be made in place."""
        self.graph = graph
        self.inside: dict[Value, Spot] = {}
        self.apart: dict[Value, Part] = {}
        self.free: set[Op] = {op for op in graph if isinstance(op.kind, Fused) and self._join(op)}

    def spot(self, value: Value) -> Spot:
        """Where a value is."""
        offset = 0
        while True:
            if value in self.inside:
                inner = self.inside[value]
                value, offset = inner.root, offset + inner.offset
            elif value.op and is_view(value.op) and not is_constant(value):
                value = value.op.operand(0)
            else:
                return Spot(value, offset)

    def write_over(self, result: Value, operand: Value) -> bool:
        """Put a kernel's result into the memory of an operand; tell whether that can be."""
        spot = self.spot(operand)
        whole = spot.offset == 0 and nbytes(spot.root) == nbytes(result)
        if result in self.inside or not whole or not _own(result) or not _own(spot.root):
            return False
        self.inside[result] = spot
        return True

    def _join(self, op: Op) -> bool:
        """Put the operands of a concatenation into its result, if all of them can be there."""
        joint = _joined(op)
        whole = op.results[0]
        if joint is None:
            return False
        parts, often = [v for v in op.operands if v], turns(joint)
        if not _own(whole) or sum(map(nbytes, parts)) != nbytes(whole):
            return False
        offset, found = 0, dict[Value, Spot]()
        for part in parts:
            root = self.spot(part).root
            maker = root.op
            made_here = maker is not None and isinstance(maker.kind, Fused) and _own(root)
            if not made_here or root in self.inside or root in found or offset % ALIGN:
                return False
            if nbytes(root) != nbytes(part) or (often > 1 and not _alone(root)):
                return False
            found[root] = Spot(whole, offset)
            offset += nbytes(part) // often
        self.inside.update(found)
        if often > 1:
            assert isinstance(joint.kind, Concat)
            axis = joint.kind.axis
            kind = Part(axis, (whole.tensor.static or ())[axis])
            self.apart.update(dict.fromkeys(found, kind))
        return True


def overwritable(op: Op) -> Iterator[Value]:
    """The operands of a fused op that its kernel reads element by element as it writes the result.

    In the region, only element-wise ops of the result's shape and layout may lead from the operand
    to the result.
    """
    (body,) = op.regions
    result = op.results[0].type
    if len(op.results) != 1:
        return
    for operand, arg in zip(op.operands, body.args, strict=True):
        if operand and arg.type == result and op.operands.count(operand) == 1 and _aligned(arg):
            yield operand


def _aligned(value: Value) -> bool:
    """Whether all users are element-wise, of the value's shape and layout, up to the result."""
    for use in value.uses:
        if isinstance(use.op.kind, Return):
            continue
        if not isinstance(use.op.kind, Elementwise) or not _alike(use.op.result, value):
            return False
        if not _aligned(use.op.result):
            return False
    return True


def _alike(a: Value, b: Value) -> bool:
    return (a.tensor.shape, a.tensor.layout) == (b.tensor.shape, b.tensor.layout)


def _joined(op: Op) -> Op | None:
    """The concatenation of a fused op that does nothing else, of its operands as they lie."""
    (body,) = op.regions
    inner = [o for o in body if not isinstance(o.kind, Return)]
    if len(inner) != 1 or not turns(inner[0]) or list(inner[0].operands) != list(body.args):
        return None
    return inner[0]


def _alone(value: Value) -> bool:
    """Whether a value is all that its kernel makes, and used once."""
    return value.use_count == 1 and value.op is not None and len(value.op.results) == 1


def _own(value: Value) -> bool:
    """Whether a value has temporary memory of its own: it is no output of the model."""
    return not any(isinstance(use.op.kind, Return) for use in value.uses) and nbytes(value) > 0


def nbytes(value: Value) -> int:
    """The bytes that a value takes; 0 where that isn't known."""
    t = value.type
    if not isinstance(t, TensorType) or t.static is None or t.dtype.bits < 8:
        return 0
    total = 1
    for d in physical_shape(t.static, t.layout):
        total *= d
    return total * (t.dtype.bits // 8)
