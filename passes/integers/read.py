"""What rules ask of quantized values: their integers, scales and zero points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir.core import Op, Value
from graphopt.ir.types import Array, DType
from graphopt.ops.quant import Dequantize, Quantize, Requantize
from graphopt.rewrite import Miss, const, made_by


@dataclass(frozen=True)
class Quantized:
    """A value that is `dequantize` of integers: their scale, zero point, axis; all known."""

    op: Op
    integers: Value
    scale: Array
    zero: Array
    axis: int

    @property
    def by_tensor(self) -> bool:
        """Whether there is one scale and one zero point."""
        return self.scale.size == 1 and self.zero.size == 1

    @property
    def point(self) -> int:
        """The zero point, of which there must be one."""
        if not self.by_tensor:
            raise Miss(f"%{self.op.result.hint} has a scale for each channel")
        return int(self.zero.reshape(-1)[0])


def parameters(op: Op) -> tuple[Array, Array]:
    """The constant scale (float32) and zero point (int64) of a quantize or dequantize.

    Raises:
        Miss: they aren't constant.
    """
    scale, given = const(op.operand(1)), op.operands[2]
    zero = const(given) if given else None
    if scale is None or (given and zero is None):
        raise Miss("the scale or the zero point isn't constant")
    numbers = np.zeros((), np.int64) if zero is None else zero.numpy().astype(np.int64)
    return scale.numpy(), numbers


def quantized(value: Value | None) -> Quantized | None:
    """The integers behind a value; None where it isn't dequantized ones."""
    found = made_by(value, Dequantize)
    if found is None:
        return None
    op, kind = found
    scale, zero = parameters(op)
    return Quantized(op, op.operand(0), scale, zero, kind.axis)


def activation(value: Value | None) -> Quantized | None:
    """The 8-bit integers behind a value, of one scale."""
    found = quantized(value)
    if found is None or found.integers.tensor.dtype not in (DType.u8, DType.i8):
        return None
    if not found.by_tensor:
        raise Miss(f"%{found.op.result.hint} has a scale for each channel")
    return found


def same(a: Array, b: Array) -> bool:
    """Whether parameters are equal, a scalar and a vector of one element as well."""
    return a.size == b.size and bool(np.array_equal(a.reshape(-1), b.reshape(-1)))


def like(op: Op, kind: Quantize | Requantize) -> tuple[Array, int]:
    """The scale and the zero point of an op that quantizes by one of each (Miss otherwise)."""
    scale, zero = parameters(op)
    if scale.size != 1 or zero.size != 1:
        raise Miss("it quantizes with a scale for each channel")
    return scale.reshape(()), int(zero.reshape(-1)[0])
