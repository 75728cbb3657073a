"""Which operands are rounded to bfloat16, so that a target multiplies it, or reads half the bytes.

    f(x, w) -> f(widen(round(x)), w)
    attention(q, k, v) -> attention{rounded}(widen(round(q)), widen(round(k)), widen(round(v)))

f is a convolution or product by rounded weights, or a kernel that waits for vectors of x: a
depthwise convolution, a pool, a squeeze and excitation. Of an attention both products are of
bfloat16, the second one's left side being the softmax's result, rounded. Memory then holds round(x)
alone, for all that read x. What only moves elements moves the rounded ones: move(widen(h)) ->
widen(move(h)), which is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from graphopt.analysis.price import Costs, graph_of, graph_with, stand_in
from graphopt.ir.builtin import Const, Opaque, Return
from graphopt.ir.core import Graph, Op, OpKind, Value
from graphopt.ir.data import Data, nbytes
from graphopt.ir.types import DType, TensorType
from graphopt.ops.elementwise import Cast
from graphopt.ops.linalg import Attention
from graphopt.ops.movement import Concat, Reshape, Slice, Split, Squeeze, Transpose, Unsqueeze
from graphopt.ops.unary import is_half
from graphopt.pipeline import Context
from graphopt.rewrite import Remark

MOVES = (Reshape, Squeeze, Unsqueeze, Transpose, Concat, Split, Slice)
GAIN = 0.95  # of the time with a float32 operand: what isn't faster than that isn't worth its error
VECTORS = frozenset({"max_pool", "avg_pool", "squeeze_excite"})
FEWEST = 16  # channels that a group sums over: fewer don't fill vectors of pairs
FEWEST_ROWS = 4  # of an attention: of fewer, making the keys ready takes all the time
ERROR = "each number within 2^-9 of itself"


def round_operands(
    graph: Graph, ctx: Context, store: Callable[[Op, Data], Value], *, always: bool
) -> Iterator[Remark]:
    """Round the operands of the layers that are faster so; of all that can be, if `always`.

    `store` rounds a constant. Filters too small to be rounded for their bytes are, where the
    layer is faster for it.
    """
    layers = [op for op in graph if _multiplies(op) or _attends(op)]
    if not always:
        wanted = (_multiplies, _few_weights, _attends, _by_vectors)
        layers = [op for op in graph if any(wants(op) for wants in wanted)]
        layers = list(_faster(graph, layers, ctx.costs.described())) if ctx.costs else []
    rounding = Rounding()
    for op in layers:
        if not ctx.permit("half-products", op.loc):
            continue
        told = f"{op.operand(0).type}, {ERROR}"
        if _few_weights(op):
            op.set_operand(1, _rounded_weights(op.operand(1), store))
        for i in _rounded(op):
            if not is_half(op.operand(i)):
                rounding.round(op.operand(i))
        op.kind = _kind(op)
        yield Remark("half-products", op.loc, True, told)
    rounding.forget()


def _multiplies(op: Op) -> bool:
    """Whether an op multiplies what isn't rounded by weights that are, as a matrix unit can."""
    kind: Any = op.kind
    if kind.name not in ("conv", "conv_transpose", "matmul", "gemm"):
        return False
    return is_half(op.operand(1)) and _may_multiply(op)


def _few_weights(op: Op) -> bool:
    """Whether an op is such a convolution but for its weights, which are constants in float32."""
    w = op.operand(1).op if op.kind.name == "conv" else None
    if w is None or not isinstance(w.kind, Const) or w.result.tensor.dtype is not DType.f32:
        return False
    return math.prod(w.result.tensor.static or ()) >= FEWEST**2 and _may_multiply(op)


def _rounded_weights(value: Value, store: Callable[[Op, Data], Value]) -> Value:
    maker = value.op
    assert maker and isinstance(maker.kind, Const)
    return store(maker, maker.kind.data)


