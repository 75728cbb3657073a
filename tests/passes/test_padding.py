"""Rows that an attention mask leaves out count for nothing."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt.passes  # noqa: F401  # pyright: ignore[reportUnusedImport]  # registers them
from graphopt.activations import SampleRuns
from graphopt.analysis.padding import padding_mask
from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.ir.types import Array
from graphopt.onnx.evaluate import evaluate_opaque
from graphopt.pipeline import Context, parse_pipeline, run_pipeline

TEXT = """graph @main(%x: f32[2,6,16], %mask: i64[2,6]) {
  %w = const rand 1 : f32[16,16]
  %q = matmul(%x, %w) @ "q"
  %t = transpose(%x) {perm=[0,2,1]} @ "t"
  %s = matmul(%q, %t) @ "scores"
  %f = cast(%mask) {to=f32} @ "cast"
  %far = const dense [10000.0] : f32[1]
  %one = const dense [1.0] : f32[1]
  %d = sub(%f, %one) @ "sub"
  %e = mul(%d, %far) @ "mul"
  %u = reshape(%e) {shape=[2,1,6]} @ "wide"
  %a = add(%s, %u) @ "masked"
  %p = softmax(%a) {axis=-1} @ "softmax"
  %y = matmul(%p, %x) @ "mixed"
  %v = const rand 2 : f32[16,8]
  %z = matmul(%y, %v) @ "last"
  return(%z) {names=[z]}
}"""


def feeds(padding: float, count: int = 8) -> list[dict[str, Array]]:
    """Three of six rows are padding, filled with a number."""
    mask = np.zeros((2, 6), np.int64)
    mask[:, :3] = 1
    found: list[dict[str, Array]] = []
    for seed in range(count):
        x = np.random.default_rng(seed).normal(size=(2, 6, 16)).astype(np.float32)
        x[:, 3:] = padding
        found.append({"x": x, "mask": mask})
    return found


def samples(module: Module, padding: float) -> SampleRuns:
    given = feeds(padding)
    return SampleRuns(lambda: given, len(given), "given", mask=padding_mask(module.main))


def test_the_mask_is_what_comes_into_the_scores() -> None:
    assert padding_mask(parse(TEXT).main) == "mask"
    unused = TEXT.replace("add(%s, %u)", "add(%s, %s)")
    assert padding_mask(parse(unused).main) is None


def test_watched_values_have_no_padded_rows() -> None:
    module = parse(TEXT)
    value = next(op for op in module.main if op.loc.nodes == ("q",)).operand(0)
    (array,) = (x for _, x in samples(module, 1000.0).watch(module, [value], 1))
    np.testing.assert_array_equal(array, feeds(1000.0)[0]["x"][:, :3].reshape(1, 6, 16))


@pytest.mark.parametrize(
    "passes", ["calibrate,quantize,adaround,bias_correct", "smooth,calibrate{method=minmax},quantize"]
)
def test_what_padding_holds_changes_nothing(passes: str) -> None:
    texts: list[str] = []
    for padding in (0.0, 50.0):
        module = parse(TEXT)
        ctx = Context(evaluate=evaluate_opaque, samples=samples(module, padding))
        run_pipeline(parse_pipeline(passes), module, ctx)
        texts.append(module.to_text())
    assert texts[0] == texts[1]
