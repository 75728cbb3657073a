"""cluster: k-means on a line, values of layers, zeros, choices of bits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt import parse
from graphopt.errors import InputError
from graphopt.ir.core import Module, Use
from graphopt.ir.types import Array
from graphopt.loss import Loss, Share
from graphopt.passes.layers.means import BINS, kmeans, nearest
from graphopt.passes.reconstruct.repair import put
from graphopt.pipeline import Context, parse_pipeline, run_pipeline
from graphopt.rewrite import const
from tests.passes.test_sparsify import TEXT, noise, run, samples, weights


def distortion(x: Array, w: Array, centres: Array) -> float:
    return float(np.sum(w * (x - centres[nearest(centres, x)]) ** 2))


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 9)), min_size=1, max_size=9),
       st.integers(1, 4))  # fmt: skip
def test_few_numbers_have_the_best_centres(pairs: list[tuple[int, int]], count: int) -> None:
    x, w = (np.array(v, np.float64) for v in zip(*sorted(pairs), strict=True))
    found = kmeans(x, count, w)
    assert len(found) <= count
    best = np.inf
    for cuts in itertools.combinations_with_replacement(range(len(x) + 1), count - 1):
        parts = [slice(a, b) for a, b in itertools.pairwise((0, *cuts, len(x))) if a < b]
        means = np.array([np.average(x[p], weights=w[p]) for p in parts])
        best = min(best, sum(float(np.sum(w[p] * (x[p] - m) ** 2)) for p, m in zip(parts, means, strict=True)))  # fmt: skip
    assert distortion(x, w, found) <= best * (1 + 1e-5) + 1e-6


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_many_numbers_are_near_the_rate_of_high_resolution(bits: int) -> None:
    """Panter and Dite 1951: (integral of the density's cube root)^3 / 12 / count^2."""
    rng, count = np.random.default_rng(0), 1 << bits
    assert BINS < 100_000
    x = rng.normal(size=100_000)
    found = kmeans(x, count)
    assert len(found) == count
    got = distortion(x, np.ones(len(x)), found) / len(x)
    known = {1: 0.3634, 2: 0.1175, 4: 0.00950, 6: 6.44e-4}.get(bits)  # Max 1960
    if known is None:  # so many are better on these numbers than on all that there could be
        known = 2.72 / count**2 * 0.93
    assert got == pytest.approx(known, rel=0.04)
    flat = rng.random(100_000)
    got = distortion(flat, np.ones(len(flat)), kmeans(flat, count)) / len(flat)
    assert got == pytest.approx(1 / 12 / count**2, rel=0.03)


def test_centres_go_where_the_weight_is() -> None:
    x = np.linspace(0, 1, 1000)
    found = kmeans(x, 8, np.where(x < 0.2, 100.0, 0.0))
    assert np.count_nonzero(found < 0.2) >= 7


@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_a_layer_has_no_more_values(data: bool, bits: int) -> None:
    text = f"cluster{{bits={bits}}}"
    module, settled = run(text, Context(samples=samples() if data else None))
    assert all(len(np.unique(w)) <= 1 << bits for w in weights(module))
    assert len(settled.kept) == 3
    again = module.to_text()
    _, settled = run(text, Context(samples=samples()), module)
    assert not settled.kept
    assert module.to_text() == again
    assert all("different values as it is" in c.refused for c in settled.left)


def test_few_values_are_an_identity() -> None:
    rng = np.random.default_rng(0)
    module = parse(TEXT)
    for op in module.main:  # 256 values
        if op.kind.name in ("conv", "matmul"):
            (w,) = (d.numpy() for d in (const(op.operand(1)),) if d)
            put(Use(op, 1), rng.choice(np.linspace(-1, 1, 256, dtype=np.float32), w.shape))
    text, old = module.to_text(), weights(module)
    assert all(len(np.unique(w)) <= 256 for w in old)
    module, settled = run("cluster{bits=8}", module=module)
    assert not settled.kept
    assert module.to_text() == text
    assert all(a is b or np.array_equal(a, b) for a, b in zip(old, weights(module), strict=True))


def test_errors_fall_with_bits_and_with_samples() -> None:
    found = [noise(run(f"cluster{{bits={bits}}}")[0]) for bits in (2, 4, 6, 8)]
    assert all(b < a / 4 for a, b in itertools.pairwise(found))
    assert found[1] < 0.02
    assert found[3] < 2e-4
    for bits in (2, 4):
        plain, _ = run(f"cluster{{bits={bits}}}", Context())
        looked, _ = run(f"cluster{{bits={bits}}}")
        assert noise(looked) < 0.7 * noise(plain)


def test_zeros_of_sparsify_stay_zeros() -> None:
    module, _ = run("sparsify{ratio=0.5}")
    zeros = [w == 0 for w in weights(module)]
    run("cluster{bits=3}", module=module)
    for zero, w in zip(zeros, weights(module), strict=True):
        assert (w[zero] == 0).all()
        assert len(np.unique(w)) <= 8


class ByValues:
    """A judge to whom a layer of few values costs points: 1 at 2 bits, a quarter of it a bit more."""

    def losses(self, module: Module) -> tuple[Loss, ...]:
        drop = sum(4.0 ** (2 - np.log2(max(len(np.unique(w)), 1))) for w in weights(module))
        zero = Share(0, 0, 0)
        return (Loss("y", "given", 9, "classes", 30.0, zero, Share(drop, drop, drop)),)


@pytest.mark.parametrize("limit", [0.1, 1.0])
def test_bits_are_chosen_under_the_limit(limit: float) -> None:
    ctx = Context(samples=samples(), judge=ByValues(), max_drop=limit)
    module, settled = run("cluster", ctx)
    assert settled.loss
    assert settled.loss.drop.mean <= limit
    bits = [np.log2(len(np.unique(w))) for w in weights(module)]
    assert max(bits) <= 8
    assert min(bits) < 6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cluster", r"cluster needs bits=\.\.\. or a limit on the loss \(--max-drop\)"),
        ("cluster{bits=0}", "bits=0 isn't from 1 to 8"),
        ("cluster{bits=9}", "bits=9 isn't from 1 to 8"),
        ("cluster{bits=4,skip=[nowhere]}", "no layer's name has 'nowhere' in it"),
    ],
)
def test_bad_options_are_told_in_a_sentence(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        run_pipeline(parse_pipeline(text), parse(TEXT), Context())


def test_the_same_input_gives_the_same_bytes() -> None:
    first, second = (run("sparsify{ratio=0.5}")[0] for _ in range(2))
    for module in (first, second):
        run("cluster{bits=4}", module=module)
    assert first.to_text() == second.to_text()
    assert all(np.array_equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
