"""LSTM and GRU layers in int8: their weights, and the product with the input sequence.

    lstm(x, w, r, b) -> lstm(dequantize(quantize(x)), bytes(w), bytes(r), b),
    bytes(w) = reshape(dequantize(w'))

Both weights are s8 with a scale for each gate's unit (and direction). The input's product is one
matrix product over the whole sequence (see the pass `recurrent`), which is summed in integers where
the target gains by it. The recurrence stays in floats: what its state is rounded by would come back
each step. ONNX's DequantizeLinear has scales along one axis alone, so weights [D,GH,K] are stored
as [D*GH,K] and reshaped.
"""

from __future__ import annotations

import math

import numpy as np

from graphopt.analysis.price import Costs, graph_with
from graphopt.ir.builtin import Const, Opaque
from graphopt.ir.core import Graph, Op, OpKind, Value
from graphopt.ir.data import Computed, Data, Inline, size
from graphopt.ir.types import Array, DType, TensorType
from graphopt.ops.linalg import MatMul
from graphopt.ops.movement import Reshape
from graphopt.ops.quant import Dequantize, MatMulInteger, Quantize
from graphopt.passes.quantize.swap import swap
from graphopt.passes.quantize.weights import TINY
from graphopt.rewrite import const

KINDS = frozenset({"LSTM", "GRU"})
PRODUCT = "with its input's product in int8"
WEIGHTS = "with int8 weights"
WEIGHTED = (1, 2)  # the operands w and r


def recurrent(op: Op) -> bool:
    """Whether an op is an LSTM or GRU layer of float32 constants w [D,GH,I] and r [D,GH,H]."""
    kind = op.kind
    if not isinstance(kind, Opaque) or kind.domain or kind.op_type not in KINDS:
        return False
    found = [const(v) for v in op.operands[1:3]]
    return len(found) == 2 and all(
        d is not None and d.dtype is DType.f32 and len(d.shape) == 3 for d in found
    )


def recurrents(graph: Graph) -> list[Op]:
    """Those layers, in order."""
    return [op for op in graph if recurrent(op)]


def made(op: Op) -> Value:
    """What others read of a layer: the sequence, or else a last state."""
    return next((r for r in op.results if r.use_count), op.results[0])


def offer(op: Op, costs: Costs | None, product: bool) -> tuple[str, float, str]:
    """What to propose, its gain, and the gain's unit: seconds of the product, or bytes."""
    x, w = op.operand(0).tensor, _data(op, 1)
    if not product:
        return WEIGHTS, saved(op), "bytes"
    if costs is None or x.static is None:
        return PRODUCT, saved(op), "bytes"
    d, rows, width = w.shape
    kinds: list[tuple[OpKind, DType, DType]] = [
        (MatMul(), DType.f32, DType.f32), (MatMulInteger(), DType.u8, DType.i8)
    ]  # fmt: skip
    before, after = (
        costs.price(graph_with(kind, [TensorType(a, x.shape), TensorType(b, (width, d * rows))],
                               [1])).seconds
        for kind, a, b in kinds
    )  # fmt: skip
    after += costs.price(_rounding(x)).seconds
    return (PRODUCT, before - after, "s") if after < before else (WEIGHTS, saved(op), "bytes")


def saved(op: Op) -> float:
    """Bytes that the weights take less."""
    return float(sum(3 * size(_data(op, i)) for i in WEIGHTED))


def left(graph: Graph) -> tuple[str, ...]:
    """A note on layers that stay as they are."""
    found = recurrents(graph)
    if not found:
        return ()
    names = ", ".join(op.loc.nodes[-1] if op.loc.nodes else made(op).hint for op in found)
    return (f"{names}: quantize{{recurrent=weights}} would store the weights in bytes, "
            f"{sum(map(saved, found)) / 1000:.0f} kB less",)  # fmt: skip


def _rounding(x: TensorType) -> Graph:
    """The quantization of the input."""
    types = [TensorType(DType.f32, x.shape), TensorType(DType.f32, ())]
    return graph_with(Quantize(DType.u8), types, [1])


def error(op: Op, bits: int = 8) -> float:
    """The noise-to-signal ratio of the weights, which is known without samples."""
    noise = signal = 0.0
    for index in WEIGHTED:
        w = _rows(_data(op, index))
        scale = _scales(w, bits)
        noise += float(np.sum(np.square(_integers(w, scale, bits) * scale - w, dtype=np.float64)))
        signal += float(np.sum(np.square(w, dtype=np.float64)))
    return noise / max(signal, 1e-30)


def lower(op: Op, bits: int, per_channel: bool) -> None:
    """Let a layer read its weights as bytes."""
    graph = op.graph
    assert graph
    for index in WEIGHTED:
        data, hint = _data(op, index), op.operand(index).hint
        shape = (math.prod(data.shape[:2]), data.shape[2])
        scale = _scales(_rows(data), bits, per_channel)

        def bytes_(data: Data = data, scale: Array = scale) -> Array:
            return _integers(_rows(data), scale, bits)

        def make(kind: OpKind, *operands: Value) -> Value:
            return graph.insert(Op(kind, operands, loc=op.loc), op).result

        stored = make(Const(Computed(DType.i8, shape, bytes_)))
        stored.hint = f"{hint}_bytes" if hint else ""
        wide = make(Dequantize(0), stored, make(Const(Inline(scale.reshape(-1)))))
        swap(op, index, make(Reshape(tuple(data.shape)), wide))


def _data(op: Op, index: int) -> Data:
    data = const(op.operand(index))
    assert data
    return data


def _rows(data: Data) -> Array:
    return data.numpy().reshape(-1, data.shape[2])


def _scales(w: Array, bits: int, per_channel: bool = True) -> Array:
    """By row, float32 [rows,1]."""
    top = np.abs(w).max(axis=1, keepdims=True, initial=0)
    if not per_channel:
        top = np.full_like(top, top.max(initial=0))
    return np.maximum(top / np.float32(_most(bits)), TINY).astype(np.float32)


def _integers(w: Array, scale: Array, bits: int) -> Array:
    return np.clip(np.rint(w / scale), -_most(bits), _most(bits)).astype(np.int8)


def _most(bits: int) -> int:
    return 2 ** (bits - 1) - 1