def _may_multiply(op: Op) -> bool:
    """The same of an op by its operand and its sizes."""
    kind: Any = op.kind
    if not (_is_free(op.operand(0)) or _is_given(op.operand(0))):
        return False
    w, x = op.operand(1).tensor, op.operand(0).tensor
    if w.static is None or x.static is None or x.dtype is not DType.f32:
        return False
    if kind.name == "conv":
        return kind.group == 1 or w.static[1] >= FEWEST
    if kind.name == "conv_transpose":
        return kind.group == 1 and w.rank == 4
    if w.rank != 2 or getattr(kind, "trans_a", False):
        return False
    return math.prod(x.static[:-1]) > 1  # else the weights are waited for


def _attends(op: Op) -> bool:
    """Whether an op is an attention in float32 whose operands may be rounded, of rows enough."""
    if not isinstance(op.kind, Attention) or op.kind.rounded:
        return False
    types = [op.operand(i).tensor for i in range(3)]
    if any(t.static is None or t.dtype is not DType.f32 for t in types):
        return False
    return all(map(_may_move, map(op.operand, range(3)))) and _rows(types[0]) >= FEWEST_ROWS


def _rows(t: TensorType) -> int:
    return (t.static or (0, 0))[-2]


def _rounded(op: Op) -> range:
    """The operands of a layer that are rounded: what isn't weights."""
    return range(3 if isinstance(op.kind, Attention) else 1)


def _kind(op: Op) -> OpKind:
    """A layer's kind, once its operands are rounded."""
    return replace(op.kind, rounded=True) if isinstance(op.kind, Attention) else op.kind


def _by_vectors(op: Op) -> bool:
    """Whether an op's kernel waits for the vectors of its operand."""
    kind: Any = op.kind
    depthwise = kind.name == "conv" and kind.group == (op.operand(1).tensor.static or (0,))[0]
    if not depthwise and kind.name not in VECTORS:
        return False
    x = op.operand(0).tensor
    return _is_free(op.operand(0)) and x.dtype is DType.f32 and x.static is not None


def _is_free(value: Value) -> bool:
    """Whether a value isn't rounded, is made here and read by kernels: inputs and outputs stay."""
    if value.op is None or isinstance(value.op.kind, Const | Opaque) or is_half(value):
        return False
    graph = value.op.graph
    return not any(
        isinstance(use.op.kind, Return | Opaque) or use.op.graph is not graph for use in value.uses
    )


def _is_given(value: Value) -> bool:
    """Whether a value is an input of the model, which is rounded where it is read."""
    return value.op is None and all(use.op.kind.name != "return" for use in value.uses)


def _may_move(value: Value) -> bool:
    return is_half(value) or _is_free(value)


def _faster(graph: Graph, layers: Sequence[Op], costs: Costs) -> Iterator[Op]:
    """The layers that bfloat16 operands make faster."""
    far = sum(nbytes(op.kind.data) for op in graph if isinstance(op.kind, Const))
    for op in layers:
        wide = seconds(op, costs, far, half=False, alone=filled(op))
        short = filled(op) or _alone(op)
        if _few_weights(op):
            _short_weights(short, next(one for one in short if one.kind == op.kind))
        if seconds(op, costs, far, half=True, alone=short) < GAIN * wide:
            yield op


def seconds(
    op: Op, costs: Costs, footprint: int, *, half: bool, alone: Graph | None = None
) -> float:
    """The price of a layer whose operand is bfloat16 or float32, or of what stands for it.

    What makes the operand rounds it on the way.
    """
    alone = alone or _alone(op)
    if half:
        twin = next(one for one in alone if one.kind == op.kind)
        twin.kind = _kind(op)
        for i in _rounded(op):
            given = alone.add_arg(replace(op.operand(i).tensor, dtype=DType.bf16))
            wide = alone.insert(Op(Cast(DType.f32), [given]), alone.first)
            twin.set_operand(i, wide.result)
    return costs.price(alone, footprint).seconds


