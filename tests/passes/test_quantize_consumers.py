"""Ranges chosen at the layers that read a value, and repairs undone that don't help the outputs."""

from __future__ import annotations

import numpy as np

import graphopt.passes  # noqa: F401  # pyright: ignore[reportUnusedImport]  # registers them
from graphopt.activations import SampleRuns
from graphopt.ir.builtin import Const
from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.ir.types import Array
from graphopt.ops.quant import Calibrated
from graphopt.pipeline import Context, Record, parse_pipeline, run_pipeline

WEIGHTS = ",".join(["100", *["0.01"] * 1023])
HEAVY = f"""graph @main(%x: f32[1,1024]) {{
  %w = const dense [{WEIGHTS}] : f32[1024,1]
  %y = matmul(%x, %w) @ "product"
  return(%y) {{names=[y]}}
}}"""

PADDED = """graph @main(%x: f32[1,10,16]) {
  %w = const rand 1 : f32[16,24]
  %m = matmul(%x, %w) @ "product"
  %y = slice(%m) {starts=[0],ends=[2],axes=[1],steps=[1]} @ "words"
  return(%y) {names=[y]}
}"""


def context(feeds: list[dict[str, Array]]) -> Context:
    return Context(samples=SampleRuns(lambda: feeds, len(feeds), "given"))


def outliers(seed: int) -> dict[str, Array]:
    """Normal numbers; the one with the large weight is beyond the others' range now and then."""
    x = np.random.default_rng(seed).normal(size=(1, 1024)).astype(np.float32)
    x[0, 0] = (-4.5, 4.5)[seed % 2] if seed % 15 in (0, 1) else 0
    return {"x": x}


def ranged(method: str) -> tuple[float, float]:
    module = parse(HEAVY)
    feeds = [outliers(seed) for seed in range(40)]
    run_pipeline(parse_pipeline(f"calibrate{{method={method}}}"), module, context(feeds))
    (note,) = (op.kind for op in module.main if isinstance(op.kind, Calibrated))
    return note.low, note.high


def test_of_several_ranges_it_is_the_best_one_for_the_reader() -> None:
    tried = {m: error(*ranged(m)) for m in ("mse", "minmax", "percentile", "consumer")}
    assert tried["consumer"] <= min(tried.values()) * 1.03, tried
    assert max(tried.values()) > 1.5 * tried["consumer"], "all the same: nothing is tested"


def error(low: float, high: float) -> float:
    """Of the product's result on the calibrated samples, by numpy."""
    (weight,) = (op.kind.data.numpy() for op in parse(HEAVY).main if isinstance(op.kind, Const))
    scale, total = (high - low) / 255, 0.0
    for seed in range(16):
        x = outliers(seed)["x"]
        zero = np.rint(-low / scale)
        q = (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale
        total += float(np.sum(((q - x) @ weight) ** 2))
    return total


def repaired(passes: str) -> tuple[Module, list[Record]]:
    """Eight of ten rows are padding, always the same, and not given back."""
    rng = np.random.default_rng(3)
    pad = rng.normal(size=16).astype(np.float32)
    feeds: list[dict[str, Array]] = []
    for _ in range(24):
        x = np.tile(pad, (1, 10, 1))
        x[:, :2] = rng.normal(size=(1, 2, 16))
        feeds.append({"x": x.astype(np.float32)})
    module = parse(PADDED)
    return module, run_pipeline(parse_pipeline(passes), module, context(feeds))


def test_a_repair_that_takes_the_outputs_further_away_is_undone() -> None:
    plain, _ = repaired("calibrate,quantize")
    module, records = repaired("calibrate,quantize,bias_correct")
    assert module.to_text() == plain.to_text()
    (note,) = records[-1].notes
    assert "bias_correct undone: the outputs would be further" in note
    assert not records[-1].changed
