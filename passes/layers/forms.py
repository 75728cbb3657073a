"""Ways of computing a layer by several smaller ops, each at several sizes (ranks, terms)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from graphopt.ir.core import OpKind, Value
from graphopt.ir.types import Array
from graphopt.ops.linalg import Gemm, MatMul
from graphopt.ops.nn import Conv
from graphopt.passes.layers.sites import Site

Size = tuple[int, ...]
Make = Callable[..., Value]
"""make(kind, *operands): inserts an op and gives its result."""


@dataclass(frozen=True)
class Numbers:
    """What a form is fitted to.

    `w`: the weight, float64 [groups, outs, K]. `inputs`: of each group, the Gram matrix of what it
    reads, float64 [K, K] and positive definite; None where all inputs count alike. `known`:
    what is the same for all sizes of a form.
    """

    w: Array
    inputs: Sequence[Array | None]
    known: dict[object, Array] = field(default_factory=dict[object, Array], compare=False)

    def once(self, key: object, work: Callable[[], Array]) -> Array:
        """What some work gives, which is done once."""
        if key not in self.known:
            self.known[key] = work()
        return self.known[key]

    def gram(self, g: int) -> Array:
        """The Gram matrix of a group's inputs."""
        found = self.inputs[g]
        return np.eye(self.w.shape[-1]) if found is None else found


@dataclass(frozen=True)
class Fit:
    """The weights of a form's ops, as they are stored, and the layer's weight that they make.

    `made`: float64, of the shape of `Numbers.w`.
    """

    weights: tuple[Array, ...]
    made: Array


@dataclass(frozen=True)
class Form(ABC):
    """A way of computing a layer; a member says how at each of its sizes."""

    site: Site

    @abstractmethod
    def told(self, size: Size) -> str:
        """What a choice says: numbers that differ by layer after a colon."""

    @abstractmethod
    def full(self) -> Size:
        """The size at which it is exact."""

    @abstractmethod
    def shapes(self, size: Size) -> tuple[tuple[int, ...], ...]:
        """The shapes of its weights."""

    @abstractmethod
    def build(self, make: Make, x: Value, w: Sequence[Value], bias: Value | None) -> Value:
        """Insert its ops, which read `x` and weights of `shapes`; the last one adds the bias."""

    @abstractmethod
    def fit(self, numbers: Numbers, size: Size) -> Fit:
        """Choose the weights for the least error in the results."""

    def spectra(self, numbers: Numbers) -> tuple[Array, ...]:
        """For each of a size's numbers, the power that each more of it adds, largest first."""
        raise NotImplementedError(f"{type(self).__name__} has no spectra")

    def parameters(self, size: Size) -> int:
        """Numbers in its weights."""
        return sum(map(math.prod, self.shapes(size)))


def family(form: Form) -> list[Form]:
    """A form of each of the layers with the same weights; the first is the form itself."""
    return [form, *(replace(form, site=twin) for twin in form.site.twins)]


def pointwise(rank: int) -> Conv:
    """A 1 x 1 convolution's kind, for so many spatial axes."""
    return Conv((1,) * rank, (0,) * (2 * rank), (1,) * rank)


def windowed(kind: Conv, group: int) -> Conv:
    """The same windows in other groups."""
    return Conv(kind.strides, kind.pads, kind.dilations, group)


def along(kind: Conv, axis: int, group: int) -> Conv:
    """The windows along one of the spatial axes alone."""
    n = len(kind.strides)

    def one(values: tuple[int, ...], other: int) -> tuple[int, ...]:
        return tuple(v if i % n == axis else other for i, v in enumerate(values))

    return Conv(one(kind.strides, 1), one(kind.pads, 0), one(kind.dilations, 1), group)


def first_product(kind: OpKind) -> OpKind:
    """The first of two products that stand for one."""
    return Gemm(trans_b=kind.trans_b) if isinstance(kind, Gemm) else MatMul()


def stored(kind: OpKind, rows: Array, shape: tuple[int, ...]) -> Array:
    """Rows [groups, M, K] as an op of a kind reads them."""
    if isinstance(kind, Conv) or (isinstance(kind, Gemm) and kind.trans_b):
        return rows.reshape(shape)
    return rows[0].T
