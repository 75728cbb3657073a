"""Scales and shifts by channel go into the weights and the bias next to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.core import Op, Value
from graphopt.ir.types import Array
from graphopt.ops.elementwise import Add, Div, Mul, Sub
from graphopt.ops.linalg import Gemm, MatMul
from graphopt.ops.nn import BatchNorm, Conv, ConvTranspose
from graphopt.passes.fuse.weights import Lazy, Linear, linear, per_channel, wide
from graphopt.passes.shapes import rank, same_shape
from graphopt.rewrite import Miss, Rewriter, Rule, const, only_use, rule
from graphopt.rewrite import data as constant


@dataclass(frozen=True)
class Affine:
    """y = x * scale + shift by channel; None: 1, or 0."""

    op: Op
    x: Value
    scale: Lazy | None
    shift: Lazy | None


def _batch_norm(op: Op, kind: BatchNorm, axis: int) -> Affine:
    if axis % rank(op.operand(0)) != 1:
        raise Miss("it normalises another axis than that of the weights")
    scale, bias, mean, var = (constant(v) for v in op.operands[1:])

    def factor() -> Array:
        return wide(scale) / np.sqrt(wide(var) + kind.epsilon)

    return Affine(op, op.operand(0), factor, lambda: wide(bias) - wide(mean) * factor())


def affine(op: Op, x: Value, axis: int, channels: int) -> Affine | None:
    """How `op` scales and shifts its operand x; None when it does anything else.

    Raises:
        Miss: it does, but by what isn't one constant a channel.
    """
    kind = op.kind
    if isinstance(kind, BatchNorm):
        return _batch_norm(op, kind, axis) if op.operand(0) is x else None
    if not isinstance(kind, Add | Sub | Mul | Div):
        return None
    first = op.operand(0) is x
    c = const(op.operand(1 if first else 0))
    if c is None or not c.dtype.is_float:
        return None
    if not same_shape(op.result, x):
        raise Miss(f"it broadcasts {x.type} to {op.result.type}")
    return _arithmetic(op, x, first, per_channel(c, x, axis, channels))


def _arithmetic(op: Op, x: Value, first: bool, by: Lazy) -> Affine | None:
    match op.kind:
        case Add():
            return Affine(op, x, None, by)
        case Sub() if first:
            return Affine(op, x, None, lambda: -by())
        case Sub():
            return Affine(op, x, lambda: -np.ones_like(by()), by)
        case Mul():
            return Affine(op, x, by, None)
        case Div() if first:
            return Affine(op, x, lambda: 1 / by(), None)
        case _:
            return None


def _after(rw: Rewriter, op: Op) -> Value | None:
    """affine(linear(x)) -> linear(x) with other weights and bias."""
    for y in (v for v in op.operands if v):
        found = linear(y)
        if found is None:
            continue
        step = affine(op, y, found.axis, found.outputs)
        if step is None:
            continue
        only_use(y)
        if isinstance(found.op.kind, MatMul) and step.shift:
            return _matmul_shifted(rw, op, found, step)
        rw.absorb(found.op)
        return found.rebuild(rw, found.x, _new_weights(found, step), _new_bias(found, step))
    return None


def _new_weights(found: Linear, step: Affine) -> Lazy | None:
    scale = step.scale
    return scale and (lambda: found.scaled(wide(found.w), scale()))


def _new_bias(found: Linear, step: Affine) -> Lazy | None:
    scale, shift = step.scale, step.shift
    if shift is None and found.b is None:
        return None

    def bias() -> Array:
        b = found.bias() if scale is None else found.bias() * scale()
        return b if shift is None else b + shift()

    return bias


def _matmul_shifted(rw: Rewriter, op: Op, found: Linear, step: Affine) -> Value | None:
    """A matrix product has no bias of its own: gemm, if its operand is a matrix too."""
    if found.x.tensor.rank != 2:
        return None
    shift, scale = step.shift, step.scale
    assert shift is not None
    rw.absorb(found.op)
    w = found.op.operand(1)
    if scale is not None:
        w = rw.computed(found.w, found.w.shape, lambda: found.scaled(wide(found.w), scale()))
    return rw.make(Gemm(), found.x, w, rw.computed(found.w, (found.outputs,), shift))


@rule(BatchNorm)
def batch_norm_into_weights(rw: Rewriter, op: Op, kind: BatchNorm) -> Value | None:
    """bn(linear(x; w, b)) -> linear(x; w*s, (b-mean)*s + bias), s = scale/sqrt(var+eps)."""
    return _after(rw, op)


@rule(Mul)
def multiply_into_weights(rw: Rewriter, op: Op, kind: Mul) -> Value | None:
    """linear(x; w, b) * c -> linear(x; w*c, b*c), c by channel."""
    return _after(rw, op)


@rule(Div)
def divide_into_weights(rw: Rewriter, op: Op, kind: Div) -> Value | None:
    """linear(x; w, b) / c -> linear(x; w/c, b/c), c by channel."""
    return _after(rw, op)


@rule(Add)
def add_into_bias(rw: Rewriter, op: Op, kind: Add) -> Value | None:
    """linear(x; w, b) + c -> linear(x; w, b+c), c by channel."""
    return _after(rw, op)


@rule(Sub)
def subtract_into_bias(rw: Rewriter, op: Op, kind: Sub) -> Value | None:
    """linear(x; w, b) - c -> linear(x; w, b-c); c - linear(x; w, b) -> linear(x; -w, c-b)."""
    return _after(rw, op)


def _before(rw: Rewriter, op: Op) -> Value | None:
    """linear(affine(x)) -> linear(x) with other weights and bias."""
    inner = op.operand(0).op
    if inner is None or not isinstance(inner.kind, BatchNorm | Add | Sub | Mul | Div):
        return None
    found = linear(op.result)
    if found is None:
        return None
    step = _step_before(inner, found)
    if step is None:
        return None
    only_use(op.operand(0))
    if step.shift is not None:
        _check_shift(found)
    rw.absorb(inner)
    scale, shift = step.scale, step.shift
    w = scale and (lambda: found.input_scaled(wide(found.w), scale()))
    b = shift and (lambda: found.bias() + found.response(wide(found.w), shift()))
    return found.rebuild(rw, step.x, w, b)


def _step_before(inner: Op, found: Linear) -> Affine | None:
    for x in (v for v in inner.operands if v and const(v) is None):
        if x.tensor.rank != found.x.tensor.rank:
            continue
        step = affine(inner, x, found.axis, found.inputs)
        if step:
            return step
    return None


def _check_shift(found: Linear) -> None:
    """A shift of the input is a shift of the output only where no padding mixes zeros in."""
    kind = found.op.kind
    if isinstance(kind, MatMul):
        raise Miss("a matrix product has no bias for the shift")
    if isinstance(kind, ConvTranspose):
        raise Miss("at the border a transposed convolution sees fewer taps")
    if isinstance(kind, Conv) and any(kind.pads):
        raise Miss("the convolution pads with zeros, which the shift would change")


@rule(Conv)
def affine_into_conv(rw: Rewriter, op: Op, kind: Conv) -> Value | None:
    """conv(x*s + t; w, b) -> conv(x; w*s, b + sum(w*t)), s and t by input channel."""
    return _before(rw, op)


@rule(ConvTranspose)
def affine_into_conv_transpose(rw: Rewriter, op: Op, kind: ConvTranspose) -> Value | None:
    """conv_transpose(x*s; w, b) -> conv_transpose(x; w*s, b), s by input channel."""
    return _before(rw, op)


@rule(Gemm)
def affine_into_gemm(rw: Rewriter, op: Op, kind: Gemm) -> Value | None:
    """gemm(x*s + t; w, b) -> gemm(x; w*s, b + w*t), s and t by input."""
    return None if kind.trans_a else _before(rw, op)


@rule(MatMul)
def affine_into_matmul(rw: Rewriter, op: Op, kind: MatMul) -> Value | None:
    """matmul(x*s; w) -> matmul(x; w*s), s by input."""
    return _before(rw, op)


@rule(Add)
def matmul_to_gemm(rw: Rewriter, op: Op, kind: Add) -> Value | None:
    """matmul(a, b) + c -> gemm(a, b, c), for matrices and a c that is a vector."""
    for product, c in ((op.operand(0), op.operand(1)), (op.operand(1), op.operand(0))):
        maker = product.op
        if maker is None or not isinstance(maker.kind, MatMul):
            continue
        if not op.result.tensor.dtype.is_float:
            continue  # ONNX Runtime has no Gemm of integers
        if maker.operand(0).tensor.rank != 2 or maker.operand(1).tensor.rank != 2:
            continue
        if not same_shape(op.result, product) or (c.tensor.rank or 3) > 1:
            continue
        only_use(product)
        rw.absorb(maker)
        return rw.make(Gemm(), maker.operand(0), maker.operand(1), c)
    return None


RULES: tuple[Rule[Any], ...] = (
    batch_norm_into_weights, multiply_into_weights, divide_into_weights, add_into_bias,
    subtract_into_bias, affine_into_conv, affine_into_conv_transpose, affine_into_gemm,
    affine_into_matmul, matmul_to_gemm,
)  # fmt: skip
