"""What is added to a quantized layer's result, by output channel."""

from __future__ import annotations

import numpy as np

from graphopt.ir.builtin import Const
from graphopt.ir.core import Op, Use, Value
from graphopt.ir.data import Data, Inline
from graphopt.ir.types import Array
from graphopt.ops.elementwise import Add
from graphopt.ops.linalg import MatMul
from graphopt.ops.quant import Dequantize
from graphopt.passes.quantize.swap import swap
from graphopt.passes.quantize.weights import ROOM, bias_integers
from graphopt.rewrite import const

SHIFTED = "_shifted"  # ends the name of what was a product's result


def shift(op: Op, by: Array) -> bool:
    """Add numbers to a layer's result, by output channel, in the form that integers sum.

    A bias stays `dequantize` of s32 in units of the sums; a layer without one gets one; a matrix
    product has an addition after it.

    Args:
        op: conv, gemm or matmul with a dequantized weight.
        by: float64 [M].

    Returns:
        Whether it could be done.
    """
    if not np.isfinite(by).all():
        return False
    if isinstance(op.kind, MatMul):
        return _shift_after(op, by)
    bias = op.operands[2]
    if bias is None:
        return _new_bias(op, by)
    made = bias.op
    if made and isinstance(made.kind, Dequantize):
        stored, unit = const(made.operand(0)), const(made.operand(1))
        return bool(stored and unit and _shift_integers(made, stored, unit.numpy(), by))
    data = const(bias)
    if data is None or data.shape != by.shape:
        return False
    moved = data.numpy().astype(np.float64) + by
    _put(Use(op, 2), moved.astype(np.float32))
    return True


def shifted(op: Op) -> Value:
    """The value that `shift` moves: a layer's result, or that of the addition after a product."""
    uses = op.result.uses
    if not isinstance(op.kind, MatMul) or len(uses) != 1 or not isinstance(uses[0].op.kind, Add):
        return op.result
    added = const(uses[0].op.operand(1 - uses[0].index))
    return op.result if added is None else uses[0].op.result


def _shift_integers(made: Op, stored: Data, unit: Array, by: Array) -> bool:
    if stored.shape != by.shape or (made.operands[2] and _nonzero(made.operands[2])):
        return False
    whole = stored.numpy().astype(np.int64) + np.rint(by / unit)
    if not (np.abs(whole) < ROOM).all():
        return False
    _put(Use(made, 0), whole.astype(np.int32))
    return True


def _nonzero(zero: Value) -> bool:
    data = const(zero)
    return data is None or bool(data.numpy().any())


def _new_bias(op: Op, by: Array) -> bool:
    """A bias in units of s_x s_w, or of floats where the operand isn't quantized."""
    graph, unit = op.graph, _unit(op)
    assert graph
    if unit is None:
        made = Op(Const(Inline(by.astype(np.float32))), loc=op.loc)
        swap(op, 2, graph.insert(made, op).result)
        return True
    unit = np.broadcast_to(unit, by.shape).astype(np.float32)
    whole = bias_integers(by, unit)
    if whole is None:
        return False
    parts = [Op(Const(Inline(a)), loc=op.loc) for a in (whole, np.ascontiguousarray(unit))]
    operands = [graph.insert(part, op).result for part in parts]
    swap(op, 2, graph.insert(Op(Dequantize(0), operands, loc=op.loc), op).result)
    return True


def _unit(op: Op) -> Array | None:
    """The scale of the sums; None where the operand stays float."""
    scales: list[Array] = []
    for i in (0, 1):
        made = op.operand(i).op
        data = const(made.operand(1)) if made and isinstance(made.kind, Dequantize) else None
        if data is None:
            return None
        scales.append(data.numpy())
    return scales[0].reshape(()) * scales[1]


def _shift_after(op: Op, by: Array) -> bool:
    """Into the constant that is added to a product, or by an addition of its own."""
    uses, graph = op.result.uses, op.graph
    assert graph
    if len(uses) == 1 and isinstance(uses[0].op.kind, Add):
        other = Use(uses[0].op, 1 - uses[0].index)
        data = const(other.op.operand(other.index))
        if data and data.dtype.is_float and data.shape[-1:] == by.shape:
            _put(other, (data.numpy().astype(np.float64) + by).astype(np.float32))
            return True
    made = Op(Const(Inline(by.astype(np.float32))), loc=op.loc)
    row = graph.insert(made, op.next)
    name = f"{op.result.hint}{SHIFTED}" if op.result.hint else ""
    add = graph.insert(Op(Add(), [op.result, row.result], loc=op.loc, hints=[name]), row.next)
    for use in uses:
        use.op.set_operand(use.index, add.result)
    return True


def _put(use: Use, numbers: Array) -> None:
    """Let an op read another constant."""
    old, graph = use.op.operand(use.index), use.op.graph
    assert graph
    made = Op(Const(Inline(numbers)), loc=use.op.loc, hints=[old.hint])
    swap(use.op, use.index, graph.insert(made, use.op).result)
