"""The work of an op: arithmetic, and bytes that must pass between memory and the core.

Both are counted from types alone, as the roofline model wants them (Williams, Waterman, Patterson:
Roofline, CACM 52(4), 2009): what the computation needs at least, whatever its kernel really does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from graphopt.analysis.cost import macs
from graphopt.ir.builtin import Fused
from graphopt.ir.core import Op, Value
from graphopt.ir.layout import parse_layout, physical_shape
from graphopt.ir.types import TensorType
from graphopt.ops.elementwise import Elementwise, Identity
from graphopt.ops.linalg import Attention, Gemm, MatMul
from graphopt.ops.movement import Gather, Slice, Split
from graphopt.ops.nn import LRN, Conv, ConvTranspose, Pool
from graphopt.ops.reduce import ArgReduce, Reduce
from graphopt.ops.winograd import REACH, TILE, ConvWinograd

# Operations an element of the operand: a softmax takes the maximum, subtracts it, takes the
# exponential, sums and divides; a layer norm sums, subtracts, squares and sums, divides, scales;
# a squeeze and excitation sums, and its products are counted besides.
_AN_ELEMENT = {
    "softmax": 5,
    "log_softmax": 5,
    "layer_norm": 7,
    "instance_norm": 7,
    "rms_norm": 4,
    "batch_norm": 2,
    "squeeze_excite": 1,
}
_SCORE = _AN_ELEMENT["softmax"] + 1  # of attention's scores: scaled, then their softmax


@dataclass(frozen=True)
class Work:
    """What a computation needs at least.

    Attributes:
        flops: arithmetic operations: 2 a multiply-add, and 1 an element of every element-wise op,
            whatever its function. Those of integers count as well.
        data_bytes: of activations read and written, each once.
        weight_bytes: of constants read, each once.
        unit: the element type of the arithmetic (`f32`).
    """

    flops: int = 0
    data_bytes: int = 0
    weight_bytes: int = 0
    unit: str = "f32"

    @property
    def bytes(self) -> int:
        """All that moves."""
        return self.data_bytes + self.weight_bytes


def work(op: Op, constant: Callable[[Value], bool]) -> Work:
    """Count the work of an op of static types (a symbolic size counts as 1).

    Args:
        op: any; a fused op is the sum of its region, and only its ends move.
        constant: whether a value is known when compiling.
    """
    data = sum(stored_bytes(r) for r in op.results)
    weights = 0
    for i, v in enumerate(op.operands):
        moved = min(stored_bytes(v), _read_bytes(op, i)) if v else 0
        if v and constant(v):
            weights += moved
        else:
            data += moved
    return Work(flops(op), data, weights, _unit(op))


def _filtering(op: Op) -> int:
    """The products of minimal filtering, and what its transforms add: some 6 ops a number."""
    (n, m, *out), c = _shape(op.results[0]), _shape(op.operands[0])[1]
    tiles = n * math.prod(-(-s // TILE) for s in out) * REACH**2
    bias = n * m * math.prod(out) if op.operands[2] else 0
    return 2 * tiles * c * m + 6 * tiles * (c + m) + bias


def _shape(value: Value | None) -> tuple[int, ...]:
    return (value.tensor.static if value else None) or (0, 0, 0, 0)


def flops(op: Op) -> int:
    """Arithmetic operations of an op, its regions included (see `Work`)."""
    if op.regions:
        return sum(flops(inner) for region in op.regions for inner in region)
    first = _elements(op.operands[0]) if op.operands else 0
    result = _elements(op.results[0]) if op.results else 0
    match op.kind:
        case Conv() | ConvTranspose() | Gemm():
            return 2 * macs(op) + (result if op.operands[2] else 0)
        case ConvWinograd():
            return _filtering(op)
        case Attention():
            return 2 * macs(op) + _SCORE * _scores(op)
        case Pool(kernel=window):
            return result * math.prod(window)
        case LRN(size=size):
            return first * (size + 4)
        case Reduce() | ArgReduce():
            return first
        case Elementwise():
            return 0 if isinstance(op.kind, Identity) else result
        case _:
            return 2 * macs(op) + first * _AN_ELEMENT.get(op.kind.name, 0)


def stored_bytes(value: Value) -> int:
    """Bytes of a tensor as it is stored, padding of its layout included; 0 if it isn't static."""
    type_ = value.type
    if not isinstance(type_, TensorType) or type_.static is None:
        return 0
    return (math.prod(physical_shape(type_.static, type_.layout)) * type_.dtype.bits + 7) // 8


def _read_bytes(op: Op, index: int) -> int:
    """Bytes that the op reads of its operand: all, but where it picks some elements."""
    if isinstance(op.kind, Fused):
        arg = op.regions[0].args[index]
        return sum(_read_bytes(use.op, use.index) for use in arg.uses)
    value = op.operand(index)
    whole = stored_bytes(value)
    if index == 0 and isinstance(op.kind, Gather | Slice | Split):
        return min(whole, sum(stored_bytes(r) for r in op.results))
    if index == 0 and isinstance(op.kind, Conv):
        return math.ceil(whole * _visited(op))
    return whole


def _visited(op: Op) -> float:
    """The share of its input that a convolution reads: strides beyond the kernel leave some out."""
    kind, weight = op.kind, op.operand(1).type
    assert isinstance(kind, Conv)
    window = weight.static[2:] if isinstance(weight, TensorType) and weight.static else ()
    pairs = zip(window, kind.strides, strict=False)
    return math.prod(min(1.0, size / stride) for size, stride in pairs)


def _scores(op: Op) -> int:
    """Elements of q k^T."""
    q, k = (v.type for v in (op.operand(0), op.operand(1)))
    if not isinstance(q, TensorType) or not isinstance(k, TensorType) or not (q.shape and k.shape):
        return 0
    width = q.shape[-1] if isinstance(q.shape[-1], int) else 1
    length = k.shape[-2] if isinstance(k.shape[-2], int) else 1
    return _elements(op.operand(0)) // max(width, 1) * length


def _elements(value: Value | None) -> int:
    """Elements of a tensor; a size that isn't known counts as 1."""
    shape = value.type.shape if value and isinstance(value.type, TensorType) else None
    return math.prod(d if isinstance(d, int) else 1 for d in shape or ())


def _unit(op: Op) -> str:
    """The element type of the op that does most of the arithmetic; that of all bytes is i8.

    Products of bfloat16 by bfloat16 are those whose weights are stored in pairs of it, and those of
    attentions that round what they multiply v by.
    """
    most = max((op, *_leaves(op)), key=lambda o: (not o.regions, flops(o)))
    if isinstance(most.kind, Conv | Gemm | MatMul) and _in_pairs(most.operand(1)):
        return "bf16"
    if isinstance(most.kind, Attention) and most.kind.rounded:
        return "bf16"
    value = next((v for v in (*most.operands, *most.results) if v), None)
    unit = str(value.type.dtype) if value and isinstance(value.type, TensorType) else "f32"
    return "i8" if unit == "u8" else unit


def _in_pairs(weights: Value) -> bool:
    blocks = parse_layout(weights.tensor.layout).blocks if weights.tensor.layout else ()
    return len(blocks) > 1 and blocks[-1][1] == 2


def _leaves(op: Op) -> Iterator[Op]:
    """The ops in its regions that have none themselves."""
    return (inner for region in op.regions for inner in region.walk() if not inner.regions)
