"""reconstruct: layers of a changed model give what the original's gave, as far as weights can."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.activations import SampleRuns
from graphopt.analysis.interpret import interpret, random_inputs
from graphopt.errors import InputError
from graphopt.ir.clone import clone_module, returning
from graphopt.ir.core import Loc, Module
from graphopt.ir.parser import parse
from graphopt.ir.verify import verify
from graphopt.passes.reconstruct import prepare, sites
from graphopt.passes.reconstruct.repair import repair as gather
from graphopt.passes.reconstruct.solve import Problem, solve
from graphopt.pipeline import Context, PassResult, parse_pipeline
from graphopt.rewrite.driver import Permission
from tests.changed import changed, constants, samples

RUNS = 40
OTHERS = 16  # runs that the pass doesn't see

NETWORK = """graph @main(%x: f32[1,6,8,8]) {
  %w0 = const rand 1 : f32[8,6,3,3]
  %b0 = const rand 2 : f32[8]
  %y0 = conv(%x, %w0, %b0) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "first"
  %r0 = relu(%y0) @ "relu"
  %w1 = const rand 3 : f32[8,1,3,3]
  %y1 = conv(%r0, %w1) {strides=[2,2],pads=[0,0,1,1],dilations=[1,1],group=8} @ "depthwise"
  %w2 = const rand 4 : f32[12,4,1,1]
  %y2 = conv(%y1, %w2) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1],group=2} @ "grouped"
  %t = tanh(%y2) @ "tanh"
  %p = reduce_mean(%t) {axes=[2,3],keepdims=false} @ "mean"
  %w3 = const rand 5 : f32[12,5]
  %c3 = const rand 8 : f32[5]
  %z = matmul(%p, %w3) @ "product"
  %a = add(%z, %c3) @ "bias"
  %w4 = const rand 6 : f32[3,5]
  %b4 = const rand 7 : f32[3]
  %o = gemm(%a, %w4, %b4) {alpha=0.5,beta=2.0,trans_b=true} @ "last"
  return(%o) {names=[o]}
}"""

SURE = """%k = const splat 100.0 : f32[]
  %q = mul(%o, %k)
  %p1 = softmax(%q) {axis=1}
  """

RESIDUAL = """graph @main(%x: f32[1,6,8,8]) {
  %w0 = const rand 1 : f32[6,6,3,3]
  %y0 = conv(%x, %w0) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "first"
  %r0 = tanh(%y0) @ "tanh"
  %w1 = const rand 2 : f32[6,6,1,1]
  %y1 = conv(%r0, %w1) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "second"
  %s = add(%y1, %y0) @ "sum"
  %t = tanh(%s) @ "end"
  return(%t) {names=[t]}
}"""


def noisy(module: Module, names: Sequence[str], size: float = 0.3, seed: int = 0) -> Module:
    """A copy whose constants of some names moved, by a share of their own size."""
    random, old = np.random.default_rng(seed), constants(module)
    moved = {n: old[n] * (1 + size * random.standard_normal(old[n].shape)) for n in names}
    return changed(module, moved)


def mend(
    module: Module, before: Module, text: str = "reconstruct", runs: SampleRuns | None = None,
    channels: dict[str, tuple[int, ...]] | None = None, **more: Any,
) -> PassResult:  # fmt: skip
    """Run the pass on a module in place."""
    ctx = Context(
        samples=runs or samples(before, RUNS), before=before, channels=channels or {}, **more
    )
    (one,) = parse_pipeline(text)
    result = one.run(module, ctx)
    verify(module)
    return result


def only(wanted: Loc) -> Permission:
    """Permit rewrites at one place."""

    def permit(rule: str, loc: Loc) -> bool:
        return loc == wanted

    return permit


def all_but(other: Loc) -> Permission:
    """Permit rewrites at all places but one."""

    def permit(rule: str, loc: Loc) -> bool:
        return loc != other

    return permit


def error(module: Module, before: Module, first: int = 1000) -> float:
    """Noise over signal of the output, on runs that the pass hasn't seen."""
    noise = signal = 0.0
    for seed in range(first, first + OTHERS):
        feed = random_inputs(before, seed)
        (want,), (got,) = (list(interpret(m, feed).values()) for m in (before, module))
        noise += float(np.square(want - got).sum())
        signal += float(np.square(want).sum())
    return noise / signal


