"""Quantization: between floats and integers, and integer convolution and products.

The parameters are operands, so that one kernel serves layers of different scales. One definition
holds for every target, in float32 without contraction into fused multiply-adds:

    quantize     q = saturate(round(x / scale) + zero)         (ONNX QuantizeLinear)
    dequantize   x = float32(q - zero) * scale                 (ONNX DequantizeLinear)
    requantize   q = saturate(round(float32(acc) * scale) + zero)

and `dynamic_quantize` is `quantize` by a scale and a zero point that it takes from its operand.

`round` is half to even. The integer sums are exact in int32. What floats do to one 8-bit number
between `dequantize` and `quantize` is a `lookup`, the table being the numpy meaning of those ops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.core import OpKind
from graphopt.ir.types import Array, DType, TensorType, ValueType
from graphopt.ops.elementwise import Elementwise
from graphopt.ops.linalg import MatMul
from graphopt.ops.nn import Conv
from graphopt.ops.shapes import Ints, agree, tensors

NARROW = frozenset({DType.u8, DType.i8, DType.u16, DType.i16})


def limits(dtype: DType) -> tuple[int, int]:
    """The least and the largest number of an integer type."""
    info = np.iinfo(dtype.numpy)
    return int(info.min), int(info.max)


def along(parameter: Array, axis: int, rank: int) -> Array:
    """A scalar, or a vector laid along an axis, to broadcast against a tensor of a rank."""
    if parameter.size == 1:
        return parameter.reshape(())
    return parameter.reshape([-1 if a == axis % rank else 1 for a in range(rank)])


class Scaled(Elementwise):
    """What quantize, dequantize and requantize share: x, a scale, a zero point, an axis.

    scale: a scalar or [C], C the size of `axis`; zero: the same shape, the integers' type.
    """

    axis: int
    operands = ("x", "scale", "zero?")
    factors: ClassVar[int] = 1
    """How many operands stand between x and the zero point: what x is multiplied or divided by."""

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The shape of x."""
        x, scale, *zero = tensors(*types)
        if scale.dtype is not DType.f32 or scale.rank not in (None, 0, 1):
            raise ValueError(f"the scale is a {scale}, not a float32 scalar or vector")
        vector = scale.rank == 1 and scale.shape != (1,)
        if vector and x.shape is not None and scale.shape:
            if not -len(x.shape) <= self.axis < len(x.shape):
                raise ValueError(f"axis {self.axis} of rank {len(x.shape)}")
            agree(x.shape[self.axis], scale.shape[0], f"axis {self.axis} of x and the scales")
        result = self.type_of(x.dtype)
        integer = result if result is not DType.f32 else x.dtype
        if zero and zero[0].dtype is not integer:
            raise ValueError(f"the zero point is {zero[0].dtype}, not {integer}")
        return (TensorType(result, x.shape),)

    def type_of(self, x: DType) -> DType:
        """The element type of the result (ValueError for an operand it can't be of)."""
        raise NotImplementedError

    def parameters(self, x: Array, scale: Array, zero: Array | None) -> tuple[Array, Array]:
        """scale (float32) and zero (int64) to broadcast against x."""
        z = np.zeros((), np.int64) if zero is None else zero.astype(np.int64)
        return along(scale, self.axis, x.ndim), along(z, self.axis, x.ndim)


def saturate(rounded: Array, zero: Array, dtype: DType) -> Array:
    """saturate(rounded + zero); the sum is taken where it is exact."""
    low, high = limits(dtype)
    return np.clip(np.nan_to_num(rounded).astype(np.float64) + zero, low, high).astype(dtype.numpy)


@dataclass(frozen=True)
class Quantize(Scaled, name="quantize"):
    """saturate(round(x / scale) + zero) of float32 x (ONNX QuantizeLinear)."""

    dtype: DType
    axis: int = 1

    def type_of(self, x: DType) -> DType:
        """The attribute."""
        if x is not DType.f32 or self.dtype not in NARROW:
            raise ValueError(f"quantizes {x} to {self.dtype}")
        return self.dtype

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """The formula."""
        x, scale, zero = (*arrays, None)[:3]
        assert x is not None and scale is not None
        s, z = self.parameters(x, scale, zero)
        with np.errstate(all="ignore"):
            return (saturate(np.rint(x / s), z, self.dtype),)


@dataclass(frozen=True)
class DynamicQuantize(OpKind, name="dynamic_quantize"):
    """u8 of float32 x by the range of x, 0 included (ONNX DynamicQuantizeLinear).

    Gives the integers, and the scalars scale = (max(x, 0) - min(x, 0)) / 255 (1 where that is 0)
    and zero = saturate(round(-min(x, 0) / scale)).
    """

    operands = ("x",)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """u8 of x's shape; f32[]; u8[]."""
        (x,) = tensors(*types)
        if x.dtype is not DType.f32:
            raise ValueError(f"quantizes {x.dtype}")
        return TensorType(DType.u8, x.shape), TensorType(DType.f32, ()), TensorType(DType.u8, ())

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """The formulas, in float32."""
        (x,) = arrays
        assert x is not None
        low, high = x.min(initial=np.float32(0)), x.max(initial=np.float32(0))
        with np.errstate(all="ignore"):
            scale = np.asarray((high - low) / np.float32(255), np.float32)
            scale = np.where(scale == 0, np.float32(1), scale)
            zero = saturate(np.rint(-low / scale), np.zeros((), np.int64), DType.u8)
        return *Quantize(DType.u8).evaluate(x, scale, zero), scale, zero


