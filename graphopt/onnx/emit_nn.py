"""Writing convolution, pooling, normalisation, matrix products and resize."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.core import Op
from graphopt.ir.types import DType
from graphopt.onnx.emitter import Emitter, NeedsOpset, emits, kind_of
from graphopt.ops import linalg, nn, resize

Strs = list[str]


def _plural(values: tuple[int, ...], default: int) -> tuple[int, ...] | None:
    """An attribute, or None where it is its default everywhere."""
    return None if all(v == default for v in values) else values


def _static(op: Op, index: int) -> tuple[int, ...] | None:
    shape = op.operand(index).tensor.shape
    kernel = None if shape is None else shape[2:]
    return kernel if kernel and all(isinstance(d, int) for d in kernel) else None  # pyright: ignore


@emits(nn.Conv)
def _conv(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    kind = kind_of(op)
    e.node("Conv", ins, outs, kernel_shape=_static(op, 1), strides=kind.strides, pads=kind.pads,
           dilations=kind.dilations, group=kind.group)  # fmt: skip


@emits(nn.ConvTranspose)
def _conv_transpose(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    kind = kind_of(op)
    e.node("ConvTranspose", ins, outs, kernel_shape=_static(op, 1), strides=kind.strides,
           pads=kind.pads, dilations=kind.dilations, group=kind.group,
           output_padding=_plural(kind.output_padding, 0))  # fmt: skip


@emits(nn.MaxPool)
def _max_pool(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    kind = kind_of(op)
    e.node("MaxPool", ins, outs, kernel_shape=kind.kernel, strides=kind.strides, pads=kind.pads,
           dilations=_plural(kind.dilations, 1))  # fmt: skip


@emits(nn.AvgPool)
def _avg_pool(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    kind = kind_of(op)
    e.node("AveragePool", ins, outs, kernel_shape=kind.kernel, strides=kind.strides,
           pads=kind.pads, dilations=_plural(kind.dilations, 1),
           count_include_pad=int(kind.count_include_pad))  # fmt: skip


@emits(nn.BatchNorm)
def _batch_norm(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    e.node("BatchNormalization", ins, outs, epsilon=kind_of(op).epsilon)


@emits(nn.InstanceNorm)
def _instance_norm(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    e.node("InstanceNormalization", ins, outs, epsilon=kind_of(op).epsilon)


@emits(nn.LayerNorm, native=17)
def _layer_norm(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * scale + bias."""
    kind = kind_of(op)
    if e.opset >= 17:
        e.node("LayerNormalization", ins, outs, axis=kind.axis, epsilon=kind.epsilon)
        return
    x = _widened(e, op, ins[0])
    centred = e.temp("Sub", [x, _mean(e, op, x)])
    _scaled(e, op, centred, [*ins, ""][:3], outs)