def test_a_model_that_nothing_changed_does_not_drift() -> None:
    before = parse(NETWORK)
    module = clone_module(before)
    result = mend(module, before)
    assert not result.changed and not result.notes
    assert module.to_text() == before.to_text()
    for name, numbers in constants(before).items():
        assert (constants(module)[name] == numbers).all()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (NETWORK, ["w0", "b0"]), (NETWORK, ["w1"]), (NETWORK, ["w2"]), (NETWORK, ["w3", "c3"]),
        (NETWORK, ["w4", "b4"]), (NETWORK, ["w0", "b0", "w1", "w2", "w3", "c3", "w4", "b4"]),
        (RESIDUAL, ["w0", "w1"]),
    ],
)  # fmt: skip
def test_it_finds_the_weights_that_there_were(text: str, names: list[str]) -> None:
    """A solution exists and is recovered: dense, depthwise, grouped, products with rows, sums."""
    before = parse(text)
    module = noisy(before, names)
    assert error(module, before) > 1e-4
    result = mend(module, before)
    assert result.changed and result.notes
    assert error(module, before) < 1e-9  # 90 dB; ridges and float32 leave that


def test_a_residual_sum_is_made_right_by_the_branch_that_can_still_change() -> None:
    """The stream y0 is wrong and may not be mended: the branch W1 y0 makes up for its part of it."""
    before = parse(RESIDUAL.replace("%r0 = tanh(%y0)", "%r0 = identity(%y0)"))
    module = noisy(before, ["w0"], 0.1)
    start, wrong = error(module, before), constants(module)["w0"]
    first = next(op for op in module.main if op.result.hint == "y0")
    result = mend(module, before, permit=all_but(first.loc))
    assert [(str(r.loc), r.applied) for r in result.remarks] == [("first", False), ("second", True)]
    assert (constants(module)["w0"] == wrong).all()
    assert error(module, before) < 0.9 * start


def test_what_is_held_out_never_gets_worse() -> None:
    """Noise that no weights explain: a layer too narrow, few samples, many seeds."""
    before = parse(NETWORK)
    for seed in range(6):
        zeroed = constants(before)["w2"].copy()
        zeroed[:, np.random.default_rng(seed).permutation(4)[:2]] = 0
        module = changed(noisy(before, ["w0", "w3"], 0.2, seed), {"w2": zeroed})
        start = clone_module(module)
        runs = samples(before, 12, 100 * seed)
        mend(module, before, runs=runs)
        held = list(runs.take())[3::4]
        errors: list[float] = []
        for m in (start, module):
            errors.append(sum(
                float(np.square(interpret(before, f)["o"] - interpret(m, f)["o"]).sum()) for f in held
            ))  # fmt: skip
        assert errors[1] <= errors[0]


@pytest.mark.parametrize("end", ["", SURE], ids=["logits", "a model that is sure"])
def test_nothing_is_done_where_the_outputs_would_be_worse(end: str) -> None:
    """Two layers are in balance, scaled and scaled back: to mend one alone would break that.

    The probabilities of a sure model hardly tell: what counts is what they are made of.
    """
    before = parse(NETWORK.replace("return(%o)", f"{end}return({'%p1' if end else '%o'})"))
    old = constants(before)
    module = changed(before, {"w1": old["w1"] * 4, "w2": old["w2"] / 4})
    first = next(op for op in module.main if op.result.hint == "y1")
    result = mend(module, before, permit=only(first.loc))
    assert not result.changed
    assert [r.text for r in result.remarks] == [
        "the outputs would be further from the original's on the samples held out"
    ]
    assert result.notes == (f"reconstruct changed nothing: {result.remarks[0].text}",)
    assert error(module, before) < 1e-10


def test_noise_is_that_of_logits() -> None:
    told = list[float]()
    for text in (NETWORK, NETWORK.replace("return(%o)", f"{SURE}return(%p1)")):
        before = parse(text)
        work = prepare.prepared(noisy(before, ["w0"]), before, {}, samples(before, RUNS), RUNS)
        assert isinstance(work, prepare.Work)
        told.append(work.noise())
    assert told[0] > 1e-3
    assert told[1] == pytest.approx(told[0], rel=1e-5)  # a sum in another order, perhaps


def test_zeros_stay_zeros() -> None:
    before = parse(NETWORK)
    random, old = np.random.default_rng(0), constants(before)
    sparse = {n: old[n] * (random.random(old[n].shape) < 0.6) for n in ("w0", "w2", "w4")}
    sparse["w0"][2] = 0  # a whole row, besides
    module = changed(before, sparse)
    start = error(module, before)
    assert mend(module, before).changed
    for name, numbers in sparse.items():
        assert (constants(module)[name][numbers == 0] == 0).all()
    assert (constants(module)["w4"] != sparse["w4"]).any()  # what it reads goes together
    assert error(module, before) < 0.8 * start


