"""Converters of quantized ops.

Ops on integers with scales become float ops between `dequantize` and `quantize`, so that there is
one form of quantized model.
"""

from __future__ import annotations

from graphopt.ir.core import OpKind, Value
from graphopt.ir.types import DType
from graphopt.onnx.convert_nn import kernel_window, pool_window
from graphopt.onnx.node import Modelled, NodeView, Step, converts
from graphopt.ops import elementwise, linalg, movement, nn, quant, reduce

MICROSOFT = "com.microsoft"
Operand = Value | int | None


@converts("QuantizeLinear")
@converts("QuantizeLinear", domain=MICROSOFT)
def _quantize(n: NodeView) -> Modelled | None:
    """The zero point says the type; blocks and other float types aren't modelled."""
    asked = n.attr("output_dtype", 0)
    dtype = n.dtype(2) or (DType.from_onnx(asked) if asked else DType.u8)
    if n.dtype(0) is not DType.f32 or dtype not in quant.NARROW or not _plain(n):
        return None
    return Step(quant.Quantize(dtype, n.attr("axis", 1)), n.operands)


@converts("DequantizeLinear")
@converts("DequantizeLinear", domain=MICROSOFT)
def _dequantize(n: NodeView) -> Modelled | None:
    if n.dtype(0) not in {*quant.NARROW, DType.i32} or not _plain(n):
        return None
    return Step(quant.Dequantize(n.attr("axis", 1)), n.operands)


def _plain(n: NodeView) -> bool:
    """Whether the scale is a float32 scalar or vector, and nothing is asked for besides."""
    more = any(n.attr(name, 0) for name in ("block_size", "precision"))
    to = n.attr("output_dtype", 0) if n.op_type == "DequantizeLinear" else 0
    known = n.dtype(1) is DType.f32 and n.rank(1) in (0, 1)
    return known and not more and to in (0, DType.f32.onnx)


class Chain:
    """Steps in the making."""

    def __init__(self) -> None:
        """None yet."""
        self.steps: list[Step] = []

    def add(self, kind: OpKind, *operands: Operand) -> int:
        """Append a step; give its number."""
        self.steps.append(Step(kind, operands))
        return len(self.steps) - 1

    def read(self, n: NodeView, at: int, axis: int = 1) -> int:
        """The float32 value of the operand at `at`, followed by its scale and zero point."""
        return self.add(quant.Dequantize(axis), *_three(n, at))

    def write(self, n: NodeView, x: int, scale: int) -> list[Step] | None:
        """Quantize by the operands at `scale` and after it: the last step. None if it can't be."""
        dtype = n.dtype(scale + 1) or DType.u8
        if dtype not in quant.NARROW:
            return None
        self.add(quant.Quantize(dtype), x, n.operand(scale), n.operand(scale + 1))
        return self.steps


def _three(n: NodeView, at: int) -> tuple[Value | None, ...]:
    return tuple(n.operand(at + i) for i in range(3))


@converts("QLinearConv")
def _conv(n: NodeView) -> Modelled | None:
    """x, its scale and zero; w likewise (by output channel); those of y; int32 bias of s_x s_w."""
    window = kernel_window(n, weight=3)
    pads = window and window.pads()
    if window is None or pads is None:
        return None
    c = Chain()
    x, w, b = c.read(n, 0), c.read(n, 3, axis=0), None
    if n.has(8):
        scale = c.add(elementwise.Mul(), n.operand(1), n.operand(4))
        b = c.add(quant.Dequantize(0), n.operand(8), scale, None)
    kind = nn.Conv(window.strides, pads, window.dilations, n.attr("group", 1))
    return c.write(n, c.add(kind, x, w, b), 6)


@converts("QLinearMatMul")
@converts("QLinearMatMul", domain=MICROSOFT)
def _matmul(n: NodeView) -> Modelled | None:
    if n.rank(1) not in (0, 1) or n.rank(4) not in (0, 1) or n.rank(3) is None:
        return None
    c = Chain()
    a, b = c.read(n, 0, axis=-2), c.read(n, 3, axis=-1)
    return c.write(n, c.add(linalg.MatMul(), a, b), 6)


@converts("QGemm", domain=MICROSOFT)
def _gemm(n: NodeView) -> Modelled | None:
    """alpha * a b + c, c an int32 of scale alpha s_a s_b; float where y has no scale."""
    alpha, trans_b = n.attr("alpha", 1.0), bool(n.attr("transB", 0))
    c = Chain()
    a, b, bias = c.read(n, 0), c.read(n, 3, axis=0 if trans_b else 1), None
    if n.has(6):
        if alpha != 1.0:
            return None
        scale = c.add(elementwise.Mul(), n.operand(1), n.operand(4))
        bias = c.add(quant.Dequantize(-1), n.operand(6), scale, None)
    y = c.add(linalg.Gemm(alpha, 1.0, bool(n.attr("transA", 0)), trans_b), a, b, bias)
    return c.write(n, y, 7) if n.has(7) else c.steps


@converts("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def _binary(n: NodeView) -> Modelled | None:
    c = Chain()
    kind = elementwise.Add() if n.op_type == "QLinearAdd" else elementwise.Mul()
    return c.write(n, c.add(kind, c.read(n, 0), c.read(n, 3)), 6)


@converts("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", domain=MICROSOFT)
def _unary(n: NodeView) -> Modelled | None:
    if n.op_type == "QLinearSigmoid":
        kind: OpKind = elementwise.Sigmoid()
    elif n.op_type == "QLinearLeakyRelu":
        kind = elementwise.LeakyRelu(n.attr("alpha", 0.01))
    else:
        rank, axis = n.rank(0), n.attr("axis", -1)
        if rank is None or (n.attr("opset", 13) < 13 and axis % rank != rank - 1):
            return None
        kind = nn.Softmax(axis)
    c = Chain()
    return c.write(n, c.add(kind, c.read(n, 0)), 3)


@converts("QLinearAveragePool", "QLinearGlobalAveragePool", domain=MICROSOFT)
def _average(n: NodeView) -> Modelled | None:
    rank = n.rank(0)
    if n.attr("channels_last", 0) or rank is None:
        return None
    kind: OpKind = reduce.ReduceMean(tuple(range(2, rank)), True)
    if n.op_type == "QLinearAveragePool":
        window = pool_window(n)
        pads = window and window.pads()
        if window is None or pads is None or n.attr("ceil_mode", 0):
            return None
        counted = bool(n.attr("count_include_pad", 0))
        kind = nn.AvgPool(window.kernel, window.strides, pads, window.dilations, counted)
    c = Chain()
    return c.write(n, c.add(kind, c.read(n, 0)), 3)


@converts("QLinearConcat", domain=MICROSOFT)
def _concat(n: NodeView) -> Modelled | None:
    """The scale and zero point of y, then x, scale, zero of each part."""
    c = Chain()
    parts = [c.read(n, i) for i in range(2, len(n.operands), 3)]
    return c.write(n, c.add(movement.Concat(n.attr("axis")), *parts), 0)
