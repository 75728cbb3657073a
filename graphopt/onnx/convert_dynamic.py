"""Converters of integer sums with zero points, and of what quantizes by the range of its operand.

    sum (x - p)(w - r) = sum x w' - p sum w' - d (sum x - p K)      w' = w - r + d, in s8

over K products. Where w - r is in s8, d = 0; else w' = w - 128 (or w, where w is s8). p may be
known only as the model runs; w and r are constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graphopt.ir.builtin import Const
from graphopt.ir.core import OpKind, Value
from graphopt.ir.data import Computed, Data, Inline
from graphopt.ir.types import Array, DType
from graphopt.onnx.convert_nn import kernel_window
from graphopt.onnx.node import Modelled, NodeView, Step, converts
from graphopt.ops import elementwise, movement, quant, reduce

BYTES = (DType.u8, DType.i8)
Operand = Value | int | None


@converts("DynamicQuantizeLinear")
def _dynamic(n: NodeView) -> Modelled | None:
    return Step(quant.DynamicQuantize(), n.operands) if n.dtype(0) is DType.f32 else None


@dataclass(frozen=True)
class Weights:
    """w' as s8, computed when wanted, and d by output channel (None where it is 0)."""

    integers: Computed
    off: Array | None

    def sums(self, axes: tuple[int, ...], shape: tuple[int, ...]) -> Computed:
        """The sums of w' over axes, as int32 of a shape."""
        read: Callable[[], Array] = self.integers.numpy
        total = lambda: read().astype(np.int64).sum(axis=axes).astype(np.int32)  # noqa: E731
        return Computed(DType.i32, shape, lambda: total().reshape(shape))


def _weights(n: NodeView, at: int, zero: int, by: tuple[int, ...]) -> Weights | None:
    """The weights at an operand, less their zero point: one, or of the shape `by`."""
    data, point = _constant(n.operand(at)), np.zeros((), np.int64)
    if data is None or data.dtype not in BYTES:
        return None
    if n.has(zero):
        found = n.const(zero)
        if found is None or found.size not in (1, math.prod(by)):
            return None
        point = found.astype(np.int64).reshape(by if found.size > 1 else ())
    base = 128 if data.dtype is DType.u8 else 0
    off = None if (point == base).all() or _fits(data, point) else point - base
    less = base if off is not None else point
    return Weights(Computed(DType.i8, data.shape, lambda: _narrow(data, less)), off)


def _constant(value: Value | None) -> Data | None:
    op = value.op if value else None
    return op.kind.data if op and isinstance(op.kind, Const) else None


def _fits(data: Data, point: Array) -> bool:
    moved = data.numpy().astype(np.int16) - point
    return bool((moved >= -128).all() and (moved <= 127).all())


def _narrow(data: Data, less: Array | int) -> Array:
    return (data.numpy().astype(np.int16) - less).astype(np.int8)


class Chain:
    """Steps in the making."""

    def __init__(self) -> None:
        """None yet."""
        self.steps: list[Step] = []

    def add(self, kind: OpKind, *operands: Operand) -> int:
        """Append a step; give its number."""
        self.steps.append(Step(kind, operands))
        return len(self.steps) - 1

    def const(self, data: Data | Array) -> int:
        """A constant."""
        return self.add(Const(Inline(data) if isinstance(data, np.ndarray) else data))

    def less(self, total: int, factors: tuple[Operand, Operand]) -> int:
        """total - a b."""
        return self.add(elementwise.Sub(), total, self.add(elementwise.Mul(), *factors))


def _point(n: NodeView, at: int) -> tuple[bool, bool]:
    """Whether the zero point at an operand is one that can be used; and whether it isn't 0."""
    if not n.has(at):
        return True, False
    one = n.rank(at) == 0 or n.shape(at) == (1,)
    return one and n.dtype(at) is n.dtype(0), n.number(at) != 0


def _wide(c: Chain, n: NodeView, at: int) -> int:
    return c.add(elementwise.Cast(DType.i32), n.operand(at))


@converts("MatMulInteger")
def _matmul(n: NodeView) -> Modelled | None:
    """a, b, their zero points: one for a, one or one a column for b."""
    usable, moved = _point(n, 2)
    shape = n.shape(1)
    if not n.has(2) and not n.has(3):
        return Step(quant.MatMulInteger(), n.operands[:2])
    if not usable or n.dtype(0) not in BYTES or not n.rank(0) or shape is None or len(shape) < 2:
        return None
    sizes = tuple(d for d in shape if isinstance(d, int))
    w = _weights(n, 1, 3, sizes[-1:]) if len(sizes) == len(shape) else None
    if w is None or (w.off is not None and n.rank(0) == 1):
        return None
    c = Chain()
    total = c.add(quant.MatMulInteger(), n.operand(0), c.const(w.integers))
    by = sizes[-1:] if len(sizes) == 2 else (*sizes[:-2], 1, sizes[-1])
    if moved:
        total = c.less(total, (_wide(c, n, 2), c.const(w.sums((-2,), by))))
    if w.off is None:
        return c.steps
    a = c.add(elementwise.Cast(DType.i32), n.operand(0))
    rows = c.add(reduce.ReduceSum(((n.rank(0) or 1) - 1,)), a)
    if moved:
        rows = c.less(rows, (_wide(c, n, 2), c.const(np.array(sizes[-2], np.int32))))
    c.less(total, (rows, c.const(np.asarray(w.off, np.int32))))
    return c.steps


@converts("ConvInteger")
def _conv(n: NodeView) -> Modelled | None:
    """x, w, their zero points: one for x, by which it is padded; one or one a channel for w."""
    window, shape = kernel_window(n), n.shape(1)
    pads = window and window.pads()
    usable, moved = _point(n, 2)
    if window is None or pads is None or shape is None or not usable or n.dtype(0) not in BYTES:
        return None
    sizes = tuple(d for d in shape if isinstance(d, int))
    if len(sizes) != len(shape) or len(sizes) < 3:
        return None
    w, group = _weights(n, 1, 3, (sizes[0], *(1,) * (len(sizes) - 1))), n.attr("group", 1)
    if w is None or (w.off is not None and group > 1 and (sizes[0], sizes[1]) != (group, 1)):
        return None
    c, known = Chain(), n.number(2) if moved else 0
    pad: tuple[Operand, ...] = ()
    if known is None and any(pads):
        pad = (n.operand(2) if n.rank(2) == 0 else c.add(movement.Reshape(()), n.operand(2)),)
    kind = quant.ConvInteger(window.strides, pads, window.dilations, group, int(known or 0))
    total = c.add(kind, n.operand(0), c.const(w.integers), *pad)
    if moved:
        by, axes = (sizes[0], *(1,) * (len(sizes) - 2)), tuple(range(1, len(sizes)))
        total = c.less(total, (_wide(c, n, 2), c.const(w.sums(axes, by))))
    if w.off is None:
        return c.steps
    ones = np.ones((group, *sizes[1:]), np.int8)
    seen = c.add(kind, n.operand(0), c.const(ones), *pad)
    if moved:
        count = np.array(math.prod(sizes[1:]), np.int32)
        seen = c.less(seen, (_wide(c, n, 2), c.const(count)))
    c.less(total, (seen, c.const(_by_channel(w.off, len(sizes)))))
    return c.steps


def _by_channel(off: Array, rank: int) -> Array:
    """One number, or one a channel of a result of a rank, as int32."""
    numbers = np.asarray(off, np.int32)
    return numbers.reshape(-1, *(1,) * (rank - 2)) if numbers.size > 1 else numbers.reshape(())
