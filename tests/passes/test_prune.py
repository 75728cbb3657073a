"""prune: criteria, elimination and repair, goals, what it refuses; on a small residual network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.activations import SampleRuns
from graphopt.analysis.cost import total_macs, weight_bytes
from graphopt.analysis.interpret import interpret
from graphopt.errors import InputError
from graphopt.ir.builtin import Const
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Module
from graphopt.ir.data import Inline
from graphopt.ir.parser import parse
from graphopt.ir.types import Array
from graphopt.ir.verify import verify
from graphopt.passes.prune.eliminate import eliminate, reading
from graphopt.passes.prune.groups import groups
from graphopt.passes.prune.rounds import still
from graphopt.pipeline import Context, PassResult, parse_pipeline

NETWORK = """graph @main(%x: f32[1,6,8,8]) {
  %w0 = const rand 1 : f32[16,6,3,3]
  %b0 = const rand 2 : f32[16]
  %y0 = conv(%x, %w0, %b0) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "stem"
  %r0 = relu(%y0) @ "relu0"
  %w1 = const rand 3 : f32[24,16,1,1]
  %y1 = conv(%r0, %w1) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "expand"
  %w2 = const rand 4 : f32[24,1,3,3]
  %y2 = conv(%y1, %w2) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1],group=24} @ "depthwise"
  %r2 = relu(%y2) @ "relu2"
  %w3 = const rand 5 : f32[16,24,1,1]
  %y3 = conv(%r2, %w3) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "/block2/project"
  %s = add(%r0, %y3) @ "sum"
  %p = reduce_mean(%s) {axes=[2,3],keepdims=false} @ "mean"
  %w4 = const rand 6 : f32[5,16]
  %b4 = const rand 7 : f32[5]
  %o = gemm(%p, %w4, %b4) {trans_b=true} @ "last"
  return(%o) {names=[o]}
}"""


def samples(count: int = 32) -> SampleRuns:
    """Channels that have much in common, so that others can stand for one that goes."""
    mix = np.random.default_rng(0).normal(size=(6, 3))

    def feeds() -> Any:
        for i in range(count):
            z = np.random.default_rng(i).normal(size=(3, 64))
            yield {"x": (mix @ z).reshape(1, 6, 8, 8).astype(np.float32)}

    return SampleRuns(feeds, count, "given")


def run(text: str, ctx: Context | None = None, source: str = NETWORK) -> tuple[Module, PassResult]:
    module = parse(source)
    (p,) = parse_pipeline(text)
    done = p.run(module, ctx or Context(samples=samples()))
    verify(module)
    return module, done


def outputs(module: Module) -> Array:
    return np.concatenate([interpret(module, f)["o"] for f in samples().take()])


def noise(module: Module) -> float:
    want = outputs(parse(NETWORK))
    return float(np.sum((outputs(module) - want) ** 2) / np.sum((want - want.mean(0)) ** 2))


def test_groups_are_those_of_the_layers() -> None:
    found = groups(parse(NETWORK)).groups
    told = [(g.name, len(g.units), len(g.makers), len(g.readers), g.why) for g in found]
    assert told == [
        ("stem", 16, 2, 2, ""), ("expand", 24, 2, 1, ""), ("last", 0, 1, 0, "the model gives it back"),
    ]  # fmt: skip


def test_greedy_elimination_loses_what_least_squares_lose() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(12, 12)) @ random.normal(size=(12, 300))
    gram, w = x @ x.T / 300, random.normal(size=(7, 12))
    at = [np.array([2 * i, 2 * i + 1]) for i in range(6)]
    order = eliminate([reading(w, gram, at, 0.5)], 6, 4)
    assert order.losses[0] == 0
    for n in range(1, 5):
        k = np.setdiff1d(np.arange(12), np.concatenate([at[int(u)] for u in order.units[:n]]))
        best = w @ gram[:, k] @ np.linalg.inv(gram[np.ix_(k, k)])
        lost = w @ gram @ w.T - best @ gram[k] @ w.T
        assert order.losses[n] == pytest.approx(0.5 * float(np.trace(lost)), rel=1e-8)
    alone = [reading(w, gram, at, 0.5).losses(np.ones(6, np.bool_))]
    assert order.units[0] == np.argmin(alone)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_groups_with_a_weight_that_is_not_finite_stay(criterion: str, value: float) -> None:
    """Their norms would tell nothing; a reader's count, too."""
    module = parse(NETWORK)
    last = next(op for op in module.main if op.kind.name == "gemm").operand(1).op
    assert last and isinstance(last.kind, Const)
    weights = last.kind.data.numpy().copy()
    weights[2, 3] = value
    last.kind = Const(Inline(weights))
    (p,) = parse_pipeline(f"prune{{ratio=0.1,criterion={criterion}}}")
    settled = p.run(module, Context()).settled
    assert settled
    assert [c.layer for c in settled.kept] == ["expand"]
    assert {c.layer: c.refused for c in settled.left}["stem"] == "a weight isn't finite"