def test_weights_that_share_few_values_stay_and_their_bias_does_not() -> None:
    text = """graph @main(%x: f32[1,16]) {
  %w = const rand 1 : f32[16,40]
  %b = const rand 2 : f32[40]
  %c = add(%b, %b)
  %m = matmul(%x, %w) @ "product"
  %k = const rand 3 : f32[40]
  %y = add(%m, %k) @ "bias"
  return(%y) {names=[y]}
}"""
    before = parse(text)
    shared = np.round(constants(before)["w"] * 4) / np.float32(4) + np.float32(0.01)
    moved = constants(before)["k"] + np.float32(0.2)
    module = changed(before, {"w": shared, "k": moved})
    assert mend(module, before).changed
    assert (constants(module)["w"] == shared).all()
    assert (constants(module)["k"] != moved).any()


def test_channels_that_are_left_are_compared_with_the_originals() -> None:
    """A convolution lost half of its channels; what reads them makes up for the rest."""
    before = parse(NETWORK)
    kept, old = (0, 2, 3, 5, 6, 7), constants(before)
    text = NETWORK.replace("f32[8,6,3,3]", "f32[6,6,3,3]").replace("2 : f32[8]", "2 : f32[6]")
    text = text.replace("f32[8,1,3,3]", "f32[6,1,3,3]").replace("group=8", "group=6")
    text = text.replace("f32[12,4,1,1]", "f32[12,3,1,1]")
    cut = {n: old[n][list(kept)] for n in ("w0", "b0", "w1")}
    halves = [old["w2"][:6][:, [0, 2, 3]], old["w2"][6:][:, [1, 2, 3]]]
    module = changed(parse(text), cut | {"w2": np.concatenate(halves)})
    module = noisy(module, ["w0"], 0.1)
    start = error(module, before)
    lost = {name: kept for name in ("y0", "r0", "y1")}
    result = mend(module, before, channels=lost)
    applied = [str(r.loc) for r in result.remarks if r.applied]
    assert applied[0] == "first" and "grouped" in applied
    assert np.allclose(constants(module)["w0"], cut["w0"], atol=1e-4)
    assert error(module, before) < 0.7 * start
    # Without the list, values of another shape are nobody's.
    again = mend(clone_module(module), before)
    assert any("another shape" in r.text for r in again.remarks)


def test_rounded_activations_are_met_by_what_comes_after() -> None:
    """Clipped results: what the relu takes away needn't be right, what it keeps is."""
    before = parse(NETWORK)
    module = noisy(before, ["w0", "b0"], 0.5, 3)
    assert mend(module, before).changed
    feed = random_inputs(before, 999)
    values = [[v for op in m.main for v in op.results if v.hint == "r0"] for m in (before, module)]
    want, got = (
        next(iter(interpret(returning(m, v), feed).values()))
        for m, v in zip((before, module), values, strict=True)
    )
    assert np.abs(want - got).max() < 1e-3 * np.abs(want).max()


def test_integers_stay_and_the_remark_says_so() -> None:
    before = parse(NETWORK)
    runs = samples(before, RUNS)
    module = clone_module(before)
    ctx = Context(samples=runs, before=before)
    for one in parse_pipeline("calibrate,quantize"):
        one.run(module, ctx)
    start = constants(module)
    integers = [n for n, a in start.items() if a.dtype == np.int8]
    assert integers
    result = mend(module, before, runs=runs)
    assert any("reconstruct before quantize" in r.text for r in result.remarks)
    for name in integers:
        assert (constants(module)[name] == start[name]).all()


def test_same_input_same_bytes() -> None:
    before = parse(NETWORK)
    texts: list[bytes] = []
    for _ in range(2):
        module = noisy(before, ["w0", "w2", "w3"])
        mend(module, before)
        texts.append(b"".join(a.tobytes() for a in constants(module).values()))
    assert texts[0] == texts[1]


