"""Which values of a float model become integers, and which of them must share a scale.

Convolutions, matrix products by constants and means read integers (`sums` of the pass `integers`),
and so does what LSTM and GRU layers make of their input.
Ops that only choose or move elements work on integers where what they give is wanted as integers,
so all that they connect has one scale. Of the two operands of a residual addition, one is the sum
that the addition is fused to and stays float; the other goes through memory, and becomes integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from graphopt.ir.core import Graph, Op, Use, Value
from graphopt.ir.types import DType, TensorType
from graphopt.ops import movement as mv
from graphopt.ops.elementwise import Add, Elementwise
from graphopt.ops.linalg import Gemm, MatMul
from graphopt.ops.nn import AvgPool, Conv, ConvTranspose, MaxPool
from graphopt.ops.quant import Calibrated, Dequantize
from graphopt.ops.reduce import ReduceMean
from graphopt.passes.integers.moves import chooses
from graphopt.passes.integers.transposed import possible
from graphopt.passes.quantize.recurrent import made, recurrent, recurrents
from graphopt.rewrite import const

CHAIN = 16  # element-wise ops after a sum that its kernel still takes in


@dataclass
class Points:
    """The values to quantize, in the order of the graph, each with the group it belongs to.

    `groups` maps a value to its group's representative; `floats` are the ops that stay float though
    they could sum integers; `both`: whether both operands of a residual addition go through
    integers, as ONNX Runtime's own addition of integers wants it.
    """

    floats: frozenset[Op] = frozenset()
    both: bool = False
    groups: dict[Value, Value] = field(default_factory=dict[Value, Value])

    def find(self, value: Value) -> Value:
        """The representative of a value's group."""
        while self.groups[value] is not value:
            value = self.groups[value]
        return value

    def want(self, value: Value) -> bool:
        """Enter a value; whether it is new."""
        new = value not in self.groups
        self.groups.setdefault(value, value)
        return new

    def join(self, a: Value, b: Value) -> None:
        """Let two values share a scale."""
        self.groups[self.find(a)] = self.find(b)

    def sums(self, op: Op) -> bool:
        """Whether an op is to sum integers."""
        return (summed(op) or recurrent(op)) and op not in self.floats


def points(graph: Graph, floats: Iterable[Op] = (), both: bool = False) -> Points:
    """Choose the values of a graph that are quantized; `floats` stay as they are."""
    found = Points(frozenset(floats), both)
    for op in filter(found.sums, graph):
        if weighted(op) or recurrent(op) or made_by_sum(op.operand(0), found):
            _want(found, op.operand(0))
    for value in list(found.groups):
        for operand in _residuals(found, value):
            _want(found, operand)
    return found


def _want(found: Points, value: Value) -> None:
    """Enter a value, and what moves make it of."""
    value = source(value)
    if value.op and isinstance(value.op.kind, Dequantize):
        return  # it is integers
    if not is_float(value) or not found.want(value):
        return
    todo = [value]
    while todo:
        at = todo.pop()
        for operand in moved(at):
            if found.want(operand):
                todo.append(operand)
            found.join(operand, at)


def moved(value: Value) -> tuple[Value, ...]:
    """The operands whose elements a value consists of; empty where its op computes something."""
    op = source(value).op
    if op is None:
        return ()
    zeros = isinstance(op.kind, mv.Pad) and (op.kind.mode != "constant" or op.kind.value == 0)
    if not (chooses(op.kind) or zeros):
        return ()
    several = op.operands if isinstance(op.kind, mv.Concat) else op.operands[:1]
    return tuple(source(v) for v in several if v and is_float(v) and const(v) is None)


def source(value: Value) -> Value:
    """The value before notes of calibration."""
    while value.op and isinstance(value.op.kind, Calibrated):
        value = value.op.operand(0)
    return value


def is_float(value: Value) -> bool:
    """Whether it is a float32 tensor."""
    return isinstance(value.type, TensorType) and value.type.dtype is DType.f32


