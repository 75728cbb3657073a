"""Ops that only choose or move elements work on the integers themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from graphopt.ir.core import Op, OpKind, Value
from graphopt.ir.types import DType
from graphopt.ops import movement as mv
from graphopt.ops.elementwise import Clip, Relu
from graphopt.ops.nn import MaxPool
from graphopt.ops.quant import Dequantize, Quantize
from graphopt.ops.resize import Resize
from graphopt.passes.integers.read import like, parameters, quantized, same
from graphopt.rewrite import Rewriter, Rule, made_by, rule

CHOOSE = (
    mv.Reshape, mv.Transpose, mv.Concat, mv.Slice, mv.Expand, mv.Squeeze, mv.Unsqueeze, mv.Tile,
    mv.DepthToSpace, mv.SpaceToDepth, MaxPool,
)  # fmt: skip
BYTES = (DType.u8, DType.i8)  # nothing computes in 16 bits: not ONNX Runtime's MaxPool, either


@rule(Quantize)
def same_parameters(rw: Rewriter, op: Op, kind: Quantize) -> Value | None:
    """quantize(dequantize(q, s, z), s, z) -> q."""
    x = quantized(op.operand(0))
    if x is None or x.integers.tensor.dtype is not kind.dtype:
        return None
    scale, zero = parameters(op)
    axes = x.by_tensor or x.axis == kind.axis
    return x.integers if axes and same(scale, x.scale) and same(zero, x.zero) else None


@rule(Quantize)
def quantize_below_move(rw: Rewriter, op: Op, kind: Quantize) -> Value | None:
    """quantize(move(x...)) -> move(quantize(x)...), where moves made x of dequantized values."""
    move = op.operand(0).op
    if move is None or kind.dtype not in BYTES or not _moves_dequantized(op.operand(0)):
        return None
    like(op, kind)
    rw.absorb(move)
    inner = [rw.make(kind, v, *op.operands[1:]) for v in move.operands if v]
    return rw.make(move.kind, *inner)


@rule(Quantize)
def bounds_below_move(rw: Rewriter, op: Op, kind: Quantize) -> Value | None:
    """quantize(clip(move(x...))) -> quantize(move(clip(x)...)), x as in `quantize_below_move`."""
    bound = op.operand(0).op
    if bound is None or not isinstance(bound.kind, Relu | Clip) or bound.result.use_count != 1:
        return None
    move = bound.operand(0).op
    if move is None or kind.dtype not in BYTES or not _moves_dequantized(bound.operand(0)):
        return None
    rw.absorb(move)
    rw.absorb(bound)
    inner = [rw.make(bound.kind, v) for v in move.operands if v]
    return rw.make(kind, rw.make(move.kind, *inner), *op.operands[1:])


def _moves_dequantized(value: Value) -> bool:
    """Whether a value that nothing else reads is moved from such integers, bounds besides."""
    move = value.op
    if move is None or not chooses(move.kind) or len(move.results) != 1 or value.use_count != 1:
        return False
    values = [v for v in move.operands if v]
    return bool(values) and all(_dequantized(v) for v in values)


def _dequantized(value: Value) -> bool:
    """Whether a value is `dequantize` of integers, or comes from such by moves and bounds alone."""
    while value.op and isinstance(value.op.kind, Relu | Clip) and value.use_count == 1:
        value = value.op.operand(0)
    return made_by(value, Dequantize) is not None or _moves_dequantized(value)


def chooses(kind: OpKind) -> bool:
    """Whether an op's results are elements of its operands, in whatever order."""
    return isinstance(kind, CHOOSE) or (isinstance(kind, Resize) and kind.mode == "nearest")


@rule(Quantize)
def quantize_below_pad(rw: Rewriter, op: Op, kind: Quantize) -> Value | None:
    """quantize(pad(dequantize(q), 0), s, z) -> pad(quantize(dequantize(q), s, z), z)."""
    found = made_by(op.operand(0), mv.Pad)
    if found is None or op.operand(0).use_count != 1:
        return None
    pad, how = found
    if not made_by(pad.operand(0), Dequantize) or (how.mode == "constant" and how.value != 0):
        return None
    _, zero = like(op, kind)
    rw.absorb(pad)
    inner = rw.make(kind, pad.operand(0), *op.operands[1:])
    return rw.make(replace(how, value=zero), inner)


@rule(Dequantize)
def unsigned(rw: Rewriter, op: Op, kind: Dequantize) -> Value | None:
    """dequantize(s8 quantize(x, s, z), s, z) -> dequantize(u8 quantize(x, s, z + 128), s, z + 128).

    The same numbers; x86's dot products of 8-bit integers want one unsigned operand.
    """
    return _shifted(rw, op, kind, DType.i8, DType.u8, 128)


@rule(Dequantize)
def signed(rw: Rewriter, op: Op, kind: Dequantize) -> Value | None:
    """dequantize(u8 quantize(x, s, z), s, z) -> dequantize(s8 quantize(x, s, z - 128), s, z - 128).

    The same numbers; NEON's dot products of 8-bit integers want two signed operands.
    """
    return _shifted(rw, op, kind, DType.u8, DType.i8, -128)


def _shifted(
    rw: Rewriter, op: Op, kind: Dequantize, old: DType, new: DType, by: int
) -> Value | None:
    found = made_by(op.operand(0), Quantize)
    if found is None or found[1].dtype is not old:
        return None
    maker, how = found
    _, zero = like(maker, how)
    if not same(parameters(op)[1], np.array(zero)):
        return None
    point = rw.const(np.array(zero + by, new.numpy))
    made = rw.make(replace(how, dtype=new), maker.operand(0), maker.operand(1), point)
    return rw.make(kind, made, op.operand(1), point)


MOVES: tuple[Rule[Any], ...] = (
    same_parameters, quantize_below_move, bounds_below_move, quantize_below_pad,
)  # fmt: skip