def test_a_ratio_is_reached_and_not_much_more() -> None:
    before = total_macs(parse(NETWORK).main)
    for text in (
        "prune{ratio=0.3,criterion=l1}",
        "prune{ratio=0.3}",
        "prune{ratio=0.5,criterion=l2}",
    ):
        module, done = run(text)
        ratio = 0.5 if "0.5" in text else 0.3
        assert ratio <= 1 - total_macs(module.main) / before < ratio + 0.08
        assert done.changed and done.settled and not done.settled.short


@pytest.mark.parametrize("ratio", [0.2, 0.4])
@pytest.mark.parametrize("criterion", ["l1", "reconstruct"])
def test_where_size_counts_a_ratio_is_one_of_bytes(ratio: float, criterion: str) -> None:
    before = weight_bytes(parse(NETWORK).main)
    text = f"prune{{ratio={ratio},aim=size,criterion={criterion}}}"
    module, done = run(text, Context(samples=samples(), lanes=16))  # which aren't waited for
    assert ratio <= 1 - weight_bytes(module.main) / before < ratio + 0.08
    assert done.settled and not done.settled.short
    assert {c.unit for c in done.settled.kept} == {"bytes"}


def test_repair_keeps_what_norms_lose() -> None:
    repaired, _ = run("prune{ratio=0.3}")
    plain, _ = run("prune{ratio=0.3,criterion=l1}")
    assert noise(repaired) < 0.2  # of what changes with the input
    assert noise(repaired) < noise(plain) / 10


def test_nothing_asked_nothing_done() -> None:
    module, done = run("prune{ratio=0}")
    assert not done.changed and module.to_text() == parse(NETWORK).to_text()


def test_same_input_same_result() -> None:
    first, second = (run("prune{ratio=0.4}")[0].to_text() for _ in range(2))
    assert first == second


def test_later_passes_learn_which_channels_are_left() -> None:
    ctx = Context(samples=samples())
    module, _ = run("prune{ratio=0.4}", ctx)
    sizes = {op.result.hint: op.result.tensor.static for op in module.main if op.results}
    old = {op.result.hint: op.result.tensor.static for op in parse(NETWORK).main if op.results}
    assert ctx.channels
    for name, places in ctx.channels.items():
        shape, before = sizes[name], old[name]
        assert shape and before and len(places) == shape[1] and max(places) < before[1]


def test_channels_left_fill_vectors() -> None:
    module, done = run("prune{ratio=0.2,round_to=8,criterion=l1}")
    widths = [
        s[1] for op in module.main if op.kind.name == "conv" and (s := op.result.tensor.static)
    ]
    assert all(w % 8 == 0 for w in widths) and done.changed
    lanes = Context(lanes=16)
    module, done = run("prune{ratio=0.2,criterion=l1}", lanes)
    refused = {r.loc.nodes[0]: r.text for r in done.remarks if not r.applied}
    assert refused["stem"] == "16 channels are no more than 16 (round_to)"


def test_what_cannot_go_is_listed_with_its_reason() -> None:
    _, done = run("prune{ratio=0.3,skip=[expand]}")
    told = {r.loc.nodes[0]: r.text for r in done.remarks if not r.applied}
    assert told["last"] == "the model gives it back"
    assert told["expand"] == "skipped, as asked"


@pytest.mark.parametrize(("text", "message"), [
    ("prune{ratio=1}", r"ratio=1 isn't at least 0 and below 1"),
    ("prune{ratio=-0.1}", r"ratio=-0.1 isn't at least 0 and below 1"),
    ("prune", r"needs ratio=... or a limit on the loss \(--max-drop\)"),
    ("prune{ratio=0.3,round_to=0}", r"round_to=0 isn't 1 or more"),
    ("prune{ratio=0.3,rounds=-1}", r"rounds=-1 isn't 0 or more"),
    ("prune{ratio=0.3,skip=[expnd]}", r"'expnd' in it; did you mean 'expand'"),
    ("prune{ratio=0.3,skip=[blok2]}", r"'blok2' in it; did you mean 'block2'"),
])  # fmt: skip
def test_bad_options_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(text)


