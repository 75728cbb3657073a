"""A convolution as one in groups, a channel shuffle, and a 1 x 1 one in other groups.

Interleaved groups (Zhang et al. 2017, IGC, arXiv 1707.02725; ShuffleNet, arXiv 1707.01083): each of
S groups of outputs reads R features of each of L groups of inputs.

    y[s] = sum over l of P[s, l] (Q[s, l] x[l]),  Q [R, C / L, taps], P [M / S, R]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir.core import Value
from graphopt.ops.movement import Reshape, Transpose
from graphopt.passes.factorize.forms import Shapes, kind_of
from graphopt.passes.layers.features import Split, fitted_groups
from graphopt.passes.layers.forms import Fit, Form, Make, Numbers, Size, pointwise, windowed


@dataclass(frozen=True)
class Shuffled(Form):
    """`first` groups of input channels, `second` of output channels; a size is R."""

    first: int = 2
    second: int = 2

    def told(self, size: Size) -> str:
        """Its groups and features."""
        return f"in groups, shuffled: {self.first} and {self.second}, {size[0]} features a pair"

    def full(self) -> Size:
        """The rank of the blocks [M / S, C / L x taps]."""
        return (min(self.site.outs // self.second, self.site.length // self.first),)

    def shapes(self, size: Size) -> Shapes:
        """[L S R, C / L, taps] and [M, L R]."""
        s, (r,), ones = self.site, size, (1,) * len(self.site.taps)
        inner = self.first * self.second * r
        return (inner, s.ins // self.first, *s.taps), (s.outs, self.first * r, *ones)

    def build(self, make: Make, x: Value, w: Sequence[Value], bias: Value | None) -> Value:
        """Five ops; the three in the middle are a shuffle."""
        kind = kind_of(self)
        z = make(windowed(kind, self.first), x, w[0])
        n, inner, *space = z.tensor.static or (0, 0)
        axes = range(3, 3 + len(space))
        z = make(Reshape((n, self.first, inner // self.first, *space)), z)
        z = make(Reshape((n, inner, *space)), make(Transpose((0, 2, 1, *axes)), z))
        return make(windowed(pointwise(len(kind.strides)), self.second), z, w[1], bias)

    def fit(self, numbers: Numbers, size: Size) -> Fit:
        """Features for each group of outputs, of a block for each group of inputs."""
        (r,), s = size, self.site
        split = Split(self.first, s.length // self.first, 1, np.arange(s.length))
        rows = numbers.w.reshape(self.second, -1, s.length)
        found, made = fitted_groups(split, Numbers(rows, [*numbers.inputs] * self.second), r)
        q = np.stack([f.q for f in found], 1)  # [L, S, R, C / L x taps]
        b = np.stack([f.b[..., 0] for f in found])  # [S, M / S, L, R]
        one, two = self.shapes(size)
        second = b.transpose(0, 1, 3, 2)  # the shuffle puts groups of inputs last
        return Fit((q.reshape(one), second.reshape(two)), made.reshape(numbers.w.shape))
