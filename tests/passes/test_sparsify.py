"""sparsify: patterns, goals, limits, and errors against those of plain magnitudes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from graphopt import parse
from graphopt.activations import SampleRuns
from graphopt.analysis.interpret import interpret
from graphopt.choices import Settled
from graphopt.errors import InputError
from graphopt.ir.core import Module
from graphopt.ir.types import Array
from graphopt.loss import Loss, Share
from graphopt.passes.layers.least import power
from graphopt.passes.layers.zeros import FOURS, Keep, refit, smallest, sparse
from graphopt.pipeline import Context, Pass, parse_pipeline, run_pipeline
from graphopt.rewrite import const
from graphopt.scanner import Scanner
from graphopt.spec import parse_spec

TEXT = """graph @main(%x: f32[2,8,6,6]) {
  %w = const rand 1 : f32[16,8,3,3]
  %c = conv(%x, %w) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1],group=1} @ "first"
  %r = relu(%c) @ "relu"
  %v = const rand 2 : f32[16,4,3,3]
  %d = conv(%r, %v) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1],group=4} @ "grouped"
  %m = reduce_mean(%d) {axes=[2,3],keepdims=false} @ "mean"
  %u = const rand 3 : f32[16,40]
  %y = matmul(%m, %u) @ "last"
  return(%y) {names=[y]}
}"""


def samples(count: int = 40) -> SampleRuns:
    """Inputs whose channels go together."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(8, 8)) * 0.7 ** np.arange(8)
    feeds = [{"x": np.einsum("ij,njhw->nihw", mix, rng.normal(size=(2, 8, 6, 6))).astype(np.float32)}
             for _ in range(count)]  # fmt: skip
    return SampleRuns(lambda: feeds, count, "given")


def weights(module: Module) -> list[Array]:
    found = [const(op.operand(1)) for op in module.main if op.kind.name in ("conv", "matmul")]
    return [d.numpy() for d in found if d]


def run(text: str, ctx: Context | None = None, module: Module | None = None) -> tuple[Module, Settled]:
    module = module or parse(TEXT)
    (record,) = run_pipeline(parse_pipeline(text), module, ctx or Context(samples=samples()))
    assert record.settled
    return module, record.settled


def noise(module: Module) -> float:
    """Noise over signal of the output, on other inputs."""
    feeds = list(samples(50).take())[40:]
    got, want = ([interpret(m, f)["y"] for f in feeds] for m in (module, parse(TEXT)))
    return float(np.sum((np.array(got) - want) ** 2) / np.sum(np.square(want)))


@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize("ratio", [0.4, 0.7])
def test_as_many_weights_are_zero_as_asked_for(data: bool, ratio: float) -> None:
    module, settled = run(f"sparsify{{ratio={ratio}}}", Context(samples=samples() if data else None))
    total = sum(w.size for w in weights(module))
    zeros = sum(int(np.count_nonzero(w == 0)) for w in weights(module))
    assert round(ratio, 2) - 1e-3 <= zeros / total < ratio + 0.2  # at most one layer's step further
    assert all(not np.signbit(w[w == 0]).any() for w in weights(module))
    assert all(c.unit == "bytes" and c.gain > 0 for c in settled.kept)
    assert not settled.short


def test_two_of_four_along_the_input_channels() -> None:
    module, settled = run("sparsify{pattern=2:4}")
    assert [c.rewrite for c in settled.kept] == ["sparsified (2 of 4)"] * 3
    for w in weights(module):
        rows = w.T if w.ndim == 2 else w
        fours = np.moveaxis(rows, 1, -1).reshape(-1, 4)
        assert (np.count_nonzero(fours, axis=1) == 2).all()
    odd = parse(TEXT.replace("f32[16,4,3,3]", "f32[16,1,3,3]").replace("group=4", "group=16"))
    _, settled = run("sparsify{pattern=2:4}", module=odd)
    told = {c.loc.nodes[0]: c.refused for c in settled.left}
    assert told == {"grouped": "1 input channels, not a multiple of 4"}


def test_samples_make_for_smaller_errors() -> None:
    for text, most in (("sparsify{ratio=0.5}", 0.6), ("sparsify{pattern=2:4}", 0.6)):
        plain, _ = run(text, Context())
        looked, _ = run(text)
        assert noise(looked) < most * noise(plain)


