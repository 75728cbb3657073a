"""Layers with the same weights: what is done to one is done to all, and they stay the same."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt import parse
from graphopt.activations import SampleRuns
from graphopt.analysis.cost import weight_bytes
from graphopt.analysis.interpret import interpret
from graphopt.choices import Settled
from graphopt.ir.core import Module
from graphopt.ir.data import Inline
from graphopt.ir.verify import verify
from graphopt.passes.layers.gram import grams
from graphopt.passes.layers.measured import Together
from graphopt.passes.layers.replace import Weights, replace_layers
from graphopt.passes.layers.sites import sites
from graphopt.passes.lowrank.forms import Svd
from graphopt.pipeline import Context, parse_pipeline

TEXT = """graph @main(%a: f32[2,6,8,8], %b: f32[1,6,12,12]) {
  %w = const rand 1 : f32[16,6,3,3]
  %c = const rand 2 : f32[16]
  %y = conv(%a, %w, %c) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "near"
  %z = conv(%b, %w) {strides=[2,2],pads=[0,0,0,0],dilations=[1,1]} @ "far"
  %p = reduce_mean(%y) {axes=[2,3],keepdims=false} @ "mean"
  %q = reduce_mean(%z) {axes=[2,3],keepdims=false} @ "mean2"
  %v = const rand 3 : f32[16,12]
  %s = matmul(%p, %v) @ "head"
  %t = matmul(%q, %v) @ "head2"
  return(%s, %t, %y, %z) {names=[s,t,y,z]}
}"""
ELSEWHERE = TEXT.replace("%q = reduce", "%x = neg(%w)\n  %q = reduce").replace(
    "return(%s, %t, %y, %z) {names=[s,t,y,z]}", "return(%s, %t, %y, %z, %x) {names=[s,t,y,z,x]}"
)


def feeds(count: int = 6) -> list[dict[str, np.ndarray]]:
    """Of `b` other channels have a mean and vary than of `a`."""
    found = list[dict[str, np.ndarray]]()
    for i in range(count):
        rng = np.random.default_rng(i)
        a, b = rng.normal(size=(2, 6, 8, 8)), rng.normal(size=(1, 6, 12, 12))
        a[:, :3], b[:, 3:] = 0.1 * a[:, :3] + 0.5, 0.2 * b[:, 3:]
        found.append({"a": a.astype(np.float32), "b": b.astype(np.float32)})
    return found


SAMPLES = SampleRuns(feeds, 6, "given")


def run(passes: str, text: str = TEXT) -> tuple[Module, Settled]:
    module = parse(text)
    (one,) = parse_pipeline(passes)
    result = one.run(module, Context(samples=SAMPLES))
    verify(module)
    assert result.settled
    return module, result.settled


@pytest.mark.parametrize("passes", [
    "lowrank{rank=4,method=svd}", "lowrank{rank=4,method=svd,aim=size}", "factorize{terms=1}",
    "sparsify{ratio=0.5}", "cluster{bits=2}",
])  # fmt: skip
def test_twins_read_the_same_constants_afterwards(passes: str) -> None:
    module, settled = run(passes)
    assert ("near", "far") in [c.loc.nodes for c in settled.kept]
    layers = [op for op in module.main if op.kind.name in ("conv", "matmul")]
    weights = {op.operand(1): op.loc.nodes for op in layers}
    assert len(layers) == 2 * len(weights)
    original = parse(TEXT).main
    assert len({op.operand(1).hint for op in layers}) == len(weights)  # the names of each its own
    if "lowrank" in passes or "factorize" in passes:
        bias = 4 * 16  # of the one that had none
        assert weight_bytes(module.main) < 0.75 * weight_bytes(original) + bias


def test_weights_that_something_else_has_stay_in_the_file() -> None:
    for passes in ("lowrank{rank=4,aim=size}", "sparsify{ratio=0.5}", "cluster{bits=2}"):
        _, settled = run(passes, ELSEWHERE)
        told = {c.loc.nodes: c.refused for c in settled.left}
        assert told["near", "far"] == "its weights are another's, too"
        assert ("head", "head2") in [c.loc.nodes for c in settled.kept]
    _, settled = run("lowrank{rank=4}", ELSEWHERE)  # time is saved all the same
    assert ("near", "far") in [c.loc.nodes for c in settled.kept]


def test_one_twin_is_skipped_as_all() -> None:
    _, settled = run("lowrank{rank=4,skip=[far]}")
    told = {c.loc.nodes: c.refused for c in settled.left}
    assert told["near", "far"] == "skipped, as asked"


def noise(module: Module, name: str) -> float:
    """Noise over signal of a result, on the samples."""
    lost = signal = 0.0
    for feed in feeds():
        want = interpret(parse(TEXT), feed)[name].astype(np.float64)
        lost += float(np.sum((interpret(module, feed)[name] - want) ** 2))
        signal += float(np.sum(want**2))
    return lost / signal


def test_the_error_told_is_the_sum_of_what_twins_lose() -> None:
    """Each as it counts; and less is lost than with the factors that are best for one of them."""
    module = parse(TEXT)
    site = next(s for s in sites(module.main) if s.op.loc.nodes == ("near",))
    looked, alone = Together(site), Together(site)
    sense = {"near": 0.5, "far": 2.0}
    for gram in grams(module, [s.op for s in site.family], SAMPLES):
        name = gram.op.loc.nodes[0]
        looked.add(gram, sense[name])
        alone.add(gram, sense[name] if name == "near" else 0.0)
    form = Svd(site)
    fit = form.fit(looked.numbers(whiten=True), (4,))
    error, shifts = looked.error(fit.made)
    worse, _ = looked.error(form.fit(alone.numbers(whiten=True), (4,)).made)
    assert error < 0.9 * worse
    data = tuple(Inline(a.astype(np.float32)) for a in fit.weights)
    replace_layers([s.op for s in site.family], form, Weights(data, shifts))
    verify(module)
    true = sense["near"] * noise(module, "y") + sense["far"] * noise(module, "z")
    assert error == pytest.approx(true, rel=1e-3)  # of all windows, up to rounding of the weights
