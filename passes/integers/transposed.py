"""A transposed convolution of integers: a convolution that makes all phases, then spread out.

    y[m, s u + i - p] = sum over c, t of x[c, u - t] w[c, m, i + s t],  0 <= i < s

Result s u + i - p has taps i, i + s, i + 2 s ... of the kernel alone, so that the s phases (s^d of
d axes) are so many times the output channels of one convolution of stride 1 with ceil(K / s) taps.
Nothing is multiplied by the zeros that the definition puts between elements, but the taps past K
where s doesn't divide it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.core import Op, Value
from graphopt.ir.data import Computed
from graphopt.ir.types import Array, DType
from graphopt.ops.movement import DepthToSpace, Reshape, Slice, Transpose
from graphopt.ops.nn import ConvTranspose
from graphopt.ops.quant import ConvInteger
from graphopt.passes.integers.read import activation
from graphopt.passes.integers.sums import Sum, Weights, finish, weights
from graphopt.rewrite import Miss, Rewriter, Rule, const, rule

Ints = tuple[int, ...]
Make = Callable[..., Value]  # of an op's kind and operands


@dataclass(frozen=True)
class Phases:
    """The convolution of stride 1 that makes all phases: its taps, pads and group.

    `skip`: what to leave out at the beginning of each axis of the result, once spread out.
    """

    strides: Ints
    taps: Ints
    pads: Ints
    skip: Ints
    group: int

    @property
    def count(self) -> int:
        """Phases."""
        return math.prod(self.strides)

    def convolution(self, pad_value: int = 0) -> ConvInteger:
        """Of weights [M s^d, C/group, taps...]."""
        ones = (1,) * len(self.taps)
        return ConvInteger(ones, self.pads, ones, self.group, pad_value)

    def shape(self, w: Ints) -> Ints:
        """Of the convolution's weights, for w: [C, M/group, K...]."""
        return (self.count * self.group * w[1], w[0] // self.group, *self.taps)

    def weights(self, w: Array) -> Array:
        """[C, M/group, K...] as those of the convolution.

        The phase counts slower than the output channel, so that pixels move in whole blocks of
        channels; of several groups it counts faster, since a group's channels lie together.
        """
        n, g = len(self.taps), self.group
        past = [t * s - k for t, s, k in zip(self.taps, self.strides, w.shape[2:], strict=True)]
        padded = np.pad(w, [(0, 0), (0, 0), *((0, p) for p in past)])
        parts = [d for both in zip(self.taps, self.strides, strict=True) for d in both]
        split = padded.reshape(g, w.shape[0] // g, w.shape[1], *parts)
        taps, phases = range(3, 3 + 2 * n, 2), range(4, 4 + 2 * n, 2)
        order = (*phases, 0, 2, 1, *taps) if g == 1 else (0, 2, *phases, 1, *taps)
        moved = np.flip(split, tuple(taps)).transpose(order)
        return np.ascontiguousarray(moved.reshape(self.shape(w.shape)))

    def channels(self, line: Array) -> Array:
        """A number for each output channel, for each of the convolution's."""
        return np.tile(line, self.count) if self.group == 1 else np.repeat(line, self.count)


def phases(kind: ConvTranspose, kernel: Ints) -> Phases | None:
    """How a transposed convolution of a kernel is made; None for dilations and larger pads."""
    n = len(kind.strides)
    if any(d != 1 for d in kind.dilations):
        return None
    taps = tuple(-(-k // s) for k, s in zip(kernel, kind.strides, strict=True))
    first = tuple(p // s for p, s in zip(kind.pads, kind.strides, strict=False))
    begin = tuple(t - 1 - f for t, f in zip(taps, first, strict=True))
    end = tuple(
        (kind.output_padding[i] + kernel[i] - 1 - kind.pads[n + i]) // kind.strides[i]
        for i in range(n)
    )
    if min(*begin, *end) < 0:
        return None
    skip = tuple(p - f * s for p, f, s in zip(kind.pads, first, kind.strides, strict=False))
    return Phases(kind.strides, taps, (*begin, *end), skip, kind.group)


def possible(op: Op) -> bool:
    """Whether `quantize` may make integers of a transposed convolution of constant weights.

    A quantized weight has a scale for each index of its second axis, which the groups share: so of
    one group alone.
    """
    kind, w = op.kind, const(op.operand(1))
    if not isinstance(kind, ConvTranspose) or kind.group != 1 or w is None:
        return False
    return phases(kind, tuple(w.shape[2:])) is not None


@rule(ConvTranspose)
def transposed_of_integers(rw: Rewriter, op: Op, kind: ConvTranspose) -> Value | None:
    """conv_transpose(dequantize(x), dequantize(w), b) -> spread(conv_integer(x, w') * scale)."""
    x, w = activation(op.operand(0)), weights(op.operand(1), 1)
    if x is None or w is None:
        return None
    found, shape = phases(kind, tuple(w.data.shape[2:])), op.result.tensor.static
    if found is None:
        raise Miss("dilated, or padded by more than its kernel: not a convolution for each phase")
    if shape is None:
        raise Miss("the size of the result isn't known")
    s = Sum(x, _phased(found, w), tuple(range(1, len(shape))), found.channels)
    s.check()
    bias = s.bias(op.operands[2], shape[1])
    packed = rw.computed(np.zeros(0, np.int8), s.w.data.shape, s.w.integers)
    total = rw.make(found.convolution(x.point), x.integers, packed)
    return spread(rw.make, found, finish(rw, total, s, bias, 1), shape)


def _phased(found: Phases, w: Weights) -> Weights:
    """The weights of the convolution; a scale for each output channel, or one."""
    compute = lambda: found.weights(w.integers())  # noqa: E731
    data = Computed(DType.i8, found.shape(tuple(w.data.shape)), compute)
    scale = np.tile(w.scale, found.group) if w.scale.size > 1 else w.scale
    return Weights(data, data.numpy, scale)


def spread(make: Make, found: Phases, value: Value, shape: Ints) -> Value:
    """The phases of [N, M s^d, counts...] between each other, and what of that is the result.

    Args:
        make: inserts an op.
        found: how the phases were made.
        value: what holds them.
        shape: of the result.
    """
    counts = value.tensor.static
    assert counts is not None
    n, strides = len(shape) - 2, found.strides
    first = found.group == 1
    if n == 2 and strides[0] == strides[1] > 1:
        value = make(DepthToSpace(strides[0], "DCR" if first else "CRD"), value)
    elif found.count > 1:
        apart = (*strides, shape[1]) if first else (shape[1], *strides)
        split = make(Reshape((counts[0], *apart, *counts[2:])), value)
        phase = range(1 if first else 2, n + (1 if first else 2))
        places = [a for i, p in enumerate(phase) for a in (2 + n + i, p)]
        order = (0, 1 + n if first else 1, *places)
        whole = (d * s for d, s in zip(counts[2:], strides, strict=True))
        value = make(Reshape((*shape[:2], *whole)), make(Transpose(order), split))
    if value.tensor.static == shape:
        return value
    ends = tuple(a + d for a, d in zip(found.skip, shape[2:], strict=True))
    return make(Slice(found.skip, ends, tuple(range(2, 2 + n)), (1,) * n), value)


TRANSPOSED: tuple[Rule[Any], ...] = (transposed_of_integers,)