@pytest.mark.parametrize("keeps", [[smallest(0.3), smallest(0.5)], FOURS])
def test_what_stays_is_fitted_for_the_least_error(keeps: Sequence[Keep]) -> None:
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(6, 24)), rng.normal(size=(24, 300))
    x[1:] += 0.8 * x[:-1]
    c = x @ x.T / 300
    *_, found = sparse(w, c, keeps)
    assert np.count_nonzero(found) == w.size // 2
    best = np.zeros_like(w)
    for row, at, b in zip(w, found != 0, best, strict=True):  # the normal equations of each row
        b[at] = np.linalg.solve(c[np.ix_(at, at)], (row @ c)[at])
    assert power(w - found, c) == pytest.approx(power(w - best, c), rel=1e-9)
    *_, magnitudes = sparse(w, None, keeps)
    assert power(w - found, c) < 0.5 * power(w - magnitudes, c)
    assert power(w - found, c) < 0.9 * power(w - refit(w, c, magnitudes, 60), c)


def test_without_samples_the_smallest_go() -> None:
    module, settled = run("sparsify{ratio=0.5,skip=[grouped,last]}", Context())
    (w,), (old,) = weights(module)[:1], weights(parse(TEXT))[:1]
    (choice,) = settled.kept
    assert choice.rewrite == "sparsified: 95% zeros"  # the only layer that may change
    kept = w != 0
    np.testing.assert_array_equal(w[kept], old[kept])
    assert np.abs(old[~kept]).max() <= np.abs(old[kept]).min()
    assert settled.short.startswith("only ")


def test_nothing_is_asked_for() -> None:
    module = parse(TEXT)
    (record,) = run_pipeline(parse_pipeline("sparsify{ratio=0.0}"), module, Context())
    assert not record.changed
    assert module.to_text() == parse(TEXT).to_text()


def test_zeros_stay_and_a_second_run_changes_nothing() -> None:
    module, _ = run("sparsify{ratio=0.6}")
    once = [w == 0 for w in weights(module)]
    text = module.to_text()
    _, settled = run("sparsify{ratio=0.5}", module=module)
    assert not settled.kept
    assert module.to_text() == text
    run("sparsify{ratio=0.8}", module=module)
    for before, w in zip(once, weights(module), strict=True):
        assert (w[before] == 0).all()


class ByZeros:
    """A judge to whom a share of zeros of a half costs a point."""

    def losses(self, module: Module) -> tuple[Loss, ...]:
        every = np.concatenate([w.reshape(-1) for w in weights(module)])
        drop, zero = 2 - 2 * np.count_nonzero(every) / every.size, Share(0, 0, 0)
        return (Loss("y", "given", 9, "classes", 30.0, zero, Share(drop, drop, drop)),)


def test_the_limit_on_the_loss_holds() -> None:
    ctx = Context(samples=samples(), judge=ByZeros(), max_drop=1.0)
    module, settled = run("sparsify", ctx)
    every = np.concatenate([w.reshape(-1) for w in weights(module)])
    assert 0.3 < np.mean(every == 0) <= 0.5
    assert settled.loss
    assert settled.loss.drop.mean <= 1.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sparsify", r"sparsify needs ratio=\.\.\. or a limit on the loss \(--max-drop\)"),
        ("sparsify{ratio=1.0}", "ratio=1 isn't at least 0 and below 1"),
        ("sparsify{ratio=-0.1}", "ratio=-0.1 isn't at least 0"),
        ("sparsify{pattern=2:4,ratio=0.7}", "more than the half that 2:4 can set to zero"),
        ("sparsify{ratio=0.5,skip=[frist]}", "no layer's name has 'frist' in it.*first"),
        ("sparsify{pattern=3:4}", "'pattern' of 'sparsify' wants one of unstructured, 2:4"),
    ],
)
def test_bad_options_are_told_in_a_sentence(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        run(text, Context())


def test_the_pattern_is_text() -> None:
    (one,) = parse_pipeline("sparsify{pattern=2:4}")
    assert str(one) == "sparsify{pattern=2:4}"
    assert parse_spec(Pass, Scanner(str(one)), what="pass") == one
    assert parse_pipeline('sparsify{pattern="2:4"}') == (one,)


def test_a_weight_of_two_layers_stays() -> None:
    text = TEXT.replace("%v = const rand 2 : f32[16,4,3,3]\n", "").replace(
        "conv(%r, %v) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1],group=4}",
        "conv(%r, %w) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1],group=2}",
    )
    _, settled = run("sparsify{ratio=0.1}", Context(), parse(text))
    refused = {c.loc.nodes[0]: c.refused for c in settled.left if c.layer != "y"}
    assert refused == dict.fromkeys(("first", "grouped"), "its weights are another's, too")
    assert [c.layer for c in settled.kept] == ["y"]