def _alone(op: Op) -> Graph:
    """A layer with its rounded constants as a graph."""
    fixed = op.operands[_rounded(op).stop :]
    return graph_of([*(v.op for v in fixed if v and v.op and isinstance(v.op.kind, Cast)), op])


def filled(op: Op, *, short: bool = False) -> Graph | None:
    """A convolution of fewer results than a block of channels, with as many as fill it.

    Alone it would make a dense result; inside a model its readers take blocks, filled with zeros.
    `short`: its weights are numbers of bfloat16, though their type doesn't say so.
    """
    kind: Any = op.kind
    w = op.operand(1).tensor if kind.name == "conv" else None
    outs = (w.static or (FEWEST,))[0] if w else FEWEST
    if w is None or outs >= FEWEST or kind.group > 1:
        return None
    x, b = op.operand(0).tensor, op.operands[2]
    types = [x, resized(w, 0, FEWEST), resized(b and b.tensor, 0, FEWEST)]
    graph = graph_with(kind, types, [1, 2])
    if short or is_half(op.operand(1)):
        _short_weights(graph, next(one for one in graph if one.kind == kind))
    return graph


def resized(t: TensorType | None, axis: int, size: int) -> TensorType | None:
    """A type with another size of an axis."""
    if t is None or t.shape is None:
        return t
    return replace(t, shape=(*t.shape[:axis], size, *t.shape[axis + 1 :]))


def _short_weights(graph: Graph, op: Op) -> None:
    """Let a layer of a graph to be priced have weights in bfloat16."""
    shape = op.operand(1).tensor.static
    assert shape is not None
    half = graph.insert(Op(Const(stand_in(DType.bf16, shape, graph))), op)
    op.set_operand(1, graph.insert(Op(Cast(DType.f32), half.results), op).result)


@dataclass
class Rounding:
    """The rounded values of a graph, by the float32 ones that they replaced."""

    halves: dict[Value, Value] = field(default_factory=dict[Value, Value])
    wides: list[Op] = field(default_factory=list[Op])

    def round(self, value: Value) -> Value:
        """Let everything that reads a value read it rounded; give the bfloat16 value."""
        op = value.op
        if op and is_half(value):
            return op.operand(0)
        if op and isinstance(op.kind, MOVES) and all(map(_may_move, (*op.results, *_read(op)))):
            self._move(op)
            return self.halves[value]
        first = value.uses[0].op.graph
        return self.between(value, op.next if op else first and first.first)

    def between(self, value: Value, before: Op | None) -> Value:
        """value -> widen(round(value)), for all that read it."""
        uses = list(value.uses)
        graph = uses[0].op.graph
        assert graph
        loc = value.op.loc if value.op else uses[0].op.loc
        down = Op(Cast(DType.bf16), [value], loc=loc, hints=[f"{value.hint}_half"])
        graph.insert(down, before)
        wide = self._widen(value, down.result, down.next)
        for use in uses:
            use.op.set_operand(use.index, wide)
        return down.result

    def _move(self, op: Op) -> None:
        """move(widen(h)) -> widen(move(h)), of all results."""
        graph = op.graph
        assert graph
        parts = [self.round(v) for v in _read(op)]
        hints = [f"{r.hint}_half" for r in op.results]
        moved = graph.insert(Op(op.kind, parts, loc=op.loc, hints=hints), op)
        for old in op.results:
            old.replace_all_uses_with(self._widen(old, moved.results[old.index], op))
        graph.erase(op)

    def _widen(self, value: Value, half: Value, before: Op | None) -> Value:
        """Of the bfloat16 value that stands for a value, the float32."""
        by = half.op
        assert by and by.graph
        wide = Op(Cast(DType.f32), [half], loc=by.loc, hints=[value.hint])
        self.halves[value] = half
        self.wides.append(by.graph.insert(wide, before))
        return wide.result

    def forget(self) -> None:
        """Erase what made float32 of values that only move."""
        for op in self.wides:
            if op.graph and not op.result.uses:
                op.graph.erase(op)


def _read(op: Op) -> Iterable[Value]:
    return (v for v in op.operands if v)