def summed(op: Op) -> bool:
    """Whether an op can sum products of integers (see the pass `integers`)."""
    if not op.operands or not op.operands[0] or not is_float(op.operand(0)):
        return False
    x = op.operand(0).tensor
    if const(op.operand(0)) is not None:
        return False
    match op.kind:
        case Conv():
            return const(op.operand(1)) is not None
        case ConvTranspose():
            return possible(op)
        case MatMul():
            w = const(op.operand(1))
            return w is not None and len(w.shape) == 2 and (x.rank or 0) >= 2
        case Gemm(alpha=1.0, trans_a=False) as kind:
            return const(op.operand(1)) is not None and (not op.operands[2] or kind.beta == 1)
        case AvgPool() as kind:
            return _whole(x) and (kind.count_include_pad or not any(kind.pads))
        case ReduceMean() as kind:
            rank = len(x.shape or ())
            return _whole(x) and sorted(a % rank for a in kind.axes) == list(range(2, rank))
        case _:
            return False


def _whole(x: TensorType) -> bool:
    """Whether it is an image of known size."""
    return x.static is not None and len(x.static) > 2


def weighted(op: Op) -> bool:
    """Whether an op that sums has weights (a mean has none)."""
    return isinstance(op.kind, Conv | ConvTranspose | MatMul | Gemm)


def candidates(graph: Graph) -> list[Op]:
    """The ops with weights that could sum integers, in order."""
    return [op for op in graph if weighted(op) and summed(op)]


def name_layers(graph: Graph) -> None:
    """Name the results of layers that have no name: it is by names that they are found again."""
    known = {r.hint for op in graph for r in op.results}
    for i, value in enumerate(made(op) for op in (*candidates(graph), *recurrents(graph))):
        if not value.hint and value.op:
            op = value.op
            name = f"{op.loc.nodes[-1] if op.loc.nodes else op.kind.name}_out"
            value.hint = name if name not in known else f"{name}_{i}"
            known.add(value.hint)


def made_by_sum(value: Value, points: Points) -> bool:
    """Whether a value comes out of a kernel that sums integers, through its epilogue."""
    todo, seen = [source(value)], set[Value]()
    while todo and len(seen) < CHAIN:
        at = todo.pop()
        seen.add(at)
        if at.op is None:
            continue
        if weighted(at.op):
            return points.sums(at.op) or quantized(at.op)
        if isinstance(at.op.kind, Elementwise):
            todo += [source(v) for v in at.op.operands if v and source(v) not in seen]
    return False


def quantized(op: Op) -> bool:
    """Whether an op reads integers already."""
    x = op.operand(0).op
    return x is not None and isinstance(x.kind, Dequantize)


def _residuals(found: Points, value: Value) -> Iterator[Value]:
    """Of the additions that a value comes from, the operands that go through memory."""
    op = source(value).op
    for _ in range(CHAIN):
        if op is None or not isinstance(op.kind, Elementwise):
            return
        if isinstance(op.kind, Add):
            both = [source(v) for v in op.operands if v and const(v) is None]
            if len(both) == 2 and all(_summand(v, found) for v in both):
                yield from both if found.both else (first(*both),)
            return
        op = source(op.operand(0)).op


def _integers(value: Value) -> bool:
    op = source(value).op
    return op is not None and isinstance(op.kind, Dequantize)


def _summand(value: Value, found: Points) -> bool:
    """Whether a value is made by sums, or pooled from one that is.

    Where both operands are to be integers, so may all be that moves make of sums.
    """
    if made_by_sum(value, found):
        return True
    pooled = value.op is not None and isinstance(value.op.kind, MaxPool)
    parts = moved(value) if found.both or pooled else ()
    return bool(parts) and all(_summand(v, found) for v in parts)


def first(a: Value, b: Value) -> Value:
    """Which of two values is made first."""
    at = a.op
    while at:
        if at is b.op:
            return b
        at = at.prev
    return a


def reads_integers(found: Points, use: Use) -> bool:
    """Whether a use of a quantized value is to read its integers.

    Sums and moves do. Others do where a kernel makes integers of the value in any case: floats
    besides would have to be stored, too.
    """
    op = use.op
    if op.kind.name == "return":
        return False
    if use.index == 0 and (summed(op) or recurrent(op)):
        return found.sums(op)
    value = source(op.operand(use.index))
    if op.results and source(op.results[0]) in found.groups and value in moved(op.results[0]):
        return True
    if found.both and isinstance(op.kind, Add):
        return all(v and (source(v) in found.groups or _integers(v)) for v in op.operands)
    return _summand(value, found)
