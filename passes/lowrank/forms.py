"""Low-rank forms: two products for one, spatial and channel decompositions, Tucker-2."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir.core import Value
from graphopt.ir.types import Array
from graphopt.ops.nn import Conv
from graphopt.passes.layers.features import Features, Split, fitted_groups, spectra
from graphopt.passes.layers.forms import (
    Fit,
    Form,
    Make,
    Numbers,
    Size,
    along,
    first_product,
    pointwise,
    stored,
    windowed,
)
from graphopt.passes.layers.least import leading, responses


def _last(form: Form, make: Make, z: Value, w: Value, bias: Value | None) -> Value:
    """The op that makes the layer's outputs of its features: 1 x 1, or a product."""
    kind = form.site.op.kind
    if isinstance(kind, Conv):
        return make(windowed(pointwise(len(kind.strides)), kind.group), z, w, bias)
    return make(kind, z, w, *([bias] if kind.name == "gemm" else []))


@dataclass(frozen=True)
class Svd(Form):
    """y = U (U^T W x), U the leading eigenvectors of W C W^T: the best of a rank (Zhang 2015).

    The first op has the layer's windows and makes R channels of each group, the second is 1 x 1.
    """

    def told(self, size: Size) -> str:
        """Its rank."""
        return f"as two layers: rank {size[0]}"

    def full(self) -> Size:
        """The rank that any weight has at most."""
        return (min(self.site.outs, self.site.length),)

    def shapes(self, size: Size) -> tuple[tuple[int, ...], ...]:
        """[g R, C, taps] and [M, R]; those of products as theirs are."""
        s, (r,) = self.site, size
        if isinstance(s.op.kind, Conv):
            ones = (1,) * len(s.taps)
            return (s.groups * r, s.ins, *s.taps), (s.groups * s.outs, r, *ones)
        pair = (r, s.ins), (s.outs, r)
        return pair if getattr(s.op.kind, "trans_b", False) else (pair[0][::-1], pair[1][::-1])

    def build(self, make: Make, x: Value, w: Sequence[Value], bias: Value | None) -> Value:
        """Two ops."""
        kind = self.site.op.kind
        first = kind if isinstance(kind, Conv) else first_product(kind)
        return _last(self, make, make(first, x, w[0]), w[1], bias)

    def fit(self, numbers: Numbers, size: Size) -> Fit:
        """A principal component analysis of the results."""
        pairs = enumerate(zip(numbers.w, numbers.inputs, strict=True))
        every = [numbers.once((Svd, g), lambda w=w, c=c: leading(responses(w, c), len(w)))
                 for g, (w, c) in pairs]  # fmt: skip
        u = np.stack([one[:, : size[0]] for one in every])
        q = u.transpose(0, 2, 1) @ numbers.w
        shapes, kind = self.shapes(size), self.site.op.kind
        return Fit((stored(kind, q, shapes[0]), stored(kind, u, shapes[1])), u @ q)

    def spectra(self, numbers: Numbers) -> tuple[Array, ...]:
        """Of W C W^T."""
        return (results(numbers)[: self.full()[0]],)


def results(numbers: Numbers) -> Array:
    """The power that principal components of a layer's results have, the largest first [outs]."""
    pairs = zip(numbers.w, numbers.inputs, strict=True)
    found = [np.linalg.eigvalsh(responses(w, c))[::-1] for w, c in pairs]
    return np.maximum(np.sum(found, axis=0), 0)


