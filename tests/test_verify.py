"""Tolerances: of outputs with a range of their own, and of models that amplify rounding."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from graphopt.analysis.interpret import interpret, random_inputs
from graphopt.api import optimize
from graphopt.data import seeded_runs
from graphopt.errors import InputError
from graphopt.exact import check_integers
from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.ir.types import Array
from graphopt.job import runs
from graphopt.passes.integers import Integers
from graphopt.perturb import perturbed, redrawn
from graphopt.pipeline import Context
from graphopt.verify import MOST, Tolerance, compare, response, tolerance

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


def test_what_seeded_inputs_dont_suit_wants_samples() -> None:
    module = parse("graph @m(%x: i64[4], %y: i64[4]) { %q = div(%x, %y)\n return(%q) }")

    def run(_: Mapping[str, Array]) -> Mapping[str, Array]:
        raise InputError("ONNX Runtime can't run it: integer division by zero")

    with pytest.raises(InputError, match="division by zero") as raised:
        seeded_runs(module, run, 1)
    assert raised.value.__notes__ == [
        "that was on seeded inputs: give samples that suit it (--data)"
    ]


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


QUANTIZED = """graph @main(%x: f32[1,8,6,6]) {
  %s = const dense [0.03] : f32[]
  %z = const dense [128] : u8[]
  %wq = const rand 3 : i8[16,8,3,3]
  %ws = const dense [0.002] : f32[]
  %xq = quantize(%x, %s, %z) {dtype=u8}
  %xf = dequantize(%xq, %s, %z)
  %w = dequantize(%wq, %ws)
  %c = conv(%xf, %w) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]}
  %cq = quantize(%c, %s, %z) {dtype=u8}
  %cf = dequantize(%cq, %s, %z)
  return(%cf, %cq) {names=[y, q]}
}"""


def measured(module: Module) -> tuple[Tolerance, list[dict[str, Array]]]:
    """A module's tolerance, with its response to rounding, and its outputs."""
    feeds, wanted = seeded_runs(module, lambda f: runs(module, [f])[0], 2)
    limit = tolerance(module.main, lambda: response(module, feeds, wanted, runs)).measured()
    return limit, [{k: np.asarray(v) for k, v in w.items()} for w in wanted]


def test_rounding_to_few_bits_may_fall_to_the_other_side() -> None:
    limit, wanted = measured(parse(QUANTIZED))
    assert limit.few_bits
    step = [{"y": w["y"] + np.float32(0.03), "q": np.where(w["q"] < 255, w["q"] + 1, 255)}
            for w in wanted]  # fmt: skip
    step = [{**s, "q": s["q"].astype(np.uint8)} for s in step]
    check = compare("", "", limit, wanted, step)
    assert check.ok
    assert "2 times what drawing all roundings to few bits anew" in str(check)
    lost = [{"y": np.maximum(w["y"], 0), "q": np.maximum(w["q"], 128)} for w in wanted]
    assert [o.ok for o in compare("", "", limit, wanted, lost).outputs] == [False, False]


def test_other_roundings_are_the_next_integers() -> None:
    module = parse(QUANTIZED)
    (feed,), _ = seeded_runs(module, lambda f: runs(module, [f])[0], 1)
    other = redrawn(module, np.random.default_rng(0))
    (want,), (got,) = runs(module, [feed]), runs(other, [feed])
    apart = np.abs(want["q"].astype(int) - got["q"].astype(int))
    assert 0.2 < np.mean(apart > 0) < 0.8
    assert apart.max() <= 2


def test_a_scale_of_the_run_stays_when_roundings_fall_another_way() -> None:
    module = parse("""graph @main(%x: f32[4,64]) {
      %q, %s, %z = dynamic_quantize(%x)
      return(%q, %s, %z) {names=[q, s, z]}
    }""")
    (feed,), _ = seeded_runs(module, lambda f: runs(module, [f])[0], 1)
    (want,) = runs(module, [feed])
    (got,) = runs(redrawn(module, np.random.default_rng(0)), [feed])
    assert (want["s"], want["z"]) == (got["s"], got["z"])
    assert 0.2 < np.mean(want["q"] != got["q"]) < 0.8
    assert tolerance(module.main).few_bits


def lowered(text: str) -> tuple[Module, dict[str, Array], dict[str, Array]]:
    """A module with its sums in integers, inputs, and what numpy makes of them."""
    module = parse(text)
    Integers().run(module, Context())
    feed = random_inputs(module)
    return module, feed, interpret(module, feed)


def test_integers_are_compared_to_the_bit() -> None:
    module, feed, outputs = lowered(QUANTIZED)
    check = check_integers(module, feed, outputs, "seeded")
    assert check
    assert check.ok
    assert str(check).endswith("limit 0: the same bits")
    for name in outputs:
        wrong = {k: v.copy() for k, v in outputs.items()}
        wrong[name].reshape(-1)[7] += 1
        found = check_integers(module, feed, wrong, "seeded")
        assert found
        assert [o.ok for o in found.outputs] == [k != name for k in outputs]


def test_floats_after_the_integers_are_compared_as_floats() -> None:
    module, feed, outputs = lowered(QUANTIZED.replace(
        "return(%cf, %cq) {names=[y, q]}",
        "%m = reduce_mean(%cf) {axes=[2,3]}\n return(%m, %cq) {names=[y, q]}"))  # fmt: skip
    near = {**outputs, "y": outputs["y"] * np.float32(1 + 1e-6)}
    check = check_integers(module, feed, near, "seeded")
    assert check
    assert check.ok
    near["q"] = outputs["q"] ^ 1
    found = check_integers(module, feed, near, "seeded")
    assert found
    assert [o.ok for o in found.outputs] == [True, False]


@pytest.mark.parametrize("between", [
    "%u = softmax(%cf) {axis=1}",
    "%m = reduce_max(%cf) {axes=[2,3]}\n %t = mul(%cf, %m)\n %u = add(%t, %cf)",
])  # fmt: skip
def test_inexact_floats_that_are_rounded_again_are_not_compared(between: str) -> None:
    module, feed, outputs = lowered(QUANTIZED.replace(
        "return(%cf, %cq) {names=[y, q]}",
        f"{between}\n %v = quantize(%u, %s, %z) {{dtype=u8}}\n return(%v) {{names=[v]}}"))  # fmt: skip
    assert check_integers(module, feed, outputs, "seeded") is None


def test_a_quantized_bundle_is_checked_against_numpy(tmp_path: Path) -> None:
    path = tmp_path / "m.gir"
    path.write_text(QUANTIZED)
    result = optimize(path, target="x86", threads=1)
    last = result.report.checks[-1]
    assert last.what.startswith("the compiled bundle, against numpy")
    assert last.ok