@emits(nn.RMSNorm, native=23)
def _rms_norm(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """x / sqrt(mean(x^2) + epsilon) * scale."""
    kind = kind_of(op)
    if e.opset >= 23:
        e.node("RMSNormalization", ins, outs, axis=kind.axis, epsilon=kind.epsilon)
        return
    _scaled(e, op, _widened(e, op, ins[0]), [*ins, ""], outs)


def _widened(e: Emitter, op: Op, x: str) -> str:
    """The statistics of 16-bit floats are computed in float32."""
    narrow = op.operand(0).tensor.dtype.bits < 32
    return e.temp("Cast", [x], to=DType.f32.onnx) if narrow else x


def _mean(e: Emitter, op: Op, x: str) -> str:
    """The mean over the axes from `axis` on."""
    rank, axis = op.operand(0).tensor.rank, kind_of(op).axis
    if e.opset >= 18:
        return e.temp("ReduceMean", [x, e.ints(tuple(range(axis, 0)))])
    if e.opset >= 11:
        return e.temp("ReduceMean", [x], axes=tuple(range(axis, 0)))
    if rank is None:
        raise NeedsOpset(11, f"{op.kind.name} of an unknown rank")
    return e.temp("ReduceMean", [x], axes=tuple(range(rank + axis, rank)))


def _scaled(e: Emitter, op: Op, x: str, ins: Strs, outs: Strs) -> None:
    """x / sqrt(mean(x^2) + epsilon) * scale + bias, in the operand's type at the end."""
    dtype = op.operand(0).tensor.dtype
    wide = dtype if dtype.bits >= 32 else DType.f32
    variance = _mean(e, op, e.temp("Mul", [x, x]))
    shifted = e.temp("Add", [variance, e.number(kind_of(op).epsilon, wide)])
    y = e.temp("Div", [x, e.temp("Sqrt", [shifted])])
    y = y if wide is dtype else e.temp("Cast", [y], to=dtype.onnx)
    if not ins[2]:
        e.node("Mul", [y, ins[1]], outs)
        return
    e.node("Add", [e.temp("Mul", [y, ins[1]]), ins[2]], outs)


@emits(nn.LRN)
def _lrn(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    kind = kind_of(op)
    e.node("LRN", ins, outs, size=kind.size, alpha=kind.alpha, beta=kind.beta, bias=kind.bias)


@emits(nn.Softmax, nn.LogSoftmax)
def _softmax(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """Before opset 13 it runs over all axes from `axis` on: those not of size 1 move away."""
    op_type = "Softmax" if isinstance(op.kind, nn.Softmax) else "LogSoftmax"
    axis, rank = kind_of(op).axis, op.operand(0).tensor.rank
    if e.opset >= 13:
        e.node(op_type, ins, outs, axis=axis)
        return
    if rank is None and (axis != -1 or e.opset < 11):
        raise NeedsOpset(13, f"{op_type} of an unknown rank")
    at = -1 if rank is None else axis % rank
    if rank is None or all(d == 1 for d in (op.operand(0).tensor.shape or ())[at + 1 :]):
        e.node(op_type, ins, outs, axis=at)
        return
    swap = list(range(rank))
    swap[at], swap[-1] = swap[-1], swap[at]
    inner = e.temp(op_type, [e.temp("Transpose", ins, perm=tuple(swap))], axis=rank - 1)
    e.node("Transpose", [inner], outs, perm=tuple(swap))


@emits(linalg.MatMul)
def _matmul(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    e.node("MatMul", ins, outs)


@emits(linalg.Gemm)
def _gemm(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """The third operand is optional from opset 11 on."""
    kind, dtype = kind_of(op), op.operand(0).tensor.dtype
    operands = [n for n in ins if n]
    if len(operands) == 2 and e.opset < 11:
        operands.append(e.number(0, dtype))
    e.node("Gemm", operands, outs, alpha=kind.alpha, beta=kind.beta,
           transA=int(kind.trans_a) or None, transB=int(kind.trans_b) or None)  # fmt: skip


@emits(resize.Resize)
def _resize(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """By scales where they give the sizes exactly; else by sizes, from opset 11 on."""
    kind, shape = kind_of(op), op.operand(0).tensor.shape
    scales = (1.0, 1.0, *kind.scales)
    exact = shape is not None and _exact(kind, shape[2:])
    if e.opset >= 11:
        attrs: dict[str, Any] = {"coordinate_transformation_mode": kind.coordinates}
        attrs["nearest_mode"] = kind.rounding if kind.mode == "nearest" else None
        roi = "" if e.opset >= 13 else e.floats(())
        tail = [e.floats(scales)] if exact else [roi, _sizes(e, op, ins)]
        e.node("Resize", [*ins, roi, *tail], outs, mode=kind.mode, **attrs)
        return
    if kind.coordinates != "asymmetric" or not exact or (kind.mode, kind.rounding) not in _OLD:
        raise NeedsOpset(11, f"Resize with {kind.coordinates} coordinates and {kind.rounding}")
    if e.opset == 10:
        e.node("Resize", [*ins, e.floats(scales)], outs, mode=kind.mode)
    elif e.opset == 9:
        e.node("Upsample", [*ins, e.floats(scales)], outs, mode=kind.mode)
    else:
        e.node("Upsample", ins, outs, mode=kind.mode, scales=scales)


_OLD = {("nearest", "floor"), ("linear", "round_prefer_floor")}  # what opset 10 and before do


def _exact(kind: resize.Resize, sizes: tuple[object, ...]) -> bool:
    """Whether floor(size * scale), in float32 as in ONNX Runtime, is the size asked for."""
    for out, scale, size in zip(kind.sizes, kind.scales, sizes, strict=True):
        if not isinstance(size, int) or int(np.float32(scale) * np.float32(size)) != out:
            return False
    return True


def _sizes(e: Emitter, op: Op, ins: Strs) -> str:
    """All four sizes; those of a dynamic batch are read from the operand."""
    shape, spatial = op.operand(0).tensor.shape, kind_of(op).sizes
    if shape is not None and all(isinstance(d, int) for d in shape[:2]):
        return e.ints((*shape[:2], *spatial))  # pyright: ignore[reportArgumentType]
    first = e.temp("Slice", [e.temp("Shape", ins), e.ints((0,)), e.ints((2,))])
    return e.temp("Concat", [first, e.ints(spatial)], axis=0)