@dataclass(frozen=True)
class Spatial(Form):
    """K x 1 to R channels, then 1 x K (Jaderberg et al. 2014, scheme 2); `axis` comes first."""

    axis: int = 0

    def told(self, size: Size) -> str:
        """Its rank, and what comes first: both orders are choices of a layer."""
        first = "rows" if self.axis else "columns"
        return f"as a spatial SVD: rank {size[0]}, {first} first"

    def full(self) -> Size:
        """The rank of W as a matrix [C K, K M]."""
        s = self.site
        return (min(s.ins * s.taps[self.axis], s.outs * s.taps[1 - self.axis]),)

    def shapes(self, size: Size) -> tuple[tuple[int, ...], ...]:
        """[g R, C, K, 1] and [M, R, 1, K], or with the windows the other way round."""
        s, (r,) = self.site, size
        first, second = ([k if (i == self.axis) == one else 1 for i, k in enumerate(s.taps)]
                         for one in (True, False))  # fmt: skip
        return (s.groups * r, s.ins, *first), (s.groups * s.outs, r, *second)

    def build(self, make: Make, x: Value, w: Sequence[Value], bias: Value | None) -> Value:
        """Two convolutions."""
        kind = self.site.op.kind
        assert isinstance(kind, Conv)
        z = make(along(kind, self.axis, kind.group), x, w[0])
        return make(along(kind, 1 - self.axis, kind.group), z, w[1], bias)

    def split(self) -> Split:
        """A feature sums channels and one axis of the window, and slides along the other."""
        s = self.site
        at = np.arange(s.length).reshape(s.ins, *s.taps)
        at = at if self.axis == 0 else at.transpose(0, 2, 1)
        return Split(1, s.ins * s.taps[self.axis], s.taps[1 - self.axis], at.reshape(-1))

    def fit(self, numbers: Numbers, size: Size) -> Fit:
        """Features, group by group."""
        found, made = fitted_groups(self.split(), numbers, size[0])
        shapes = self.shapes(size)
        q = np.stack([f.q[0] for f in found])
        b = np.stack([f.b[:, 0] for f in found])
        return Fit((q.reshape(shapes[0]), b.reshape(shapes[1])), made)

    def spectra(self, numbers: Numbers) -> tuple[Array, ...]:
        """Of the whitened matrix [C K, K M]."""
        return (spectra(self.split(), numbers)[: self.full()[0]],)


@dataclass(frozen=True)
class Tucker(Form):
    """1 x 1 to R channels, K x K to S, 1 x 1 to M: Tucker-2 (Kim et al. 2016, arXiv 1511.06530)."""

    def told(self, size: Size) -> str:
        """Its two ranks."""
        return f"as Tucker-2: ranks {size[0]} and {size[1]}"

    def full(self) -> Size:
        """Those of W unfolded along its input and its output channels."""
        s, taps = self.site, math.prod(self.site.taps)
        return min(s.ins, s.outs * taps), min(s.outs, s.ins * taps)

    def shapes(self, size: Size) -> tuple[tuple[int, ...], ...]:
        """[g R, C], [g S, R, taps] and [M, S]."""
        s, (r, outs), ones = self.site, size, (1,) * len(self.site.taps)
        core = (s.groups * outs, r, *s.taps)
        return (s.groups * r, s.ins, *ones), core, (s.groups * s.outs, outs, *ones)

    def build(self, make: Make, x: Value, w: Sequence[Value], bias: Value | None) -> Value:
        """Three convolutions."""
        kind = self.site.op.kind
        assert isinstance(kind, Conv)
        small = windowed(pointwise(len(kind.strides)), kind.group)
        core = make(kind, make(small, x, w[0]), w[1])
        return make(small, core, w[2], bias)

    def split(self) -> Split:
        """A feature sums channels and slides over the window."""
        s, taps = self.site, math.prod(self.site.taps)
        return Split(1, s.ins, taps, np.arange(s.length))

    def fit(self, numbers: Numbers, size: Size) -> Fit:
        """Features, and principal components of what they make."""
        r, outs = size
        found, made = fitted_groups(self.split(), numbers, r, outs)
        q = np.stack([f.q[0] for f in found])
        pairs = [self._halved(f, numbers.gram(g), outs) for g, f in enumerate(found)]
        core, last = (np.stack(parts) for parts in zip(*pairs, strict=True))
        one, two, three = self.shapes(size)
        return Fit((q.reshape(one), core.reshape(two), last.reshape(three)), made)

    def _halved(self, found: Features, c: Array, outs: int) -> tuple[Array, Array]:
        """The core [S, R, taps] and the last factor [M, S] of a `b` of rank S."""
        u = leading(responses(self.split().back(found.product()), c), outs)
        b = found.b[:, 0]
        return np.tensordot(u.T, b, 1), u

    def spectra(self, numbers: Numbers) -> tuple[Array, ...]:
        """Along the input channels, and of the results."""
        full = self.full()
        return spectra(self.split(), numbers)[: full[0]], results(numbers)[: full[1]]
