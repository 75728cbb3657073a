"""Writing quantization: QuantizeLinear, DequantizeLinear, ConvInteger, MatMulInteger, Gather."""

from __future__ import annotations

from graphopt.ir.core import Op
from graphopt.ir.types import DType
from graphopt.onnx.emitter import Emitter, NeedsOpset, emits, kind_of
from graphopt.ops import quant

Strs = list[str]
WIDE = 21  # the first opset whose QuantizeLinear gives 16-bit integers


def _axis(e: Emitter, op: Op) -> int | None:
    """The axis of a scale by channel; such scales came with opset 13."""
    scale = op.operand(1).tensor
    if scale.rank == 0 or scale.shape == (1,):
        return None
    if e.opset < 13:
        raise NeedsOpset(13, f"{op.kind.name} with a scale by channel")
    return kind_of(op).axis


def _typed(e: Emitter, dtype: DType) -> None:
    if dtype in (DType.u16, DType.i16) and e.opset < WIDE:
        raise NeedsOpset(WIDE, f"quantization to {dtype}")
    if e.opset < 10:
        raise NeedsOpset(10, "quantization")


def _zero(e: Emitter, op: Op, ins: Strs, dtype: DType) -> str:
    """The zero point's name; ONNX takes the type from it, so one of 0 is written where none is."""
    if len(ins) > 2 and ins[2]:
        return ins[2]
    scale = op.operand(1).tensor
    if scale.rank == 0:
        return "" if dtype is DType.u8 else e.number(0, dtype)
    size = scale.shape[0] if scale.shape else None
    if dtype is DType.u8:
        return ""
    if not isinstance(size, int):
        raise NeedsOpset(99, "a zero point for scales of unknown number")
    return e.integers([0] * size, dtype)


@emits(quant.Quantize)
def _quantize(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    dtype: DType = kind_of(op).dtype
    _typed(e, dtype)
    operands = [*ins[:2], _zero(e, op, ins, dtype)]
    e.node("QuantizeLinear", operands, outs, axis=_axis(e, op))


@emits(quant.DynamicQuantize)
def _dynamic(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    if e.opset < 11:
        raise NeedsOpset(11, "dynamic_quantize")
    e.node("DynamicQuantizeLinear", ins, outs)


@emits(quant.Dequantize)
def _dequantize(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    _typed(e, op.operand(0).tensor.dtype)
    e.node("DequantizeLinear", ins, outs, axis=_axis(e, op))


@emits(quant.Requantize)
def _requantize(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """Clip(Round(Cast(x) * scale) + zero), in floats."""
    kind = kind_of(op)
    rank = op.operand(0).tensor.rank
    if e.opset < 11:
        raise NeedsOpset(11, "requantize")
    scale, zero = ins[1], ins[2] if len(ins) > 2 else ""
    if op.operand(1).tensor.rank == 1 and rank is not None:
        tail = (1,) * (rank - 1 - kind.axis % rank)
        scale = e.temp("Reshape", [scale, e.ints((-1, *tail))])
    real = e.temp("Mul", [e.temp("Cast", [ins[0]], to=DType.f32.onnx), scale])
    rounded = e.temp("Round", [real])
    if zero:
        rounded = e.temp("Add", [rounded, e.temp("Cast", [zero], to=DType.f32.onnx)])
    low, high = (e.number(float(v), DType.f32) for v in quant.limits(kind.dtype))
    e.node("Cast", [e.temp("Clip", [rounded, low, high])], outs, to=kind.dtype.onnx)


@emits(quant.Calibrated)
def _calibrated(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """ONNX has no such note."""
    e.node("Identity", ins, outs)


@emits(quant.Lookup)
def _lookup(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """Gather(table, x), x as an int64; that of s8 modulo 256."""
    index = e.temp("Cast", [ins[0]], to=DType.i64.onnx)
    if op.operand(0).tensor.dtype is DType.i8:
        if e.opset < 10:
            raise NeedsOpset(10, "lookup of s8")
        index = e.temp("Mod", [index, e.number(256, DType.i64)])
    e.node("Gather", [ins[1], index], outs, axis=0)


@emits(quant.ConvInteger)
def _conv(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """ConvInteger subtracts a zero point: padding of another value than 0 is written as a Pad."""
    given = ins[2] if len(ins) > 2 else ""
    kind = kind_of(op)
    if e.opset < 10:
        raise NeedsOpset(10, "ConvInteger")
    x, pads, dtype = ins[0], kind.pads, op.operand(0).tensor.dtype
    if any(pads) and (given or kind.pad_value):
        if e.opset < 13:
            raise NeedsOpset(13, "Pad of 8-bit integers")
        n = len(pads) // 2
        full = (0, 0, *pads[:n], 0, 0, *pads[n:])
        value = given or e.number(kind.pad_value, dtype)
        x = e.temp("Pad", [x, e.ints(full), value], mode="constant")
        pads = (0,) * len(pads)
    e.node("ConvInteger", [x, ins[1]], outs, strides=kind.strides, pads=pads,
           dilations=kind.dilations, group=kind.group)  # fmt: skip


@emits(quant.MatMulInteger)
def _matmul(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    if e.opset < 10:
        raise NeedsOpset(10, "MatMulInteger")
    e.node("MatMulInteger", ins, outs)
