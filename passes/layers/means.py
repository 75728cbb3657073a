"""Numbers on a line by a few of them: weighted k-means in one dimension.

In one dimension, the best clusters are intervals, found by dynamic programming over the sorted
numbers (Wang and Song 2011, Ckmeans.1d.dp). Where there are more numbers than BINS, neighbours go
together first, and Lloyd's iteration (1982) on all of them ends it. No chance is involved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir.types import Array

BINS = 1024
ROUNDS = 50  # of Lloyd's iteration, at most


@dataclass(frozen=True)
class Line:
    """Sorted numbers x [n] with weights, as running sums of 1, x and x^2 times them, [n + 1]."""

    x: Array
    ones: Array
    first: Array
    second: Array

    @staticmethod
    def of(x: Array, weights: Array) -> Line:
        """Numbers in any order, float64 [n], and weights above 0."""
        order = np.argsort(x, kind="stable")
        x, w = x[order], weights[order]
        sums = (np.concatenate([[0.0], np.cumsum(v)]) for v in (w, w * x, w * x * x))
        return Line(x, *sums)

    def means(self, edges: Array) -> Array:
        """Of the intervals between indices, [len(edges) - 1]; none may be empty."""
        return np.diff(self.first[edges]) / np.diff(self.ones[edges])

    def spread(self, low: Array, high: Array) -> Array:
        """Weighted squares about the mean, of the intervals [low, high)."""
        ones = self.ones[high] - self.ones[low]
        first = self.first[high] - self.first[low]
        return np.maximum(self.second[high] - self.second[low] - first * first / ones, 0.0)


def kmeans(x: Array, count: int, weights: Array | None = None) -> Array:
    """The `count` (or fewer) numbers of least sum of weights (x - nearest)^2, float64, ascending.

    Args:
        x: finite, [n].
        count: how many.
        weights: not below 0 [n]; None: all alike.
    """
    x = x.astype(np.float64)
    w = np.ones(len(x)) if weights is None else weights.astype(np.float64)
    w = w + max(float(w.mean()), 1e-300) * 1e-6  # none is 0
    w = w / w.mean()
    different, index = np.unique(x, return_inverse=True)
    if len(different) <= count:
        return different
    shift = float(np.average(x, weights=w))  # squares of differences lose fewer digits
    line = Line.of(different - shift, np.bincount(index, w))
    edges = _bins(line)
    small = Line(line.means(edges), *(v[edges] for v in (line.ones, line.first, line.second)))
    chosen = edges[_best(small, count)]
    return _lloyd(line, line.means(chosen)) + shift


def nearest(centres: Array, x: Array) -> Array:
    """Indices of the centres (ascending) that are nearest to x; the lower one of two."""
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, x)


def _bins(line: Line) -> Array:
    """Edges of at most BINS intervals: half of equal width, half of equal weight."""
    n = len(line.x)
    if n <= BINS:
        return np.arange(n + 1)
    width: Array = np.searchsorted(line.x, _spaced(line.x[0], line.x[-1]))
    weight: Array = np.searchsorted(line.ones, _spaced(0.0, line.ones[-1]))
    return np.unique(np.concatenate([width, np.minimum(weight, n - 1), [0, n]]))


def _spaced(low: float, high: float) -> Array:
    return low + (high - low) / (BINS // 2) * np.arange(BINS // 2)


def _best(line: Line, count: int) -> Array:
    """Edges of the `count` intervals of least spread, by dynamic programming.

    least[j] is that of the first j numbers by so many intervals; where the last one begins grows
    with j, so that halves of the js bound those of each other.
    """
    n = len(line.x)
    ends = np.arange(1, n + 1)
    least = np.concatenate([[0.0], line.spread(np.zeros(n, np.int64), ends)])
    begins = np.zeros((count, n + 1), np.int32)
    for level in range(1, count):
        least, begins[level] = _one_more(line, least, level)
    edges = [n]
    for level in range(count - 1, -1, -1):
        edges.append(int(begins[level, edges[-1]]))
    return np.array(edges[::-1])


def _one_more(line: Line, least: Array, level: int) -> tuple[Array, Array]:
    """The spread with one more interval than `level`, and where that begins, for the first j."""
    n = len(line.x)
    found, begin = np.full(n + 1, np.inf), np.full(n + 1, level, np.int64)
    low, high = np.array([level + 1]), np.array([n + 1])  # ranges of j to be done
    first, last = np.array([level]), np.array([n - 1])  # where their begins lie
    while len(low):
        middle = (low + high) // 2
        best, at = _minima(line, least, middle, first, np.minimum(last, middle - 1))
        found[middle], begin[middle] = best, at
        low, high = np.concatenate([low, middle + 1]), np.concatenate([middle, high])
        first, last = np.concatenate([first, at]), np.concatenate([at, last])
        some = low < high
        low, high, first, last = low[some], high[some], first[some], last[some]
    return found, begin


def _minima(
    line: Line, least: Array, ends: Array, first: Array, last: Array
) -> tuple[Array, Array]:
    """For each end, the best begin in first..last of the last interval, and the whole spread."""
    sizes = last - first + 1
    starts = np.cumsum(sizes) - sizes
    begins: Array = np.arange(int(sizes.sum())) - np.repeat(starts - first, sizes)
    total = least[begins] + line.spread(begins, np.repeat(ends, sizes))
    best = np.minimum.reduceat(total, starts)
    (equal,) = np.nonzero(total == np.repeat(best, sizes))
    _, places = np.unique(np.repeat(np.arange(len(ends)), sizes)[equal], return_index=True)
    return best, begins[equal[places]]


def _lloyd(line: Line, centres: Array) -> Array:
    """Numbers to the nearest centre, centres to their means, until nothing moves."""
    edges = np.zeros(0, np.int64)
    for _ in range(ROUNDS):
        inner = np.searchsorted(line.x, (centres[1:] + centres[:-1]) / 2)
        new = np.unique(np.concatenate([[0], inner, [len(line.x)]]))  # empty ones go
        if np.array_equal(new, edges):
            break
        edges, centres = new, line.means(new)
    return centres
