"""Convolutions, products and means whose operands are dequantized become integer sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.core import Op, OpKind, Value
from graphopt.ir.data import Data, size
from graphopt.ir.types import Array, DType
from graphopt.ops.elementwise import Add
from graphopt.ops.linalg import Gemm, MatMul
from graphopt.ops.movement import Reshape
from graphopt.ops.nn import AvgPool, Conv
from graphopt.ops.quant import ConvInteger, Dequantize, MatMulInteger
from graphopt.ops.reduce import ReduceMean
from graphopt.passes.integers.read import Quantized, activation, quantized
from graphopt.rewrite import Miss, Rewriter, Rule, const, rule

MOST = 2**31 // (255 * 128) - 2**14  # products in a sum that is sure to fit, a bias besides
ROOM = 2**29  # what a bias may be


@dataclass(frozen=True)
class Weights:
    """Constant weights as s8: lazily computed integers, and the scale of each output channel."""

    data: Data
    integers: Callable[[], Array]
    scale: Array  # a scalar or [M]


def weights(value: Value | None, axis: int) -> Weights | None:
    """The s8 integers of dequantized constants, of one scale for each index along `axis`.

    u8 weights with a zero point are s8 ones where the difference is.
    """
    found = quantized(value)
    data = const(found.integers) if found else None
    if found is None or data is None or data.dtype not in (DType.u8, DType.i8):
        return None
    if found.scale.size > 1 and found.axis % len(data.shape) != axis % len(data.shape):
        raise Miss("the weights have scales along another axis than that of their output channels")
    point = found.zero.reshape(-1)
    if data.dtype is DType.i8 and not point.any():
        return Weights(data, data.numpy, found.scale)
    if data.dtype is DType.u8 and (point == 128).all():
        shifted = lambda: (data.numpy().astype(np.int16) - 128).astype(np.int8)  # noqa: E731
        return Weights(data, shifted, found.scale)
    return _by_difference(data, point, found.scale, axis)


def _by_difference(data: Data, point: Array, scale: Array, axis: int) -> Weights:
    shape = [1] * len(data.shape)
    shape[axis] = point.size
    moved = data.numpy().astype(np.int64) - point.reshape(shape if point.size > 1 else [])
    if moved.size and (moved.min() < -128 or moved.max() > 127):
        raise Miss("the weights less their zero points don't fit into s8")
    return Weights(data, lambda: moved.astype(np.int8), scale)


@dataclass(frozen=True)
class Sum:
    """What makes an integer sum: x, the weights, and the axes of these that are summed over.

    `spread`: from a number for each output channel to one for each channel of the sums, where an
    output channel is made by several of these.
    """

    x: Quantized
    w: Weights
    summed: tuple[int, ...]
    spread: Callable[[Array], Array] = np.asarray

    @property
    def scale(self) -> Array:
        """One float32 a channel: s_x s_w."""
        return (self.x.scale.reshape(-1)[:1] * self.w.scale.reshape(-1)).astype(np.float32)

    def check(self) -> None:
        """Raise Miss where a sum might not fit into int32."""
        if math.prod(self.w.data.shape[a] for a in self.summed) > MOST:
            raise Miss("a sum of that many products may not fit into int32")

    def bias(self, given: Value | None, channels: int) -> Callable[[], Array]:
        """The int32 constant by channel: the bias, and what x's zero point contributes."""
        real = self.spread(self._given(given, channels))
        point, integers = self.x.point, self.w.integers

        def compute() -> Array:
            drift = point * integers().astype(np.int64).sum(axis=self.summed)
            return (real - drift).astype(np.int32)

        return compute

    def _given(self, given: Value | None, channels: int) -> Array:
        """The bias in units of the sums' scale (int64 [M])."""
        if given is None:
            return np.zeros(channels, np.int64)
        stored, data = quantized(given), const(given)
        if stored is not None:
            data = const(stored.integers)
        if data is None or size(data) not in (1, channels):
            raise Miss("the bias isn't a constant for each channel")
        numbers = data.numpy().reshape(-1)
        if stored is not None and not stored.zero.any() and _close(stored.scale, self.scale):
            whole = numbers.astype(np.int64)
        else:
            if stored is not None:
                numbers = (numbers - stored.zero.reshape(-1)) * stored.scale.reshape(-1)
            with np.errstate(all="ignore"):
                whole = np.rint(numbers.astype(np.float64) / self.scale)
        if not (np.abs(whole) < ROOM).all():
            raise Miss("the bias is too large for the scale of the sums")
        return np.broadcast_to(whole.astype(np.int64), (channels,))


def _close(a: Array, b: Array) -> bool:
    return bool(np.allclose(a.reshape(-1), b.reshape(-1), rtol=1e-6, atol=0))


def finish(rw: Rewriter, total: Value, s: Sum, bias: Callable[[], Array], axis: int) -> Value:
    """dequantize(total + bias) with the sums' scale."""
    channels, rank = s.w.data.shape[0], total.tensor.rank or 1
    channels = total.tensor.shape[axis] if total.tensor.shape else channels
    assert isinstance(channels, int)
    shape = (channels, *(1,) * (rank - 1 - axis % rank))
    constant = rw.computed(np.zeros(0, np.int32), shape, lambda: bias().reshape(shape))
    scale = s.spread(s.scale) if s.scale.size > 1 else s.scale.reshape(())
    return rw.make(Dequantize(axis), rw.make(Add(), total, constant), rw.const(scale))


