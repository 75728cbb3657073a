"""Depthwise forms of a convolution: terms of a filter for each channel and a 1 x 1 product.

    W x ~ sum over t of P_t (D_t x)   depthwise first
    W x ~ sum over t of D_t (P_t x)   pointwise first

D_t filters each channel alone, P_t mixes channels pixel by pixel. (Guo et al. 2018, "Network
decoupling", arXiv 1808.05517: T terms are exact, T at most K x K.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir.core import Value
from graphopt.ops.elementwise import Add
from graphopt.ops.movement import Concat
from graphopt.ops.nn import Conv
from graphopt.passes.factorize.outer import outer
from graphopt.passes.layers.features import Split, fitted_groups
from graphopt.passes.layers.forms import Fit, Form, Make, Numbers, Size, pointwise, windowed

Shapes = tuple[tuple[int, ...], ...]


def kind_of(form: Form) -> Conv:
    """The convolution's kind."""
    kind = form.site.op.kind
    assert isinstance(kind, Conv)
    return kind


@dataclass(frozen=True)
class DepthwiseFirst(Form):
    """T depthwise convolutions side by side, then one 1 x 1 convolution of all their channels.

    They stand for one with T results a channel, but that the order of channels is by term: so each
    fills vectors, and a concatenation costs nothing where it is made in place. In groups, where
    that order would mix them, the terms are added.
    """

    def told(self, size: Size) -> str:
        """Its terms."""
        return f"as depthwise, then 1x1: {size[0]} term{'s' if size[0] > 1 else ''}"

    def full(self) -> Size:
        """The rank of each input channel's matrix [M, K K]."""
        return (min(self.site.outs, math.prod(self.site.taps)),)

    def shapes(self, size: Size) -> Shapes:
        """T times [g C, 1, taps]; then [M, T C], or T times [M, C] in groups."""
        s, (t,), ones = self.site, size, (1,) * len(self.site.taps)
        filters = ((s.groups * s.ins, 1, *s.taps),) * t
        outs = s.groups * s.outs
        if s.groups > 1:
            return (*filters, *((outs, s.ins, *ones),) * t)
        return (*filters, (outs, t * s.ins, *ones))

    def build(self, make: Make, x: Value, w: Sequence[Value], bias: Value | None) -> Value:
        """T + 2 ops (one term: 2); in groups 3 T - 1."""
        s, kind = self.site, kind_of(self)
        one, each = pointwise(len(kind.strides)), windowed(kind, s.groups * s.ins)
        if s.groups > 1:
            t = len(w) // 2
            terms = [make(windowed(one, s.groups), make(each, x, w[i]), w[t + i],
                          bias if i == 0 else None) for i in range(t)]  # fmt: skip
            return _added(make, terms)
        terms = [make(each, x, f) for f in w[:-1]]
        every = make(Concat(1), *terms) if len(terms) > 1 else terms[0]
        return make(one, every, w[-1], bias)

    def fit(self, numbers: Numbers, size: Size) -> Fit:
        """Features of a block for each channel (GSVD, arXiv 1910.09455)."""
        s, (t,) = self.site, size
        split = Split(s.ins, math.prod(s.taps), 1, np.arange(s.length))
        found, made = fitted_groups(split, numbers, t)
        q = np.stack([f.q for f in found])  # [g, C, T, taps]
        b = np.stack([f.b[..., 0] for f in found])  # [g, M, C, T]
        shapes = self.shapes(size)
        filters = [q[:, :, i].reshape(shapes[0]) for i in range(t)]
        if s.groups > 1:
            return Fit((*filters, *(b[..., i].reshape(shapes[-1]) for i in range(t))), made)
        return Fit((*filters, b.transpose(0, 1, 3, 2).reshape(shapes[-1])), made)


def _added(make: Make, terms: Sequence[Value]) -> Value:
    total = terms[0]
    for term in terms[1:]:
        total = make(Add(), term, total)
    return total


@dataclass(frozen=True)
class PointwiseFirst(Form):
    """T times a 1 x 1 convolution, then a depthwise one with the layer's windows; added up."""

    def told(self, size: Size) -> str:
        """Its terms."""
        return f"as 1x1, then depthwise: {size[0]} term{'s' if size[0] > 1 else ''}"

    def full(self) -> Size:
        """The rank of each output channel's matrix [C, K K]."""
        return (min(self.site.ins, math.prod(self.site.taps)),)

    def shapes(self, size: Size) -> Shapes:
        """T times [M, C] and [M, 1, taps]."""
        s, (t,), outs = self.site, size, self.site.groups * self.site.outs
        return ((outs, s.ins, *(1,) * len(s.taps)), (outs, 1, *s.taps)) * t

    def build(self, make: Make, x: Value, w: Sequence[Value], bias: Value | None) -> Value:
        """3 T - 1 ops; padding stays exact, as only the last ones have a bias."""
        s, kind = self.site, kind_of(self)
        one = windowed(pointwise(len(kind.strides)), s.groups)
        each = windowed(kind, s.groups * s.outs)
        terms = [make(each, make(one, x, w[i]), w[i + 1], bias if i == 0 else None)
                 for i in range(0, len(w), 2)]  # fmt: skip
        return _added(make, terms)

    def fit(self, numbers: Numbers, size: Size) -> Fit:
        """A sum of outer products for each output channel."""
        s, (t,) = self.site, size
        pairs = [outer(w.reshape(s.outs, s.ins, -1), c, t)
                 for w, c in zip(numbers.w, numbers.inputs, strict=True)]  # fmt: skip
        p, d = (np.stack(parts) for parts in zip(*pairs, strict=True))  # [g, M, T, C or taps]
        one, each = self.shapes((1,))
        weights = [a for i in range(t) for a in (p[:, :, i].reshape(one), d[:, :, i].reshape(each))]
        return Fit(tuple(weights), np.einsum("gmtc,gmts->gmcs", p, d).reshape(numbers.w.shape))