def test_what_is_left_after_cuts_along_two_axes_is_not_guessed() -> None:
    """Of 4 heads two go, then channels inside them: places 5 and 7 are none of two heads."""
    assert still(None, (0, 2, 3)) == (0, 2, 3)
    assert still((0, 2, 3), (1, 2)) == (2, 3)
    assert still((1, 3), (0, 5, 7)) == ()
    assert still((), (0,)) == ()


def test_reconstruct_needs_samples() -> None:
    with pytest.raises(InputError, match=r"needs samples .* with --data, or ask for criterion=l1"):
        run("prune{ratio=0.3}", Context())
    module, done = run("prune{ratio=0.3,criterion=l1}", Context())
    assert done.changed and total_macs(module.main) < 0.7 * total_macs(parse(NETWORK).main)


def test_a_goal_out_of_reach_is_told() -> None:
    module, done = run("prune{ratio=0.95,criterion=l1,round_to=8}")
    assert done.settled and "of the multiply-adds saved, not 95%" in done.settled.short
    assert clone_module(module).to_text() == module.to_text()


def test_a_trained_model_keeps_its_answers(tmp_path: Path) -> None:
    """As written and read again; the samples that the loss is measured on weren't looked at."""
    models = Path(__file__).parents[2] / "models"
    text, data = "default,prune{ratio=0.3,rounds=1}", str(models / "data" / "fmnist.npz")
    result = graphopt.optimize(str(models / "fmnist_resnet8.onnx"), passes=text, data=data)
    (loss,) = result.report.losses
    assert loss.samples >= 500 and loss.kept.mean > 95
    result.module.save(str(tmp_path / "small.onnx"))
    again = graphopt.load(str(tmp_path / "small.onnx"))
    before = total_macs(graphopt.load(str(models / "fmnist_resnet8.onnx")).main)
    assert 0.67 < total_macs(again.main) / before <= 0.7


TOWERS = """graph @main(%x: f32[1,6,8,8], %z: f32[1,6,8,8]) {
  %w0 = const rand 1 : f32[16,6,3,3]
  %w1 = const rand 2 : f32[12,16,3,3]
  %a0 = conv(%x, %w0) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "a0"
  %b0 = conv(%z, %w0) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "b0"
  %a1 = conv(%a0, %w1) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "a1"
  %b1 = conv(%b0, %w1) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "b1"
  %d = sub(%a1, %b1) @ "difference"
  %w2 = const rand 3 : f32[20,12,3,3]
  %y = conv(%d, %w2) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "third"
  %w3 = const rand 4 : f32[10,20,3,3]
  %o = conv(%y, %w3) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "last"
  return(%o) {names=[o]}
}"""


def test_bytes_of_weights_that_layers_share_are_not_saved_by_one_of_them() -> None:
    """The other layer keeps them: the model would grow."""
    before = weight_bytes(parse(TOWERS).main)
    module, done = run("prune{ratio=0.3,criterion=l1,aim=size}", Context(), TOWERS)
    told = {r.loc.nodes[0]: r.text for r in done.remarks if not r.applied and r.loc.nodes}
    assert "weights" in told["a0"] and "another" in told["a0"]
    changed = {r.loc.nodes[0] for r in done.remarks if r.applied}
    assert changed and changed <= {"third", "last"}
    assert done.settled
    saved = sum(c.saves for c in done.settled.kept)
    assert before - weight_bytes(module.main) == saved > 0


@pytest.mark.parametrize("text", ["lowrank{rank=4,aim=size}", "factorize{terms=1,aim=size}"])
def test_bytes_of_weights_that_layers_share_are_saved_once(text: str) -> None:
    """Both layers read the same new ones."""
    before = weight_bytes(parse(TOWERS).main)
    module, done = run(text, Context(), TOWERS)
    assert done.settled
    assert {("a0", "b0"), ("a1", "b1")} <= {c.loc.nodes for c in done.settled.kept}
    saved = sum(c.saves for c in done.settled.kept)
    assert before - weight_bytes(module.main) == saved > 0
