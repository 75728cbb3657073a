"""Putting the ops of a form in a layer's place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, repeat

import numpy as np

from graphopt.analysis.price import stand_in
from graphopt.ir.builtin import Const, Return
from graphopt.ir.core import Graph, Op, OpKind, Value
from graphopt.ir.data import Data, Inline
from graphopt.ir.types import Array, DType
from graphopt.ops.linalg import Gemm
from graphopt.passes.layers.forms import Form, Size, family
from graphopt.passes.quantize.swap import swap
from graphopt.rewrite import const


@dataclass(frozen=True)
class Weights:
    """Those of a form, and what is added to the bias of each layer of a family.

    `shifts`: float64 [groups, outs] each; None: 0.
    """

    data: tuple[Data, ...]
    shifts: tuple[Array | None, ...]


def example(form: Form, size: Size) -> Graph:
    """The ops of a form in a graph of their own, to be priced; any weights stand for theirs."""
    op, graph = form.site.op, Graph(name="priced")
    x = graph.add_arg(op.operand(0).type)
    insert = _inserter(graph, None, op)
    weights = [insert(Const(stand_in(DType.f32, s, graph))) for s in form.shapes(size)]
    old = op.operands[2] if len(op.operands) > 2 else None
    data = const(old)
    bias = insert(Const(data)) if data else old and graph.add_arg(old.type)
    graph.insert(Op(Return(), [form.build(insert, x, weights, bias)]))
    return graph


def replace_layers(ops: Sequence[Op], form: Form, weights: Weights) -> None:
    """Compute a layer, and those with the same weights, by a form: all read the same constants.

    Results keep their names, values on the way get `NAME/n`.

    Args:
        ops: the layers, of the same kinds and types as those that the form was made for, in the
            order of their graph.
        form: how to compute them.
        weights: fitted.
    """
    made: Sequence[Value] = ()
    for op, one, shift in zip(ops, family(form), weights.shifts, strict=True):
        made = _replace(op, one, weights.data, shift, made)


def _replace(
    op: Op, form: Form, weights: Sequence[Data], shift: Array | None, made: Sequence[Value]
) -> Sequence[Value]:
    """Compute one layer by a form; `made` are the constants of a layer before it, if there was one.

    Returns:
        The constants.
    """
    graph, name = op.graph, op.result.hint
    assert graph
    insert = _inserter(graph, op, op)
    kind, bias = _biased(op, shift, insert)
    if bias and not bias.hint:
        bias.hint = f"{name}/b" if name else ""
    form = replace(form, site=replace(form.site, op=_of_kind(op, kind)))
    data = made or [insert(Const(d)) for d in weights]
    before = op.prev
    new = form.build(insert, op.operand(0), data, bias)
    first = before.next if before else graph.first
    _name(first, op, new, _unused(graph, name) if name else repeat(""))
    for i, value in enumerate(() if made else data):
        value.hint = f"{name}/w{i + 1}" if name else ""
    op.result.replace_all_uses_with(new)
    new.hint = name
    for i, old in enumerate(op.operands):
        if i and old:
            swap(op, i, op.operand(0))  # its weight and bias go with it
    graph.erase(op)
    return data


def _name(first: Op | None, end: Op, new: Value, names: Iterator[str]) -> None:
    """Give names to results from an op on, but to the last one."""
    while first and first is not end:
        for result in first.results if first is not new.op else ():
            result.hint = next(names)
        first = first.next


def _unused(graph: Graph, name: str) -> Iterator[str]:
    """`NAME/1`, `NAME/2`, ...: those that no value has, of which a pass before made some."""
    taken = {r.hint for op in graph for r in op.results}
    return (n for i in count(1) if (n := f"{name}/{i}") not in taken)


def _inserter(graph: Graph, before: Op | None, like: Op) -> Callable[..., Value]:
    """A `make` of `Form.build`."""

    def insert(kind: OpKind, *operands: Value | None) -> Value:
        return graph.insert(Op(kind, operands, loc=like.loc), before).result

    return insert


def _of_kind(op: Op, kind: OpKind) -> Op:
    """An op like one, of another kind; in no graph."""
    return op if op.kind is kind else Op(kind, op.operands, loc=op.loc)


def _biased(
    op: Op, shift: Array | None, insert: Callable[..., Value]
) -> tuple[OpKind, Value | None]:
    """A layer's kind and bias after something is added to its sums."""
    bias = op.operands[2] if len(op.operands) > 2 else None
    if shift is None or not np.any(shift):
        return op.kind, bias
    row = shift.reshape(-1)
    if not isinstance(op.kind, Gemm):
        return op.kind, insert(Const(Inline(_sum(bias, row, 1.0))))
    new = _sum(bias, op.kind.alpha * row, op.kind.beta)
    return replace(op.kind, beta=1.0), insert(Const(Inline(new)))


def _sum(bias: Value | None, row: Array, beta: float) -> Array:
    """Beta * bias + row, float32 [M]."""
    data = const(bias)
    old = data.numpy().astype(np.float64).reshape(-1) * beta if data else 0.0
    return (old + row).astype(np.float32)
