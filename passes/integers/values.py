"""What is done to the sums, element by element, up to the next quantized value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.core import Op, Value
from graphopt.ir.types import Array, DType
from graphopt.ops.elementwise import Add, Clip, Mul, Relu
from graphopt.ops.linalg import Gemm, MatMul
from graphopt.ops.quant import Dequantize, Quantize, Requantize, limits
from graphopt.passes.halves import Widened
from graphopt.passes.integers.read import like, parameters, quantized
from graphopt.rewrite import Rewriter, Rule, const, rule


def clipped(op: Op | None) -> tuple[float, float] | None:
    """The interval that an op clips to; None for any other op."""
    match op.kind if op else None:
        case Relu():
            return 0.0, np.inf
        case Clip(lo=lo, hi=hi):
            return -np.inf if lo is None else float(lo), np.inf if hi is None else float(hi)
        case _:
            return None


def rounded(x: float, scale: Array, zero: int, dtype: DType) -> int:
    """What a bound becomes when it is quantized."""
    low, high = limits(dtype)
    if np.isinf(x):
        return low if x < 0 else high
    return int(np.clip(np.rint(np.float32(x) / scale) + zero, low, high))


@rule(Quantize)
def requantize(rw: Rewriter, op: Op, kind: Quantize) -> Value | None:
    """quantize(clip(dequantize(sums, s)), t, z) -> clip(requantize(sums, s / t, z)).

    Rounding and saturation are monotone, so that bounds may be taken before or after; those that
    the saturation implies are dropped (relu, where the zero point is the least integer).
    """
    bounds, value = None, op.operand(0)
    if value.op and (bounds := clipped(value.op)) is not None:
        if value.use_count != 1:
            return None
        rw.absorb(value.op)
        value = value.op.operand(0)
    sums = quantized(value)
    if sums is None or sums.integers.tensor.dtype is not DType.i32 or sums.zero.any():
        return None
    if value.use_count != 1:
        return None
    scale, zero = like(op, kind)
    ratio = np.asarray(sums.scale / scale, np.float32)
    made = Requantize(kind.dtype, sums.axis)
    result = rw.make(made, sums.integers, rw.const(ratio), *op.operands[2:])
    if bounds is None:
        return result
    low, high = (rounded(b, scale, zero, kind.dtype) for b in bounds)
    if (low, high) == limits(kind.dtype):
        return result
    return rw.make(Clip(low, high), result)


@rule(MatMul)
def product_of_bytes(rw: Rewriter, op: Op, kind: MatMul) -> Value | None:
    """matmul(a, dequantize(w, s)) -> mul(matmul(a, float(w)), s), w constant s8, a float."""
    w = _bytes(op.operand(1), 1)
    if w is None:
        return None
    return rw.make(Mul(), rw.make(kind, op.operand(0), rw.const(w.wide)), rw.const(w.scale))


@rule(Gemm)
def gemm_of_bytes(rw: Rewriter, op: Op, kind: Gemm) -> Value | None:
    """gemm(a, dequantize(w, s), c) -> add(mul(gemm(a, float(w)), s), c), w constant s8."""
    w = _bytes(op.operand(1), 0 if kind.trans_b else 1)
    if w is None or kind.alpha != 1 or (op.operands[2] and kind.beta != 1):
        return None
    product = rw.make(kind, op.operand(0), rw.const(w.wide))
    scaled = rw.make(Mul(), product, rw.const(w.scale))
    return rw.make(Add(), scaled, op.operand(2)) if op.operands[2] else scaled


@dataclass(frozen=True)
class _Bytes:
    """s8 weights as float32, without their scale; that of the columns, or of all."""

    wide: Widened
    scale: Array


def _bytes(value: Value | None, axis: int) -> _Bytes | None:
    """Constant weights [K, N] (or [N, K]) of one scale for each of N, along `axis`."""
    found = quantized(value)
    data = const(found.integers) if found else None
    if found is None or data is None or data.dtype is not DType.i8 or len(data.shape) != 2:
        return None
    if found.zero.any() or (found.scale.size > 1 and found.axis % 2 != axis):
        return None
    return _Bytes(Widened(data), found.scale.reshape(-1) if found.scale.size > 1 else found.scale)


@rule(Dequantize)
def constant_as_floats(rw: Rewriter, op: Op, kind: Dequantize) -> Value | None:
    """dequantize(constant) -> constant of floats."""
    integers = const(op.operand(0))
    if integers is None or not integers.shape:
        return None
    scale, zero = parameters(op)
    narrow = zero.astype(integers.dtype.numpy)
    compute = lambda: kind.evaluate(integers.numpy(), scale, narrow)[0]  # noqa: E731
    return rw.computed(np.zeros(0, np.float32), integers.shape, compute)


VALUES: tuple[Rule[Any], ...] = (requantize,)
BYTES: tuple[Rule[Any], ...] = (product_of_bytes, gemm_of_bytes)
REST: tuple[Rule[Any], ...] = (constant_as_floats,)