@dataclass(frozen=True)
class Dequantize(Scaled, name="dequantize"):
    """float32(x - zero) * scale of integers x (ONNX DequantizeLinear)."""

    axis: int = 1

    def type_of(self, x: DType) -> DType:
        """Floats."""
        if x not in NARROW and x is not DType.i32:
            raise ValueError(f"dequantizes {x}")
        return DType.f32

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """The formula."""
        x, scale, zero = (*arrays, None)[:3]
        assert x is not None and scale is not None
        s, z = self.parameters(x, scale, zero)
        with np.errstate(over="ignore"):
            return (((x.astype(np.int64) - z).astype(np.float32) * s).astype(np.float32),)


@dataclass(frozen=True)
class Requantize(Scaled, name="requantize"):
    """saturate(round(float32(x) * scale) + zero) of int32 sums x.

    `small`: no product is of more than 32 bits (it changes no number; kernels needn't look).
    """

    dtype: DType
    axis: int = 1
    small: bool = False

    def type_of(self, x: DType) -> DType:
        """The attribute."""
        if x is not DType.i32 or self.dtype not in NARROW:
            raise ValueError(f"requantizes {x} to {self.dtype}")
        return self.dtype

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """The formula."""
        x, scale, zero = (*arrays, None)[:3]
        assert x is not None and scale is not None
        s, z = self.parameters(x, scale, zero)
        with np.errstate(over="ignore"):
            return (saturate(np.rint(x.astype(np.float32) * s), z, self.dtype),)


@dataclass(frozen=True)
class Calibrated(Elementwise, name="calibrated"):
    """x, which calibration says to hold in [low, high] where it is quantized.

    A note between the passes `calibrate` and `quantize`; the numbers are x's.
    """

    low: float
    high: float
    operands = ("x",)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """The operand."""
        (x,) = arrays
        assert x is not None
        return (x,)


@dataclass(frozen=True)
class Lookup(Elementwise, name="lookup"):
    """table[x]: x u8 or s8 of any shape, as a byte (-1 is 255); table: 256 integers of 8 bits."""

    operands = ("x", "table")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The shape of x, the element type of the table."""
        x, table = tensors(*types)
        if x.dtype not in (DType.u8, DType.i8) or table.dtype not in (DType.u8, DType.i8):
            raise ValueError(f"looks {x.dtype} up in a table of {table.dtype}")
        if table.shape is not None and table.shape != (256,):
            raise ValueError(f"the table is a {table}, not of 256 integers")
        return (TensorType(table.dtype, x.shape),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """The table's elements."""
        x, table = arrays
        assert x is not None and table is not None
        return (table[x.view(np.uint8)],)


def _integers(x: TensorType, w: TensorType) -> tuple[TensorType, TensorType]:
    """The operands as if of the type that they are summed in."""
    if x.dtype not in (DType.u8, DType.i8) or w.dtype not in (DType.u8, DType.i8):
        raise ValueError(f"{x.dtype} by {w.dtype} is no product of 8-bit integers")
    return TensorType(DType.i32, x.shape), TensorType(DType.i32, w.shape)


@dataclass(frozen=True)
class ConvInteger(OpKind, name="conv_integer"):
    """Convolution of 8-bit integers, summed in int32 (ONNX ConvInteger without zero points).

    x: u8 or s8 [N, C, spatial...]; w: [M, C/group, kernel...]. Padding has the value `pad_value`,
    or that of the scalar `pad`, which is x's zero point; what zero points contribute besides is
    added to the sum.
    """

    strides: Ints
    pads: Ints
    dilations: Ints
    group: int = 1
    pad_value: int = 0
    operands = ("x", "w", "pad?")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """[N, M, windows...] of int32."""
        x, w, *pad = tensors(*types)
        if pad and (pad[0].dtype is not x.dtype or pad[0].rank not in (None, 0)):
            raise ValueError(f"a padding of {pad[0]} for {x.dtype}")
        low, high = limits(x.dtype) if x.dtype in NARROW else (0, 0)
        if not low <= self.pad_value <= high:
            raise ValueError(f"a padding of {self.pad_value} is no {x.dtype}")
        plain = Conv(self.strides, self.pads, self.dilations, self.group)
        return plain.infer(*_integers(x, w))

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """Sums in float64, which is exact below 2^53."""
        x, w, pad = (*arrays, None)[:3]
        assert x is not None and w is not None
        n = len(self.strides)
        pads = [(self.pads[i], self.pads[n + i]) for i in range(n)]
        value: Any = self.pad_value if pad is None else pad.item()
        padded = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=value)
        plain = Conv(self.strides, (0,) * (2 * n), self.dilations, self.group)
        (y,) = plain.evaluate(padded.astype(np.float64), w.astype(np.float64), None)
        return (y.astype(np.int32),)


@dataclass(frozen=True)
class MatMulInteger(OpKind, name="matmul_integer"):
    """numpy's matmul of 8-bit integers, in int32 (ONNX MatMulInteger without zero points)."""

    operands = ("a", "b")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """numpy's rule, of int32."""
        a, b = tensors(*types)
        return MatMul().infer(*_integers(a, b))

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """Products in float64, which is exact below 2^53."""
        a, b = arrays
        assert a is not None and b is not None
        return (np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int32),)
