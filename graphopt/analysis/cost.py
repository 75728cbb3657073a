"""What an op costs: multiply-accumulates, parameters, bytes moved. Exact counts from types."""

from __future__ import annotations

import math
from collections.abc import Iterable

from graphopt.analysis.einsum import einsum_macs
from graphopt.ir.builtin import Const, Opaque
from graphopt.ir.core import Graph, Op
from graphopt.ir.data import nbytes, size
from graphopt.ir.types import TensorType, ValueType, product
from graphopt.ops.excite import SqueezeExcite
from graphopt.ops.linalg import Attention, Gemm, MatMul
from graphopt.ops.nn import Conv, ConvTranspose
from graphopt.ops.quant import ConvInteger, MatMulInteger
from graphopt.ops.recurrent import GRUScan, LSTMScan
from graphopt.ops.winograd import ConvWinograd


def macs(op: Op) -> int:
    """Multiply-accumulates of convolutions, products, Einsum, LSTMs and the like; 0 for the rest.

    A symbolic size counts as 1. A fused op is the sum of its region.
    """
    inner = sum(macs(o) for region in op.regions for o in region)
    types = [v.type if v else None for v in op.operands]
    match op.kind:
        case Conv() | ConvInteger():
            return inner + _size(op.results[0].type) * _size(types[1], 1)
        case ConvWinograd():  # as the convolution that it is
            return inner + _size(op.results[0].type) * 9 * _dims(types[1])[2]
        case ConvTranspose():
            return inner + _size(types[0]) * _size(types[1], 1)
        case MatMul() | MatMulInteger() | Gemm():
            return inner + _size(op.results[0].type) * _inner(op)
        case Attention():
            q, v = types[0], types[2]
            return inner + _attention(q, v)
        case SqueezeExcite():
            return inner + math.prod(_dims(types[0])[:1]) * (_size(types[1]) + _size(types[2]))
        case LSTMScan() | GRUScan():  # xw [T, B, D, G, H]
            steps, batch, _, gates, units = _dims(types[0])
            return inner + steps * batch * gates * units * units
        case Opaque("LSTM" | "GRU" | "RNN", ""):  # X [steps, batch, in], W and R for all gates
            turns = math.prod(_dims(types[0])[:2])
            return inner + turns * (_size(types[1]) + _size(types[2]))
        case Opaque("Einsum", "") as kind:
            return inner + einsum_macs(str(kind.attr("equation")), [_dims(t) for t in types])
        case _:
            return inner


def _dims(type_: ValueType | None) -> tuple[int, ...]:
    shape = type_.shape if isinstance(type_, TensorType) else None
    return tuple(d if isinstance(d, int) else 1 for d in shape or ())


def _size(type_: ValueType | None, skip: int = 0) -> int:
    total = product(_dims(type_)[skip:])
    return total if isinstance(total, int) else 0


def _inner(op: Op) -> int:
    a = _dims(op.operand(0).type)
    transposed = isinstance(op.kind, Gemm) and op.kind.trans_a
    return (a[-2] if transposed else a[-1]) if a else 0


def _attention(q: ValueType | None, v: ValueType | None) -> int:
    left, right = _dims(q), _dims(v)
    if len(left) < 2 or len(right) < 2:
        return 0
    return _size(q) * right[-2] + _size(q) // max(left[-1], 1) * right[-2] * right[-1]


def total_macs(graph: Graph) -> int:
    """Multiply-accumulates of a graph; the branches of an If and one turn of a Loop count once."""
    return sum(macs(op) for op in graph)


def parameters(graph: Graph) -> int:
    """Elements of float constants, regions included."""
    return sum(size(k.data) for k in constants(graph) if k.data.dtype.is_float)


def weight_bytes(graph: Graph) -> int:
    """Bytes of all constants, regions included."""
    return sum(nbytes(k.data) for k in constants(graph))


def constants(graph: Graph) -> Iterable[Const]:
    """The constants of a graph and its regions."""
    return (op.kind for op in graph.walk() if isinstance(op.kind, Const))


def operators(graph: Graph) -> int:
    """ONNX nodes that the graph stands for: all ops but constants and returns, regions included."""
    skip = ("const", "return", "fused", "reorder")
    return sum(op.kind.name not in skip for op in graph.walk())


def op_counts(graph: Graph) -> dict[str, int]:
    """Operators by kind (an opaque one by its ONNX type), most frequent first."""
    found: dict[str, int] = {}
    for op in graph.walk():
        if op.kind.name not in ("const", "return", "fused"):
            name = getattr(op.kind, "op_type", op.kind.name)
            found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def peak_activation_bytes(graph: Graph) -> int:
    """The most bytes of activations alive at once, in program order, inputs included.

    Symbolic sizes count as 1; results of regions inside an op are not counted.
    """
    order = {op: i for i, op in enumerate(graph)}
    last: dict[object, int] = {}
    for op, i in order.items():
        last.update((v, i) for v in op.operands if v)
    events = [0] * (len(order) + 2)
    values = [(a, 0) for a in graph.args]
    values += [
        (r, i) for op, i in order.items() if not isinstance(op.kind, Const) for r in op.results
    ]
    for value, born in values:
        if isinstance(value.type, TensorType):
            bytes_ = _size(value.type) * value.type.dtype.bits // 8
            events[born] += bytes_
            events[max(last.get(value, born), born) + 1] -= bytes_
    peak = alive = 0
    for change in events:
        alive += change
        peak = max(peak, alive)
    return peak
