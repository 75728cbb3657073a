"""calibrate: histograms, and ranges by method."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.analysis.histogram import (
    BINS,
    Histogram,
    best,
    divergence,
    minmax,
    percentile,
    squares,
)


def test_a_histogram_is_that_of_all_numbers_at_once() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.normal(size=500).astype(np.float32) * scale for scale in (0.1, 3, 0.5, 40)]
    one, many = Histogram(), Histogram()
    one.add(np.concatenate(parts))
    for part in parts:
        many.add(part)
    assert (many.low, many.high, many.seen) == (one.low, one.high, one.seen)
    assert many.reach == one.reach == 2.0 ** np.ceil(np.log2(max(-one.low, one.high)))
    apart = np.abs(np.cumsum(many.counts) - np.cumsum(one.counts)).max()
    assert apart <= 2  # a number at the edge of a bin may fall to its neighbour


def test_a_histogram_takes_the_same_room_however_much_it_has_seen() -> None:
    h = Histogram()
    rng = np.random.default_rng(2)
    for i in range(10_000):
        h.add(rng.normal(size=64).astype(np.float32) * (1 + i % 7))
    assert h.counts.nbytes == BINS * 8
    assert int(h.counts.sum()) + h.zeros == h.seen == 640_000


def test_zeros_and_what_is_not_finite_leave_a_histogram_sane() -> None:
    h = Histogram()
    h.add(np.zeros((3, 4), np.float32))
    h.add(np.array([np.inf, np.nan, 1.0, 0.0], np.float32))
    assert (h.low, h.high) == (0.0, 1.0)


def test_ranges_by_method() -> None:
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(size=100_000), [60.0]]).astype(np.float32)
    h = Histogram()
    h.add(x)
    assert minmax(h) == (x.min(), 60)
    low, high = percentile(h, 99.9)
    assert low == pytest.approx(np.quantile(x, 0.0005), abs=2 * 2 * h.reach / BINS)
    assert high == pytest.approx(np.quantile(x, 0.9995), abs=2 * 2 * h.reach / BINS)
    found = best(h, squares)
    errors = [float(squares(h, np.array([a]), np.array([b]))[0]) for a, b in (found, minmax(h))]
    assert errors[0] < errors[1]


def test_the_divergence_of_a_small_sample_does_not_clip_its_body() -> None:
    rng = np.random.default_rng(0)
    for count in (3000, 100_000):  # noise of counts clipped them to 2.9 and to 3.9
        x = np.maximum(rng.normal(size=count), 0).astype(np.float32)
        h = Histogram()
        h.add(x)
        low, high = best(h, divergence)
        assert low == 0
        assert np.sum(x > high) <= 1


def test_the_divergence_keeps_what_heaps_up_at_the_end() -> None:
    x = np.clip(3 * np.random.default_rng(1).normal(size=20_000), 0, 6).astype(np.float32)
    h = Histogram()
    h.add(x)
    assert best(h, divergence) == (0, 6)


def test_the_divergence_does_not_clip_for_numbers_that_come_again_and_again() -> None:
    rng = np.random.default_rng(2)
    x = np.abs(rng.normal(size=200_000)).astype(np.float32)
    x[:120_000] = rng.choice(np.linspace(0.11, 0.9, 8), 120_000)  # clipped to 2.1 of 4.4
    h = Histogram()
    h.add(x)
    assert best(h, divergence)[1] > 0.7 * x.max()


def test_the_squared_error_of_a_range_is_that_of_quantizing_to_it() -> None:
    rng = np.random.default_rng(4)
    x = np.abs(rng.normal(size=50_000)).astype(np.float32)
    h = Histogram()
    h.add(x)
    scale = np.float32(2.5 / 255)
    real = np.mean((np.clip(np.rint(x / scale), 0, 255) * scale - x) ** 2)
    told = squares(h, np.array([0.0]), np.array([2.5]))[0]
    assert told == pytest.approx(real, rel=0.02)  # the bins are of 1/16 step
