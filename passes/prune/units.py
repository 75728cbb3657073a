"""Elements of values that only go together: a number for each, in arrays of the values' shapes.

Arrays are views that repeat one number along axes where nothing differs (stride 0), so that they
take little memory however large a value is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.ir.types import Array
from graphopt.lazy import Lazy

sparse: Any = Lazy("scipy.sparse")
csgraph: Any = Lazy("scipy.sparse.csgraph")
FIXED = 0  # the unit of elements that stay
STAY = "its channels go with those that it reads, which stay"


def nothing(shape: tuple[int, ...]) -> Array:
    """A value of which nothing can go."""
    return np.broadcast_to(np.int32(FIXED), shape)


def spread(line: Array, shape: tuple[int, ...], axis: int) -> Array:
    """Units along an axis, the same along the others."""
    axis %= len(shape)
    laid = line.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return np.broadcast_to(laid, shape)


def thin(*arrays: Array) -> list[Array]:
    """Arrays of one shape, each with one of what is repeated in all of them."""
    every = zip(*(a.strides for a in arrays), strict=True)
    at = tuple(slice(0, 1) if not any(strides) else slice(None) for strides in every)
    return [a[at] for a in arrays]


def varying(a: Array) -> tuple[int, ...]:
    """The axes along which units differ."""
    (t,) = thin(a)
    return tuple(
        i for i, d in enumerate(t.shape) if d > 1 and (t != np.take(t, [0], i)).any()
    )  # fmt: skip


def tidy(a: Array) -> Array:
    """The same units, repeated along the axes where nothing differs."""
    (t,) = thin(a)
    axes = varying(t)
    first = t[tuple(slice(None) if i in axes else slice(0, 1) for i in range(t.ndim))]
    return np.broadcast_to(first, a.shape)


def components(a: Array, b: Array, count: int) -> tuple[int, Array]:
    """Sets of things that belong together, by pairs: how many, and the set of each.

    scipy's take arrays of millions of pairs, as elements of activations are; networkx, which serves
    for graphs of ops elsewhere, would make an object of each.
    """
    links = sparse.coo_array((np.ones(len(a), np.int8), (a, b)), (count, count))
    number, labels = csgraph.connected_components(links, directed=False)
    return int(number), labels


def first(a: Array, axes: Iterable[int]) -> Array:
    """The first along some axes, of size 1 there."""
    gone = {i % a.ndim for i in axes}
    return a[tuple(slice(0, 1) if i in gone else slice(None) for i in range(a.ndim))]


@dataclass
class Units:
    """Sets of elements, merged as they are found to belong together.

    `pairs` that belong together are collected; `solve` finds the sets. `reasons` say of elements
    why they stay. `inside`: where a product of activations has many heads, channels inside them go,
    of each the same, instead of whole ones.
    """

    count: int = 1
    inside: bool = False
    pairs: list[Array] = field(default_factory=list[Array])
    reasons: list[tuple[Array, str]] = field(default_factory=list[tuple[Array, str]])
    roots: Array = field(default_factory=lambda: np.zeros(1, np.int32))

    def fresh(self, count: int) -> Array:
        """New units (int32)."""
        start, self.count = self.count, self.count + count
        return np.arange(start, self.count, dtype=np.int32)

    def merge(self, a: Array, b: Array) -> None:
        """Let elements of two values of one shape go together, one by one."""
        if a is b or not a.size:
            return
        a, b = thin(a, b)
        both = np.stack([np.ravel(a), np.ravel(b)])
        both = both[:, both[0] != both[1]]
        if both.size:
            self.pairs.append(np.unique(both, axis=1))

    def merge_over(self, a: Array, axes: Iterable[int]) -> Array:
        """Let elements along axes go together; give the units, the same along those."""
        one = np.broadcast_to(first(a, axes), a.shape)
        self.merge(a, one)
        return one

    def fix(self, a: Array | None, why: str) -> None:
        """Let elements stay."""
        if a is None or not a.size:
            return
        found = np.unique(thin(a)[0])
        found = found[found != FIXED]
        if found.size:
            self.reasons.append((found, why))
            self.pairs.append(np.stack([found, np.zeros_like(found)]))

    def solve(self) -> None:
        """Find the sets: `roots` has the smallest number of each element's."""
        if len(self.pairs) > 1:
            self.pairs = [np.concatenate(self.pairs, axis=1)]
        a, b = self.pairs[0] if self.pairs else np.zeros((2, 0), np.int32)
        number, labels = components(a, b, self.count)
        least = np.full(number, self.count, np.int32)
        np.minimum.at(least, labels, np.arange(self.count, dtype=np.int32))
        self.roots = least[labels]

    def of(self, a: Array) -> Array:
        """The sets that elements are in, an array like theirs."""
        (t,) = thin(a)
        return np.broadcast_to(self.roots[t], a.shape)

    def why(self, a: Array) -> str:
        """Why elements stay: the first reason given for one that they go together with."""
        if not np.any(thin(a)[0]):
            return STAY
        named = dict[int, str]()
        for ids, reason in self.reasons:
            for one in ids.tolist():
                named.setdefault(one, reason)
        own = [one for one in np.unique(thin(a)[0]).tolist() if one != FIXED]
        for one in own:
            if one in named:
                return named[one]
        return self._through(set(own), named)

    def _through(self, start: set[int], named: dict[int, str]) -> str:
        """The reason of the nearest element that has one, along what goes together."""
        links: dict[int, list[int]] = {}
        for pairs in self.pairs:
            for a, b in pairs.T.tolist():
                links.setdefault(a, []).append(b)
                links.setdefault(b, []).append(a)
        seen, wave = set(start), sorted(start)
        while wave:
            reached = list[int]()
            for one in wave:
                if one in named:
                    return named[one]
                reached += [o for o in links.get(one, ()) if o not in seen and o != FIXED]
                seen.update(links.get(one, ()))
            wave = sorted(set(reached))
        return "it is combined with values that stay whole"