def test_fewer_samples_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of two runs fit: two are taken, and the repair still is one."""
    before = parse(NETWORK)
    taken: list[int] = []

    class Counted(SampleRuns):
        def take(self, runs: int | None = None) -> Any:
            taken.append(runs or 0)
            return super().take(runs)

    feeds = [random_inputs(before, seed) for seed in range(RUNS)]
    runs = Counted(lambda: feeds, RUNS, "given")
    monkeypatch.setattr(prepare, "LIVE", 20_000)
    module = noisy(before, ["w0"])
    assert mend(module, before, runs=runs).changed
    assert 1 <= taken[-1] <= 4 and runs.used <= 4


def test_rows_too_long_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[gather.__module__], "LONGEST", 40)
    before = parse(NETWORK)
    result = mend(noisy(before, ["w0", "w3"]), before)
    told = {str(r.loc): r for r in result.remarks}
    assert not told["first"].applied and told["first"].text == "rows of more than 40 weights"
    assert told["product"].applied


def test_a_layer_whose_result_is_nobodys_is_told_of() -> None:
    before = parse(NETWORK)
    module = parse(NETWORK.replace("%y0", "%other"))
    found, remarks = sites.sites(module, before, {})
    assert [str(site.layer.op.loc) for site in found] == ["depthwise", "grouped", "product", "last"]
    assert [r.text for r in remarks] == ["its result stands for no value of the original"]


@pytest.mark.parametrize(
    ("text", "runs", "says"),
    [
        ("reconstruct", None, "needs samples"), ("reconstruct", "made", "needs samples"),
        ("reconstruct{samples=0}", "given", "samples=0 isn't 1 or more"),
        ("reconstruct{ridge=-1.0}", "given", "isn't a number from 0 up"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(text: str, runs: str | None, says: str) -> None:
    before = parse(NETWORK)
    given = None if runs is None else samples(before, 4, 0, runs)
    (one,) = parse_pipeline(text)
    with pytest.raises(InputError, match=says) as found:
        one.run(clone_module(before), Context(samples=given, before=before))
    assert "\n" not in str(found.value)


def test_after_lowrank_through_the_front_door(tmp_path: Any) -> None:
    """Ranks that are too small, repaired: closer on samples that nobody looked at."""
    before = parse(NETWORK)
    given = [random_inputs(before, seed) for seed in range(96)]
    path = tmp_path / "m.gir"
    path.write_text(NETWORK, "utf-8")
    losses: list[float] = []
    for more in ("", ",reconstruct{samples=48}"):
        found = graphopt.optimize(path, passes=f"lowrank{{rank=3,method=svd}}{more}", data=given)
        losses.append(found.report.losses[0].sqnr_db)
    assert losses[1] > losses[0]


@pytest.mark.parametrize(("count", "told"), [(400, 100), (255, 255)])
def test_the_loss_is_told_by_samples_that_nothing_was_fitted_to(
    tmp_path: Any, count: int, told: int
) -> None:
    """A quarter of them, where that is 64 at least."""
    before = parse(NETWORK)
    given = [random_inputs(before, seed) for seed in range(count)]
    path = tmp_path / "m.gir"
    path.write_text(NETWORK, "utf-8")
    passes = "lowrank{rank=3,method=svd},reconstruct"
    made = graphopt.optimize(path, passes=passes, data=given)
    assert made.report.losses[0].samples == told
    assert any("fitted to" in note for note in made.report.notes) == (told == count)


@pytest.mark.parametrize("seed", range(4))
def test_samples_that_are_almost_alike_end_in_a_larger_ridge(seed: int) -> None:
    """Of all columns the matrix can't be factored with the ridge that those fitted to chose."""
    random = np.random.default_rng(seed)
    fit = random.integers(-1, 2, (512, 1)) * random.integers(-1, 2, (1, 64))
    held = random.standard_normal((512, 1)) * random.standard_normal((1, 4096)) + fit[:, :1]
    x = np.concatenate([fit, held], 1).astype(np.float32)[None]
    t = random.standard_normal((1, 6, 512)).astype(np.float32) @ x
    found = solve(Problem(x, np.zeros((1, 512)), np.zeros_like(t), t, 64, bias=False))
    assert found is None or found.after < found.before


@pytest.mark.filterwarnings("error")
def test_a_group_that_reads_zeros_alone_gets_a_bias() -> None:
    """As behind channels that are always clipped to 0; nothing is divided by their mean square."""
    random = np.random.default_rng(0)
    x, t = np.zeros((2, 3, 64), np.float32), np.ones((2, 2, 64), np.float32)
    x[0] = random.standard_normal((3, 64))
    found = solve(Problem(x, x.mean(-1, dtype=np.float64), np.zeros_like(t), t, 48, bias=True))
    assert found and np.allclose(found.change.b[1], 1) and not found.change.w[1].any()
