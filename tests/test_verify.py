"""Tolerances: of outputs with a range of their own, and of models that amplify rounding."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.api import runs
from graphopt.data import seeded_runs
from graphopt.errors import InputError
from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.ir.types import Array
from graphopt.verify import MOST, compare, perturbed, response, tolerance

# y = (x + 2^20) - 2^20 - x: nothing but the rounding of the sums
CANCELS = f"""graph @main(%x: f32[1,64]) {{
  %big = const dense [{", ".join(["1048576"] * 64)}] : f32[64]
  %s = add(%x, %big)
  %t = sub(%s, %big)
  %y = sub(%t, %x)
  return(%y) {{names=[y]}}
}}"""


def test_a_sigmoid_is_measured_against_its_range() -> None:
    module = parse("""graph @main(%x: f32[1,4]) {
      %s = sigmoid(%x)
      %y = reshape(%s) {shape=[4]}
      %z = relu(%x)
      return(%y, %z) {names=[y, z]}
    }""")
    limit = tolerance(module.main)
    assert dict(limit.ranges) == {"y": 1.0}
    want, got = np.full(4, 1e-6, np.float32), np.full(4, 1.1e-6, np.float32)
    assert compare("", "", limit, [{"y": want}], [{"y": got}]).ok
    assert not compare("", "", limit, [{"z": want}], [{"z": got}]).ok


def test_perturbed_constants_are_off_by_one_rounding() -> None:
    module = parse("graph @main() {\n%w = const rand 1 : f32[100]\nreturn(%w)\n}")
    (w,) = [v.op.kind.evaluate()[0] for v in module.main.outputs if v.op]
    copy = perturbed(module, np.random.default_rng(0))
    (v,) = [v.op.kind.evaluate()[0] for v in copy.main.outputs if v.op]
    ulps = np.abs(v.view(np.int32) - w.view(np.int32))
    assert ulps.min() >= 1
    assert ulps.max() <= 2


def test_a_single_constant_stays_as_it_is() -> None:
    """It may be an exponent: x^2.0000001 of a negative x is no number."""
    module = parse("graph @main() {\n%w = const dense [2] : f32[1]\nreturn(%w)\n}")
    copy = perturbed(module, np.random.default_rng(0))
    assert copy.to_text() == module.to_text()


def test_no_response_allows_more_than_a_hundredth() -> None:
    limit = tolerance(parse(CANCELS).main, lambda: {"y": 3.0}).measured()
    assert limit.at("y") == MOST
    assert str(limit).startswith("1.0e-02 ")


def test_a_model_that_amplifies_rounding_gets_its_own_response_as_tolerance() -> None:
    module = parse(CANCELS)
    feeds, wanted = seeded_runs(module, lambda f: runs(module, [f])[0], 2)
    asked: list[int] = []

    def respond() -> dict[str, float]:
        asked.append(1)
        return dict(response(module, feeds, wanted, runs))

    limit = tolerance(module.main, respond)
    assert compare("", "", limit, wanted, wanted).ok
    assert asked == []  # it is measured only where the plain tolerance fails
    off: list[dict[str, Array]] = [{"y": np.asarray(w["y"]) * np.float32(1.005)} for w in wanted]
    assert compare("", "", limit, wanted, off).ok
    assert "one rounding of weights and inputs" in str(compare("", "", limit, wanted, off))


def test_a_wrong_result_fails_however_it_is_measured() -> None:
    module = parse("""graph @main(%x: f32[1,8]) {
      %w = const rand 1 : f32[8,8]
      %y = matmul(%x, %w)
      return(%y) {names=[y]}
    }""")
    feeds, wanted = seeded_runs(module, lambda f: runs(module, [f])[0], 2)
    limit = tolerance(module.main, lambda: response(module, feeds, wanted, runs))
    wrong = [{"y": np.asarray(w["y"]) * np.float32(1.001)} for w in wanted]
    assert not compare("", "", limit, wanted, wrong).ok


def test_seeded_sizes_grow_until_the_model_runs() -> None:
    module = parse("graph @main(%x: f32[N,T]) {\n%y = relu(%x)\nreturn(%y) {names=[y]}\n}")

    def run(feed: dict[str, Array]) -> dict[str, Array]:
        if feed["x"].shape[1] < 200:
            raise InputError("too short")
        return feed

    feeds, outputs = seeded_runs(module, run, 2)
    assert [f["x"].shape for f in feeds] == [(1, 256)] * 2
    assert len(outputs) == 2
    with pytest.raises(InputError, match="never"):
        seeded_runs(module, _never, 1)


def _never(feed: dict[str, Array]) -> dict[str, Array]:
    raise InputError("never")


def test_an_anonymous_inner_axis_may_be_a_batch() -> None:
    module: Module = parse("graph @main(%x: f32[1,T], %h: f32[2,?,4]) {\nreturn(%x) {names=[y]}\n}")

    def run(feed: dict[str, Array]) -> dict[str, Array]:
        if feed["h"].shape[1] != 1:
            raise InputError("not the batch")
        return feed

    (feed,), _ = seeded_runs(module, run, 1)
    assert feed["h"].shape == (2, 1, 4)