@rule(Conv)
def conv_of_integers(rw: Rewriter, op: Op, kind: Conv) -> Value | None:
    """conv(dequantize(x), dequantize(w), b) -> dequantize(conv_integer(x, w) + b')."""
    x, w = activation(op.operand(0)), weights(op.operand(1), 0)
    if x is None or w is None:
        return None
    s = Sum(x, w, tuple(range(1, len(w.data.shape))))
    s.check()
    bias = s.bias(op.operands[2], w.data.shape[0])
    integer = ConvInteger(kind.strides, kind.pads, kind.dilations, kind.group, x.point)
    packed = rw.computed(np.zeros(0, np.int8), w.data.shape, w.integers)
    total = rw.make(integer, x.integers, packed)
    return finish(rw, total, s, bias, 1)


def _product(rw: Rewriter, op: Op, bias: Value | None, transposed: bool) -> Value | None:
    """As dequantize(matmul_integer(a, b) + bias'), b constant."""
    a, b = activation(op.operand(0)), weights(op.operand(1), 0 if transposed else 1)
    if a is None or b is None or len(b.data.shape) != 2 or (op.operand(0).tensor.rank or 0) < 2:
        return None
    flipped = lambda: np.ascontiguousarray(b.integers().T)  # noqa: E731
    integers = flipped if transposed else b.integers
    shape = b.data.shape[::-1] if transposed else b.data.shape
    s = Sum(a, Weights(b.data, integers, b.scale), (0,))
    s.check()
    made = s.bias(bias, shape[1])
    packed = rw.computed(np.zeros(0, np.int8), shape, integers)
    return finish(rw, rw.make(MatMulInteger(), a.integers, packed), s, made, -1)


@rule(MatMul)
def matmul_of_integers(rw: Rewriter, op: Op, kind: MatMul) -> Value | None:
    """matmul(dequantize(a), dequantize(b)) -> dequantize(matmul_integer(a, b) + c')."""
    return _product(rw, op, None, False)


@rule(Gemm)
def gemm_of_integers(rw: Rewriter, op: Op, kind: Gemm) -> Value | None:
    """gemm(dequantize(a), dequantize(b), c) -> dequantize(matmul_integer(a, b) + c')."""
    if kind.alpha != 1 or (op.operands[2] and kind.beta != 1) or kind.trans_a:
        return None
    return _product(rw, op, op.operands[2], kind.trans_b)


def _window_sum(rw: Rewriter, op: Op, kernel: tuple[int, ...], how: OpKind) -> Value | None:
    """The mean of windows as a depthwise convolution with ones, of scale s_x / count."""
    x = activation(op.operand(0))
    shape = op.operand(0).tensor.static
    if x is None or shape is None or not _only_quantized(op):
        return None
    ones = np.ones((shape[1], 1, *kernel), np.int8)
    count = math.prod(kernel)
    if not 1 < count <= MOST:
        return None
    total = rw.make(how, x.integers, rw.const(ones))
    drift = rw.const(np.array(-x.point * count, np.int32).reshape((1,) * len(shape)))
    scale = np.asarray(x.scale.reshape(()) / np.float32(count), np.float32)
    return rw.make(Dequantize(), rw.make(Add(), total, drift), rw.const(scale))


def _only_quantized(op: Op) -> bool:
    """Whether the result becomes integers again: a float mean is better summed in floats."""
    return all(use.op.kind.name in ("quantize", "reshape", "squeeze") for use in op.result.uses)


@rule(AvgPool)
def mean_of_windows(rw: Rewriter, op: Op, kind: AvgPool) -> Value | None:
    """avg_pool(dequantize(x)) -> dequantize(conv_integer(x, ones)) with scale s_x / count."""
    if any(kind.pads) and not kind.count_include_pad:
        return None
    x = activation(op.operand(0))
    channels = op.operand(0).tensor.shape
    if x is None or channels is None or not isinstance(channels[1], int):
        return None
    how = ConvInteger(kind.strides, kind.pads, kind.dilations, channels[1], x.point)
    return _window_sum(rw, op, kind.kernel, how)


@rule(ReduceMean)
def mean_of_image(rw: Rewriter, op: Op, kind: ReduceMean) -> Value | None:
    """reduce_mean(dequantize(x)) over the image -> dequantize(conv_integer(x, ones))."""
    shape = op.operand(0).tensor.static
    if shape is None or sorted(a % len(shape) for a in kind.axes) != list(range(2, len(shape))):
        return None
    n = len(shape) - 2
    how = ConvInteger((1,) * n, (0,) * (2 * n), (1,) * n, shape[1], 0)
    mean = _window_sum(rw, op, shape[2:], how)
    if mean is None or kind.keepdims:
        return mean
    return rw.make(Reshape(shape[:2]), mean)


SUMS: tuple[Rule[Any], ...] = (
    conv_of_integers, matmul_of_integers, gemm_of_integers, mean_of_windows, mean_of_image,
)  # fmt: skip
