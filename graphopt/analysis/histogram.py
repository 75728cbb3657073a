"""Streaming histograms of activations, and the range that loses least when it is quantized.

One histogram takes a fixed number of bins (`BYTES`), however many numbers it has seen: where a
number lies outside, the range doubles and pairs of bins become one. So the same numbers in another
order give the same bins but for where the range began.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.ir.types import Array
from graphopt.lazy import Lazy

_ndimage: Any = Lazy("scipy.ndimage")
BINS = 8192  # even; about 16 for each of 255 steps where numbers have both signs
BYTES = BINS * 8  # of one histogram
STEPS = 48  # bounds that a search tries at a time
FINER = 8  # bounds tried around the best of those
LEAST = 0.2  # of the range seen, the least that a search tries
LEVELS = 255
AROUND, PEAK, SPARSE = 15, 3, 8  # bins to compare with; times their median, and so many, is usual
COARSE = 2048  # bins of the range seen that divergences are taken of, at least

Score = Callable[["Histogram", Array, Array], Array]


@dataclass
class Histogram:
    """Counts of numbers in BINS equal bins over [-reach, reach); zeros are counted apart."""

    reach: float = 0.0
    low: float = 0.0
    high: float = 0.0
    zeros: int = 0
    seen: int = 0
    counts: Array = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, x: Array) -> None:
        """Take in numbers of any shape; what isn't finite is left out."""
        flat = np.asarray(x, np.float32).reshape(-1)
        low, high = (float(v) for v in (flat.min(initial=0), flat.max(initial=0)))
        if not math.isfinite(low + high):
            flat = flat[np.isfinite(flat)]
            low, high = float(flat.min(initial=0)), float(flat.max(initial=0))
        self.seen += flat.size
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(-low, high))
        flat = flat[flat != 0]
        if not flat.size:
            self.zeros += x.size
            return
        self.zeros += x.size - flat.size
        at = (flat * np.float32(BINS / 2 / self.reach) + np.float32(BINS / 2)).astype(np.int32)
        self.counts += np.bincount(np.minimum(at, BINS - 1), minlength=BINS)

    def _widen(self, most: float) -> None:
        """Make the range hold a number: a power of two, so that bins merge in pairs."""
        if most == 0:
            return
        needed = 2.0 ** math.ceil(math.log2(most) + 1e-9)
        self.reach = self.reach or needed
        while self.reach < needed:
            inner = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate([np.zeros(BINS // 4, np.int64), inner,
                                          np.zeros(BINS // 4, np.int64)])  # fmt: skip
            self.reach *= 2

    def taken(self) -> tuple[Array, Array]:
        """The centers of the bins that aren't empty, and their counts (zeros left out)."""
        (at,) = np.nonzero(self.counts)
        width = 2 * self.reach / BINS
        return (at + 0.5) * width - self.reach, self.counts[at]


def minmax(h: Histogram) -> tuple[float, float]:
    """The range seen, 0 included."""
    return h.low, h.high


def percentile(h: Histogram, percent: float) -> tuple[float, float]:
    """The range that leaves (100 - percent) of the numbers outside, half of them on either side."""
    x, n = h.taken()
    if not len(x):
        return 0.0, 0.0
    outside = h.seen * (1 - percent / 100) / 2
    below = np.cumsum(n)
    first = int(np.searchsorted(below, outside))
    last = int(np.argmax(below[-1] - below <= outside))
    low, high = float(x[min(first, len(x) - 1)]), float(x[last])
    return max(min(low, 0.0), h.low), min(max(high, 0.0), h.high)


def best(h: Histogram, score: Score) -> tuple[float, float]:
    """The range of the least score: bounds by turns, each from coarse to fine."""
    low, high = h.low, h.high
    for _ in range(2 if low < 0 < high else 1):
        for side in (0, 1):
            bound = (low, high)[side]
            if bound == 0:
                continue
            for scales in (np.linspace(LEAST, 1, STEPS), None):
                if scales is None:  # around the best
                    step = (1 - LEAST) / (STEPS - 1)
                    middle = (low, high)[side] / (h.low, h.high)[side]
                    near = np.linspace(middle - step, middle + step, 2 * FINER + 1)
                    scales = np.clip(near, LEAST, 1)
                tried = (h.low, h.high)[side] * scales
                other = np.full(len(tried), (low, high)[1 - side])
                ends = (tried, other) if side == 0 else (other, tried)
                found = float(tried[int(np.argmin(score(h, *ends)))])
                low, high = (found, high) if side == 0 else (low, found)
    return low, high


def squares(h: Histogram, low: Array, high: Array) -> Array:
    """The mean squared error of each range [low, high] in LEVELS steps, 0 being one of them."""
    x, n = h.taken()
    scale = ((high - low) / LEVELS)[:, None]
    zero = np.rint(-low[:, None] / scale)
    q = np.clip(np.rint(x / scale) + zero, 0, LEVELS)
    error = (q - zero) * scale - x
    within = scale * scale / 12  # of what rounding loses inside a bin wider than a step
    inside = (q > 0) & (q < LEVELS)
    bin_width = 2 * h.reach / BINS
    noise = np.where(inside & (scale < bin_width), within, error * error)
    return (noise @ n) / max(h.seen, 1)


def divergence(h: Histogram, low: Array, high: Array) -> Array:
    """Kullback-Leibler divergence of the numbers from their quantized ones, for each range.

    As TensorRT's entropy calibration (Migacz, 8-bit Inference with TensorRT, GTC 2017): what lies
    outside counts for the outermost bins, and a step's count is spread over its bins that aren't
    empty. COARSE to twice as many bins lie in the range seen, wherever it lies; half of the bins
    would be below 0 otherwise where nothing is, and few would be left for 255 steps.
    """
    taken = int((h.high - h.low) / (2 * h.reach) * BINS) if h.reach else BINS
    merged = 1
    while taken // (2 * merged) >= COARSE:
        merged *= 2
    counts = _without_atoms(h.counts.reshape(-1, merged).sum(1))
    (at,) = np.nonzero(counts)
    middle = (at + 0.5) * (2 * h.reach / len(counts)) - h.reach
    x, n = np.clip(middle, h.low, h.high), counts[at]  # the range seen has all of them inside
    return np.array([_divergence(x, n, a, b) for a, b in zip(low, high, strict=True)])


def _without_atoms(counts: Array) -> Array:
    """Counts with those cut down that stand far above their neighbours', inside the range.

    Numbers that come again and again (an image's background, through a convolution) are no density.
    Spread over the bins of a step they look like a loss that narrow steps avoid, whatever else is
    clipped for it; zeros are left out for the same reason. At the ends they are what clips.
    """
    (at,) = np.nonzero(counts)
    if len(at) < 3:
        return counts
    around: Array = _ndimage.median_filter(counts, AROUND)
    cut: Array = np.minimum(counts, np.asarray(PEAK * around + SPARSE, np.int64))  # pyright: ignore
    cut[[at[0], at[-1]]] = counts[[at[0], at[-1]]]
    return cut


def _divergence(x: Array, n: Array, low: float, high: float) -> float:
    """Of one range, less what chance adds to it.

    Counts of a finite sample differ from bin to bin though the distribution is smooth. That looks
    as if wide steps lost something, in the mean (bins - steps) / 2N of it (Miller 1955), and would
    clip small samples to ranges where each step has one bin.
    """
    inside = (x >= low) & (x <= high)
    if not inside.any():
        return math.inf
    kept = n[inside].astype(np.float64)
    whole = kept.copy()
    whole[0] += n[x < low].sum()
    whole[-1] += n[x > high].sum()
    step = np.minimum(((x[inside] - low) / (high - low) * (LEVELS + 1)).astype(np.int64), LEVELS)
    sums, bins = np.bincount(step, kept), np.bincount(step)
    spread = (sums / np.maximum(bins, 1))[step]
    p, q = whole / whole.sum(), spread / spread.sum()
    chance = (len(kept) - np.count_nonzero(bins)) / (2 * whole.sum())
    return float(np.sum(p * np.log(p / q)) - chance)
