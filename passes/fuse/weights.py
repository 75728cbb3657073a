"""Ops with constant weights, seen as y = linear(x) + bias: what scales and shifts can go into.

New weights are computed in float64 and rounded once, when they are first wanted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphopt.ir.core import Op, Value
from graphopt.ir.data import Data
from graphopt.ir.types import Array
from graphopt.ops.linalg import Gemm, MatMul
from graphopt.ops.nn import Conv, ConvTranspose
from graphopt.rewrite import Miss, Rewriter, const
from graphopt.rewrite import data as constant

Lazy = Callable[[], Array]  # a float64 array, computed when wanted


def wide(data: Data) -> Array:
    """The numbers in float64."""
    return data.numpy().astype(np.float64)


@dataclass(frozen=True)
class Linear:
    """An op y = linear(x; w) + b with constant w; `outputs` and `inputs` count the channels."""

    op: Op
    w: Data
    b: Data | None
    outputs: int
    inputs: int
    axis: int  # of the output channels in y (and of the input channels in x)

    @property
    def x(self) -> Value:
        """What is multiplied by the weights."""
        return self.op.operand(0)

    def scaled(self, w: Array, by: Array) -> Array:
        """W with output channel i multiplied by by[i]."""
        match self.op.kind:
            case Conv():
                return w * by.reshape(-1, *(1,) * (w.ndim - 1))
            case ConvTranspose(group=g):
                grouped = w.reshape(g, w.shape[0] // g, *w.shape[1:])
                return (grouped * by.reshape(g, 1, -1, *(1,) * (w.ndim - 2))).reshape(w.shape)
            case Gemm(trans_b=True):
                return w * by[:, None]
            case _:
                return w * by

    def input_scaled(self, w: Array, by: Array) -> Array:
        """W with input channel i multiplied by by[i]."""
        match self.op.kind:
            case Conv(group=g):
                grouped = w.reshape(g, w.shape[0] // g, *w.shape[1:])
                return (grouped * by.reshape(g, 1, -1, *(1,) * (w.ndim - 2))).reshape(w.shape)
            case ConvTranspose():
                return w * by.reshape(-1, *(1,) * (w.ndim - 1))
            case Gemm(trans_b=True):
                return w * by
            case _:
                return w * by[:, None]

    def response(self, w: Array, to: Array) -> Array:
        """What output channels add when every input channel i holds to[i] everywhere.

        The mean over pixels, of a transposed convolution: each gets prod(strides) of its taps.
        """
        match self.op.kind:
            case Conv(group=g):
                taps = w.sum(axis=tuple(range(2, w.ndim)))  # [M, C/g]
                inputs = np.repeat(to.reshape(g, -1), w.shape[0] // g, axis=0)
                return (taps * inputs).sum(axis=1)
            case ConvTranspose(group=g, strides=strides):
                taps = w.sum(axis=tuple(range(2, w.ndim))) / math.prod(strides)  # [C, M/g]
                return np.einsum("gcm,gc->gm", taps.reshape(g, -1, w.shape[1]),
                                 to.reshape(g, -1)).reshape(-1)  # fmt: skip
            case Gemm(trans_b=True, alpha=alpha):
                return alpha * (w @ to)
            case Gemm(alpha=alpha):
                return alpha * (to @ w)
            case _:
                return to @ w

    def bias(self) -> Array:
        """The bias as [outputs] in float64, zeros where there is none."""
        if self.b is None:
            return np.zeros(self.outputs)
        beta = self.op.kind.beta if isinstance(self.op.kind, Gemm) else 1.0
        return np.broadcast_to(wide(self.b).reshape(-1) * beta, (self.outputs,))

    def rebuild(self, rw: Rewriter, x: Value, w: Lazy | None, b: Lazy | None) -> Value:
        """The op on x with new weights and bias (None: as they are)."""
        kind, new_w, new_b = self.op.kind, self.op.operand(1), None
        if len(self.op.operands) > 2:
            new_b = self.op.operands[2]
        name = new_w.hint
        if w is not None:
            new_w = rw.computed(self.w, self.w.shape, w)
            new_w.hint = name
        if b is not None:
            new_b = rw.computed(self.w, (self.outputs,), b)
            new_b.hint = f"{name}_bias" if name else ""
            kind = replace(kind, beta=1.0) if isinstance(kind, Gemm) else kind
        return rw.make(kind, x, new_w, *(() if isinstance(kind, MatMul) else (new_b,)))


def linear(value: Value | None) -> Linear | None:
    """The op with weights that makes a value; None for any other op.

    Raises:
        Miss: its weights or bias aren't constant, or of a shape that can't be scaled.
    """
    op = value.op if value else None
    if op is None or not isinstance(op.kind, Conv | ConvTranspose | Gemm | MatMul):
        return None
    if isinstance(op.kind, MatMul) and const(op.operand(1)) is None:
        return None  # a product of activations; not worth a remark
    w = constant(op.operand(1))
    if not w.dtype.is_float:
        raise Miss("the weights are integers")
    bias = op.operands[2] if len(op.operands) > 2 else None
    b = None if bias is None else constant(bias)
    outputs, inputs, axis = _channels(op, w)
    if b is not None and not _row(b, outputs):
        raise Miss("the bias is not one number an output channel")
    return Linear(op, w, b, outputs, inputs, axis)


def _row(b: Data, outputs: int) -> bool:
    """Whether a bias is a scalar or a row [outputs]; a Gemm's may be a column or a matrix."""
    return b.shape in ((outputs,), (1, outputs), (1,), (), (1, 1))


def _channels(op: Op, w: Data) -> tuple[int, int, int]:
    kind: Any = op.kind
    match kind:
        case Conv(group=g):
            return w.shape[0], w.shape[1] * g, 1
        case ConvTranspose(group=g):
            return w.shape[1] * g, w.shape[0], 1
        case Gemm(trans_b=True):
            return w.shape[0], w.shape[1], -1
        case _:
            if len(w.shape) != 2:
                raise Miss("the weights are not a matrix")
            return w.shape[1], w.shape[0], -1


def per_channel(data: Data, like: Value, axis: int, channels: int) -> Lazy:
    """A constant that broadcasts against `like`, as [channels] along `axis`.

    Raises:
        Miss: it varies along another axis, or would broadcast `like` to a larger shape.
    """
    rank = like.tensor.rank
    if rank is None or len(data.shape) > rank:
        raise Miss("the constant has a higher rank")
    shape = (1,) * (rank - len(data.shape)) + data.shape
    if any(d != 1 for i, d in enumerate(shape) if i != axis % rank):
        raise Miss("the constant is not one number a channel")
    if shape[axis % rank] not in (1, channels):
        raise Miss("the constant is not one number a channel")
    return lambda: np.broadcast_to(wide(data).reshape(-1), (channels,))
