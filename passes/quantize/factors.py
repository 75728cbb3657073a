"""Factors by channel between a value and the layers that read it, where no maker can take them in.

    f(x) -> f'(x * by), f' = f with inputs divided by `by`

The product is one more step of the kernel that makes the layers' integers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.ir.builtin import Const
from graphopt.ir.core import Graph, Op, Value
from graphopt.ir.data import Inline
from graphopt.ir.types import Array, DType
from graphopt.ops.elementwise import Add, Clip, Elementwise, Mul, Relu
from graphopt.ops.nn import LayerNorm, RMSNorm
from graphopt.passes.fuse.weights import Linear
from graphopt.passes.quantize.chains import Chain
from graphopt.passes.quantize.channels import Reader, layer
from graphopt.rewrite import const

NORMS = (LayerNorm, RMSNorm)
INTEGERS = (Relu, Clip)  # what ONNX Runtime computes with the layer before it, in integers


def products(graph: Graph, found: Sequence[Chain]) -> list[Chain]:
    """The values that a factor may come after, as chains without makers.

    They are what normalisations make, and what activation functions make for layers alone: where
    others read that too, it would have to be stored twice.

    Args:
        graph: float.
        found: chains; their readers need no factors.
    """
    known = {r.linear.op for chain in found for r in chain.readers}
    readers: dict[Value, list[Linear]] = {}
    for op in graph:
        at = layer(op) if op not in known else None
        if at and at.x.tensor.dtype is DType.f32 and at.x.op and at.inputs:
            readers.setdefault(at.x, []).append(at)
    return [
        Chain(layers[0].inputs, (), tuple(Reader(at, np.arange(at.inputs)) for at in layers))
        for x, layers in readers.items()
        if len({(at.inputs, at.axis) for at in layers}) == 1 and _free(x, layers)
    ]  # fmt: skip


def _free(x: Value, layers: Sequence[Linear]) -> bool:
    """Whether a factor costs next to nothing after a value."""
    op = x.op
    if op is None:
        return False
    if isinstance(op.kind, NORMS):
        return True
    if not isinstance(op.kind, Elementwise) or isinstance(op.kind, INTEGERS):
        return False
    if {u.op for u in x.uses} != {at.op for at in layers}:
        return False
    vary = [v for v in op.operands if v and const(v) is None]
    return not isinstance(op.kind, Add) or len(vary) == 1  # a sum of two: a residual addition


def multiply_before(graph: Graph, chain: Chain, by: Array) -> None:
    """Let the readers of a chain read its value times `by` (float64 [count])."""
    first = chain.readers[0].linear
    maker, rank = first.x.op, first.x.tensor.rank or 0
    before = maker.next if maker else graph.first
    row = by.astype(np.float32).reshape(-1, *(1,) * (rank - 1 - first.axis % rank))
    factor = graph.insert(Op(Const(Inline(row)), loc=first.op.loc), before)
    scaled = graph.insert(Op(Mul(), [first.x, factor.result], loc=first.op.loc), before)
    for reader in chain.readers:
        reader.linear.op.set_operand(0, scaled.result)
