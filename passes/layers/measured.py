"""Layers with what they read on samples: what forms are fitted to, and what they lose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from graphopt.ir.core import Module, Op
from graphopt.ir.types import Array
from graphopt.passes.layers.forms import Numbers
from graphopt.passes.layers.gram import Gram, grams
from graphopt.passes.layers.sensitivity import sensitivities
from graphopt.passes.layers.sites import Site
from graphopt.passes.quantize.rounding import damped
from graphopt.pipeline import Activations

RUNS = 128  # of the model that Gram matrices are made of, at most
LONGEST = 6144  # numbers in a row of a weight whose inputs are looked at: their matrix has 300 MB

Shifts = tuple[Array | None, ...]
"""What is added to the bias of each layer of a family (float64 [groups, outs]; None: 0)."""


class Looked(Protocol):
    """A layer, or a family of layers with the same weights, and what is known of their inputs."""

    @property
    def site(self) -> Site:
        """The layer, or the first one."""
        ...

    def numbers(self, whiten: bool) -> Numbers:
        """What forms are fitted to."""
        ...

    def error(self, made: Array) -> tuple[float, Shifts]:
        """Noise over signal of the results with another weight, and what biases take up.

        It counts as what is left of it at the model's outputs; of a family it is the sum.
        """
        ...


def looked_at(
    module: Module, able: Sequence[Site], samples: Activations | None
) -> Iterator[Looked]:
    """Layers with what they read on samples; in any order.

    Nothing is known without samples, nor of rows of more than LONGEST weights.
    """
    if samples is None or not able:
        yield from (_blind(s, [1.0] * len(s.family)) for s in able)
        return
    every = [one.op for s in able for one in s.family]
    found = sensitivities(module, [op.result for op in every], samples)
    sense = dict(zip(every, found, strict=True))
    seen = [s for s in able if s.length <= LONGEST]
    waiting = {one.op: s for s in seen for one in s.family}
    family: Together | None = None
    for inputs in grams(module, list(waiting), samples, RUNS):
        site = waiting[inputs.op]
        if not site.twins:
            yield Measured(site, inputs, sense[site.op])
            continue
        family = family or Together(site)
        family.add(inputs, sense[inputs.op])
        if len(family.means) == len(site.family):
            yield family
            family = None
    yield from (_blind(s, [sense[one.op] for one in s.family]) for s in able if s.length > LONGEST)


def _blind(site: Site, sense: Sequence[float]) -> Measured:
    return Measured(site, None, sum(sense))


@dataclass(frozen=True)
class Measured:
    """A layer with what it reads on samples; None: nobody knows, all inputs count alike.

    `sense`: how much its errors count in the outputs.
    """

    site: Site
    inputs: Gram | None
    sense: float = 1.0

    @cached_property
    def signal(self) -> float:
        """The mean square of what it gives at a place, all channels together."""
        return _signal(self.site, self.inputs, self.site.rows()) if self.inputs else 0.0

    def numbers(self, whiten: bool) -> Numbers:
        """See `Looked`."""
        w = self.site.rows()
        if self.inputs is None or not whiten:
            return Numbers(w, [None] * len(w))
        return Numbers(w, [damped(c, self.inputs.count) for c in _needed(self.site, self.inputs)])

    def error(self, made: Array) -> tuple[float, Shifts]:
        """See `Looked`."""
        w = self.site.rows()
        lost = w - made
        if self.inputs is None:
            share = float(np.sum(lost**2) / max(float(np.sum(w**2)), 1e-300))
            return share * self.sense, (None,) * len(self.site.family)
        pairs = zip(lost, _needed(self.site, self.inputs), strict=True)
        noise = sum(_power(e, c) for e, c in pairs)
        shift = _shift(self.site, lost, self.inputs.mean())
        return max(noise, 0.0) / max(self.signal, 1e-300) * self.sense, (shift,)


@dataclass
class Together:
    """Layers with the same weights, which are to have the same new ones.

    `inputs`: float64 [K, K] of each group: the sum of what the layers read, each counted as its
    noise does: its share of the outputs' error by its signal. `means`: float64 [groups, K], of each
    layer that was added, by its op; `count`: columns seen.
    """

    site: Site
    inputs: list[Array] = field(default_factory=list[Array])
    means: dict[Op, Array] = field(default_factory=dict[Op, Array])
    count: int = 0

    def add(self, inputs: Gram, sense: float) -> None:
        """Take in what one of the layers reads."""
        one = next(s for s in self.site.family if s.op is inputs.op)
        counts = sense / max(_signal(one, inputs, self.site.rows()), 1e-300)
        parts = [counts * c for c in _needed(one, inputs)]
        pairs = zip(self.inputs, parts, strict=True)
        self.inputs = [a + b for a, b in pairs] if self.inputs else parts
        self.means[one.op] = inputs.mean()
        self.count += inputs.count

    def numbers(self, whiten: bool) -> Numbers:
        """See `Looked`."""
        w = self.site.rows()
        found = [damped(c, self.count) for c in self.inputs] if whiten else [None] * len(w)
        return Numbers(w, found)

    def error(self, made: Array) -> tuple[float, Shifts]:
        """See `Looked`."""
        lost = self.site.rows() - made
        noise = sum(_power(e, c) for e, c in zip(lost, self.inputs, strict=True))
        return max(noise, 0.0), tuple(_shift(s, lost, self.means[s.op]) for s in self.site.family)


def _needed(site: Site, inputs: Gram) -> Iterable[Array]:
    """About the mean where the bias takes that up, else of the inputs as they are."""
    return inputs.covariances() if site.centred else inputs.moments()


def _signal(site: Site, inputs: Gram, w: Array) -> float:
    """The mean square of what a layer gives at a place, all channels together."""
    signal = sum(_power(v, c) for v, c in zip(w, inputs.covariances(), strict=True))
    bias = site.bias() / (site.scale or 1.0)
    return signal + float(np.sum((np.einsum("gmk,gk->gm", w, inputs.mean()) + bias) ** 2))


def _shift(site: Site, lost: Array, mean: Array) -> Array | None:
    return np.einsum("gmk,gk->gm", lost, mean) if site.centred else None


def _power(w: Array, c: Array) -> float:
    return float(np.vdot(w @ c, w))
