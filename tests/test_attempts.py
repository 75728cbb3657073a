"""The limit on the loss, through `optimize`: a second attempt, and what is found where it fails."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.choices import Choice, Goal, settle
from graphopt.errors import LimitError
from graphopt.hooks import Dump, Timing
from graphopt.ir.builtin import Const
from graphopt.ir.core import Loc, Module
from graphopt.ir.data import Inline
from graphopt.ir.types import Array
from graphopt.pipeline import Context, Pass, PassResult

RUNS, SEEN = 168, 8  # of which the first are looked at; half of the others choose


def model() -> onnx.ModelProto:
    """Logits of two classes: each of three features adds itself to one and takes it from another."""
    weights = np.array([[1, -1], [1, -1], [0.1, -0.1]], np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")], "three",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def data() -> list[dict[str, Array]]:
    """Samples of which only the last half, those that tell the result, have a second feature."""
    rng = np.random.default_rng(0)
    x = np.zeros((RUNS, 3), np.float32)
    x[:, 0] = rng.choice([-1, 1], RUNS)
    x[SEEN + (RUNS - SEEN) // 2 :, 1] = rng.choice([-3, 3], (RUNS - SEEN) // 2)
    x[:, 2] = rng.choice([-1, 1], RUNS)
    return [{"x": row[None]} for row in x]


def forget(module: Module, features: Sequence[int]) -> None:
    """Make rows of the weights zero."""
    const = next(op for op in module.main if isinstance(op.kind, Const))
    assert isinstance(const.kind, Const)
    weights = const.kind.data.numpy().copy()
    weights[list(features)] = 0
    const.kind = Const(Inline(weights))


@dataclass(frozen=True)
class Forget(Pass, name="forget_features"):
    """Forget features, each a choice that saves one of `goal` (0: no goal)."""

    goal: float = 0.0
    effect = "lossy"

    def run(self, module: Module, ctx: Context) -> PassResult:
        assert ctx.samples
        list(ctx.samples.take(SEEN))
        choices = [Choice(str(i), Loc((f"feature{i}",)), "forgotten", 1.0, e, "MACs", saves=1.0)
                   for i, e in ((2, 0.1), (1, 0.2), (0, 0.3))]  # fmt: skip

        def apply(m: Module, made: Sequence[Choice]) -> None:
            forget(m, [int(c.layer) for c in made])

        goal = Goal(self.goal, "features") if self.goal else None
        settled = settle(module, choices, apply, ctx, goal)
        return PassResult(bool(settled.kept), settled.remarks(), settled, settled.notes())


@dataclass(frozen=True)
class Spoil(Pass, name="spoil_features"):
    """Forget the first two features without asking."""

    effect = "lossy"

    def run(self, module: Module, ctx: Context) -> PassResult:
        assert ctx.samples
        list(ctx.samples.take(SEEN))
        forget(module, (0, 1))
        return PassResult(True)


@dataclass(frozen=True)
class Remember(Pass, name="remember_features"):
    """Give features their weights back, if there are no more than `most` to be given back."""

    most: int = 3
    effect = "lossy"
    repairs = True

    def run(self, module: Module, ctx: Context) -> PassResult:
        assert ctx.before
        (const,) = (op for op in module.main if isinstance(op.kind, Const))
        first = next(op for op in ctx.before.main if isinstance(op.kind, Const))
        assert isinstance(const.kind, Const)
        if np.count_nonzero(~const.kind.data.numpy().any(1)) > self.most:
            return PassResult(False)
        const.kind = first.kind
        return PassResult(True)


@dataclass(frozen=True)
class Collapse(Pass, name="collapse"):
    """Forget all features, without asking, if two are forgotten."""

    effect = "lossy"

    def run(self, module: Module, ctx: Context) -> PassResult:
        (const,) = (op for op in module.main if isinstance(op.kind, Const))
        assert isinstance(const.kind, Const)
        if np.count_nonzero(~const.kind.data.numpy().any(1)) < 2:
            return PassResult(False)
        forget(module, (0, 1, 2))
        return PassResult(True)


@dataclass(frozen=True)
class Look(Pass, name="look"):
    """Look at half of the samples."""

    effect = "lossy"

    def run(self, module: Module, ctx: Context) -> PassResult:
        assert ctx.samples
        list(ctx.samples.take(RUNS // 2))
        return PassResult(False)


def rare() -> list[dict[str, Array]]:
    """Samples of which one in 20, of both halves, is answered by the second feature."""
    rng = np.random.default_rng(0)
    x = np.zeros((RUNS, 3), np.float32)
    x[:, 0] = rng.choice([-1, 1], RUNS)
    x[::20, 1] = -3 * x[::20, 0]
    return [{"x": row[None]} for row in x]


def made(report: graphopt.api.Report) -> set[str]:
    return {c.layer for r in report.passes if r.settled for c in r.settled.kept}


def test_where_the_other_half_loses_too_much_passes_choose_again_by_all(tmp_path: Path) -> None:
    """Feature 1 costs nothing on the half that chooses, and every other answer on the rest."""
    timing, dump = Timing(), Dump(tmp_path / "dumps")
    result = graphopt.optimize(
        model(), passes=[Forget()], data=data(), max_drop=10, hooks=[timing, dump]
    )
    report = result.report
    assert made(report) == {"2"}
    (loss,) = report.losses
    assert (loss.drop.mean, loss.samples) == (0, RUNS - SEEN)
    assert any("the first attempt lost" in note and "ran again" in note for note in report.notes)
    assert [text for text, _ in timing.seconds] == [str(Forget())]  # of the second run only
    assert len(list((tmp_path / "dumps").glob("*.gir"))) == 2
    assert not report.missed


def test_without_a_limit_passes_run_once_and_the_other_half_tells() -> None:
    report = graphopt.optimize(model(), passes=[Forget()], data=data()).report
    assert made(report) == {"0", "1", "2"}
    assert not any("ran again" in note for note in report.notes)


def test_a_goal_that_only_the_first_half_allows_ends_with_the_best_found(tmp_path: Path) -> None:
    with pytest.raises(LimitError, match="the best found has 50% of them") as caught:
        graphopt.optimize(model(), passes=[Forget(goal=2)], data=data(), max_drop=10)
    best = caught.value.best
    assert best and made(best.report) == {"2"}
    assert best.report.missed and best.report.losses[0].drop.mean == 0
    place = best.save(tmp_path / "best.onnx")
    written = onnx.ModelProto.FromString(place.read_bytes())
    weights = numpy_helper.to_array(written.graph.initializer[0])
    assert np.count_nonzero(weights.any(1)) == 2


def test_what_is_repaired_later_needs_no_limit_before() -> None:
    """All features are forgotten, which costs every other answer, and remembered."""
    chain = [Forget(goal=3), Remember()]
    report = graphopt.optimize(model(), passes=chain, data=data(), max_drop=1).report
    assert made(report) == {"0", "1", "2"}
    assert report.losses[0].drop.mean == 0 and not report.missed


def test_what_was_to_be_repaired_and_was_not_is_held_to_the_limit() -> None:
    chain = [Forget(goal=3), Remember(most=0)]
    with pytest.raises(LimitError, match="the best found has 33% of them") as caught:
        graphopt.optimize(model(), passes=chain, data=data(), max_drop=1)
    best = caught.value.best
    assert best and made(best.report) == {"2"}
    assert any("each held to the limit" in note for note in best.report.notes)


def test_a_pass_that_asks_nobody_ends_with_what_it_made() -> None:
    """It would do the same again: it isn't asked to."""
    with pytest.raises(LimitError, match=r"the drop is [\d.]+ points, over the limit of 1 ") as e:
        graphopt.optimize(model(), passes=[Spoil()], data=data(), max_drop=1)
    best = e.value.best
    assert best and best.report.missed
    assert not any("ran again" in note for note in best.report.notes)
    assert best.report.losses[0].drop.mean > 1


