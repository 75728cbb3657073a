"""Tables of vectors (embeddings) in bytes: the rows that are read become floats, no others.

    gather(w, i) -> cast(gather(q, i)) * gather(s, i), q = round(w / s), s = max|w| / 127 by row

Every row has a scale of its own, so that rare words' small vectors lose no more than others. This
isn't QDQ: a `dequantize` before the `gather` would make floats of the whole table in each run.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir.builtin import Const
from graphopt.ir.core import Graph, Op, OpKind, Value
from graphopt.ir.data import Computed, Data, size
from graphopt.ir.types import Array, DType
from graphopt.ops.elementwise import Cast, Mul
from graphopt.ops.movement import Gather
from graphopt.passes.quantize.swap import swap
from graphopt.passes.quantize.weights import TINY
from graphopt.rewrite import const

WHAT = "table in int8"
LEAST = 1 << 16  # numbers of a table that is worth it
MOST = 127
ROWS = 4096  # taken at a time


def tables(graph: Graph) -> list[Op]:
    """The gathers of rows of large constant tables of float32."""
    return [op for op in graph if isinstance(op.kind, Gather) and _table(op)]


def _table(op: Op) -> Data | None:
    assert isinstance(op.kind, Gather)
    data = const(op.operand(0))
    if data is None or data.dtype is not DType.f32 or op.kind.axis != 0:
        return None
    return data if len(data.shape) == 2 and size(data) >= LEAST else None


def saved(op: Op) -> float:
    """Bytes that a table takes less."""
    data = const(op.operand(0))
    assert data
    return float(3 * size(data) - 4 * data.shape[0])


def error(op: Op) -> float:
    """The noise-to-signal ratio of a table."""
    data = const(op.operand(0))
    assert data
    w, noise, signal = data.numpy(), 0.0, 0.0
    for start in range(0, len(w), ROWS):
        part = w[start : start + ROWS]
        scale = _scales(part)
        noise += float(np.sum(np.square(_integers(part, scale) * scale - part, dtype=np.float64)))
        signal += float(np.sum(np.square(part, dtype=np.float64)))
    return noise / max(signal, 1e-30)


def lower(graph: Graph, ops: list[Op]) -> None:
    """Let gathers read bytes."""
    made: dict[Value, tuple[Value, Value]] = {}
    for op in ops:
        table = op.operand(0)
        if table not in made:
            made[table] = _stored(graph, op)
        bytes_, scales = made[table]
        loc, indices = op.loc, op.operand(1)

        def make(kind: OpKind, *operands: Value, at: Op = op) -> Value:
            return graph.insert(Op(kind, operands, loc=at.loc), at).result

        wide = make(Cast(DType.f32), make(op.kind, bytes_, indices))
        hint, op.result.hint = op.result.hint, ""
        product = Op(Mul(), [wide, make(op.kind, scales, indices)], loc=loc, hints=[hint])
        op.result.replace_all_uses_with(graph.insert(product, op).result)
        swap(op, 0, scales)  # the old table goes
        graph.erase(op)


def _stored(graph: Graph, op: Op) -> tuple[Value, Value]:
    """The table's integers (s8 [V,D]) and scales (f32 [V,1])."""
    made = op.operand(0).op
    data = const(op.operand(0))
    assert data and made
    integers = Computed(DType.i8, tuple(data.shape), lambda: _all(data))
    scales = Computed(DType.f32, (data.shape[0], 1), lambda: _scales(data.numpy()))
    parts = [Op(Const(d), loc=op.loc, hints=[f"{made.result.hint}_{name}"])
             for name, d in (("bytes", integers), ("scales", scales))]  # fmt: skip
    first, second = (graph.insert(part, made).result for part in parts)
    return first, second


def _all(data: Data) -> Array:
    w = data.numpy()
    return _integers(w, _scales(w))


def _scales(w: Array) -> Array:
    """By row, float32 [V,1]."""
    return np.maximum(np.abs(w).max(axis=1, keepdims=True) / MOST, TINY).astype(np.float32)


def _integers(w: Array, scale: Array) -> Array:
    return np.clip(np.rint(w / scale), -MOST, MOST).astype(np.int8)