def test_choices_after_too_much_is_lost_are_not_made() -> None:
    with pytest.raises(LimitError) as e:
        graphopt.optimize(model(), passes=[Spoil(), Forget()], data=data(), max_drop=1)
    best = e.value.best
    assert best and not made(best.report)
    settled = best.report.passes[1].settled
    assert settled and all("are lost without it" in c.refused for c in settled.left)


def test_a_goal_is_not_given_up_for_a_distance_where_the_limit_allows_it() -> None:
    """5 points are within 6, but not with a distance for other samples."""
    report = graphopt.optimize(model(), passes=[Forget(goal=2)], data=rare(), max_drop=6).report
    assert made(report) == {"1", "2"} and not report.missed
    (loss,) = report.losses
    assert loss.samples == RUNS - SEEN and 4 < loss.drop.mean <= 6
    (note,) = (note for note in report.notes if "first attempt" in note)
    assert "gave up a goal to keep a distance from the limit of 6; so" in note


def test_in_a_second_attempt_all_choose_by_the_samples_that_tell() -> None:
    """Those that a later pass looks at lose less: with them, feature 1 would be forgotten."""
    chain = [Forget(), Look()]
    report = graphopt.optimize(model(), passes=chain, data=data(), max_drop=36).report
    assert "1" not in made(report) and not report.missed
    assert any("ran again" in note for note in report.notes)
    assert report.losses[0].samples == RUNS // 2


def test_without_a_goal_choices_keep_their_distance() -> None:
    report = graphopt.optimize(model(), passes=[Forget()], data=rare(), max_drop=6).report
    assert made(report) == {"2"}
    assert not any("first attempt" in note for note in report.notes)


def test_a_second_attempt_that_loses_more_than_the_first_is_not_taken(tmp_path: Path) -> None:
    chain, dump = [Forget(goal=2), Collapse()], Dump(tmp_path)
    with pytest.raises(LimitError, match="the best found has 50% of them") as caught:
        graphopt.optimize(model(), passes=chain, data=rare(), max_drop=6, hooks=[dump])
    best = caught.value.best
    assert best and made(best.report) == {"2"}
    assert best.report.losses[0].drop.mean == 0
    assert {p.name for p in tmp_path.glob("*.gir")} == {"000_input.gir", "001_forget_features.gir"}


def test_the_limit_is_held_where_nothing_is_verified() -> None:
    chain = [Forget(goal=3), Remember(most=0)]
    with pytest.raises(LimitError, match="the best found has 33% of them") as caught:
        graphopt.optimize(model(), passes=chain, data=data(), max_drop=1, check=False)
    best = caught.value.best
    assert best and made(best.report) == {"2"} and not best.report.checks
    with pytest.raises(LimitError, match="over the limit of 1 "):
        graphopt.optimize(model(), passes=[Spoil()], data=data(), max_drop=1, check=False)


def test_the_error_goes_to_other_processes_without_the_best() -> None:
    error = LimitError("too much")
    error.best = graphopt.optimize(model(), passes="default")
    error.add_note("the best found is elsewhere")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, LimitError) and str(again) == "too much"
    assert again.__notes__ == ["the best found is elsewhere"] and again.best is None
