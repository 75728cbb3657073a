"""The passes `lowrank` and `factorize`: ranks, choices, goals, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphopt import parse
from graphopt.activations import SampleRuns
from graphopt.analysis.cost import total_macs
from graphopt.analysis.interpret import interpret, random_inputs
from graphopt.errors import InputError
from graphopt.ir.core import Module
from graphopt.ir.data import Rand
from graphopt.ir.types import DType
from graphopt.ir.verify import verify
from graphopt.loss import Loss, Share
from graphopt.passes.lowrank.vbmf import vbmf_rank
from graphopt.pipeline import Context, PassResult, parse_pipeline
from tests.changed import changed

TEXT = """graph @main(%x: f32[1,8,12,12]) {
  %w0 = const rand 1 : f32[32,8,3,3]
  %b0 = const rand 2 : f32[32]
  %y0 = conv(%x, %w0, %b0) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "body/first"
  %r0 = relu(%y0) @ "relu"
  %w1 = const rand 3 : f32[48,32,3,3]
  %y1 = conv(%r0, %w1) {strides=[2,2],pads=[1,1,1,1],dilations=[1,1]} @ "body/second"
  %p = reduce_mean(%y1) {axes=[2,3],keepdims=false} @ "mean"
  %w2 = const rand 4 : f32[48,40]
  %z = matmul(%p, %w2) @ "head"
  return(%z) {names=[z]}
}"""


def run(text: str, passes: str, **options: object) -> tuple[Module, PassResult]:
    module = parse(text)
    original = parse(text)
    seeded = SampleRuns(lambda: [random_inputs(original, s) for s in range(6)], 6, "given")
    ctx = Context(samples=seeded, **options)  # pyright: ignore[reportArgumentType]
    (one,) = parse_pipeline(passes)
    result = one.run(module, ctx)
    verify(module)
    return module, result


def low_rank(rows: int, columns: int, rank: int, noise: float) -> np.ndarray:
    rng = np.random.default_rng(rank)
    signal = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns)) / math.sqrt(rank)
    return signal + noise * rng.normal(size=(rows, columns))


@pytest.mark.parametrize(("rows", "columns", "rank"), [(60, 90, 5), (100, 40, 12), (80, 80, 1)])
def test_vbmf_finds_the_rank_under_noise(rows: int, columns: int, rank: int) -> None:
    w = low_rank(rows, columns, rank, 0.1)
    powers = np.linalg.svd(w, compute_uv=False) ** 2
    assert vbmf_rank(powers, rows, columns) == rank
    noise = np.linalg.svd(low_rank(rows, columns, 1, 0) * 0 + np.random.default_rng(0).normal(
        size=(rows, columns)), compute_uv=False) ** 2  # fmt: skip
    assert vbmf_rank(noise, rows, columns) == 0


def product(w: np.ndarray) -> str:
    numbers = str(w.astype(np.float32).tolist()).replace(" ", "")
    return (f"graph @main(%x: f32[4,{w.shape[0]}]) {{\n  %w = const dense {numbers} : "
            f"f32[{w.shape[0]},{w.shape[1]}]\n"
            '  %y = matmul(%x, %w) @ "layer"\n  return(%y) {names=[y]}\n}')  # fmt: skip


@pytest.mark.parametrize("how", ["rank=energy,energy=0.98", "rank=vbmf"])
def test_ranks_of_matrices_of_known_rank(how: str) -> None:
    """Six equal directions and little noise: 98 % of the power needs all of them, no more."""
    rng = np.random.default_rng(1)
    u = np.linalg.qr(rng.normal(size=(40, 6)))[0]
    v = np.linalg.qr(rng.normal(size=(50, 6)))[0]
    w = u @ v.T + 0.005 * rng.normal(size=(40, 50))
    module, result = run(product(w), f"lowrank{{{how},whiten=false}}")
    assert [str(r) for r in result.remarks] == ["applied: as two layers: rank 6 at layer"]
    assert [op.kind.name for op in module.main].count("matmul") == 2


PASSES = ["lowrank", "factorize"]


@pytest.mark.parametrize("name", PASSES)
def test_ratio_0_changes_nothing(name: str) -> None:
    module, result = run(TEXT, f"{name}{{ratio=0}}")
    assert not result.changed
    assert module.to_text() == parse(TEXT).to_text()


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("ratio", [0.2, 0.5])
def test_a_ratio_is_a_goal_in_multiply_adds(name: str, ratio: float) -> None:
    module, result = run(TEXT, f"{name}{{ratio={ratio}}}")
    before = total_macs(parse(TEXT).main)
    saved = 1 - total_macs(module.main) / before
    assert result.settled
    assert not result.settled.short
    assert ratio <= saved < ratio + 0.15
    assert sum(c.saves for c in result.settled.kept) == pytest.approx(saved * before)


@pytest.mark.parametrize("name", PASSES)
def test_twice_the_same_bytes(name: str) -> None:
    once, again = (run(TEXT, f"{name}{{ratio=0.5}}")[0].to_text() for _ in range(2))
    assert once == again


def test_the_weights_are_those_of_the_choice_made() -> None:
    """Both orders of a spatial decomposition have a rank; only one of them is exact at rank 1."""
    rng = np.random.default_rng(0)
    w = np.einsum("rci,rmj->mcij", rng.normal(size=(1, 4, 3)), rng.normal(size=(1, 6, 3)))
    numbers = str(w.astype(np.float32).tolist()).replace(" ", "")
    text = (f"graph @main(%x: f32[1,4,6,6]) {{\n  %w = const dense {numbers} : f32[6,4,3,3]\n"
            "  %y = conv(%x, %w) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]}\n"
            "  return(%y) {names=[y]}\n}")  # fmt: skip
    module, result = run(text, "lowrank{method=spatial,ratio=0.8}")
    assert result.settled
    (kept,) = result.settled.kept
    assert kept.rewrite == "as a spatial SVD: rank 1, columns first"
    inputs = random_inputs(module)
    want, got = interpret(parse(text), inputs)["y"], interpret(module, inputs)["y"]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_what_is_skipped_stays() -> None:
    module, result = run(TEXT, "factorize{form=depthwise,terms=1,skip=[second]}")
    kept = [str(r) for r in result.remarks]
    assert kept == ["applied: as depthwise, then 1x1: 1 term at body/first",
                    "missed: factorize at body/second: skipped, as asked"]  # fmt: skip
    assert [op.kind.name for op in module.main].count("conv") == 3


class Dear:
    """A judge for whom any change of the module costs 5 points."""

    def losses(self, module: Module) -> tuple[Loss, ...]:
        drop = 5.0 * (module.to_text() != parse(TEXT).to_text())
        return (Loss("z", "given", 9, "classes", 30.0, Share(0, 0, 0), Share(drop, drop, drop)),)


@pytest.mark.parametrize("name", PASSES)
def test_a_limit_bounds_the_whole(name: str) -> None:
    module, result = run(TEXT, name, judge=Dear(), max_drop=1.0)
    assert module.to_text() == parse(TEXT).to_text()
    assert result.settled
    assert all("taken back: the drop would be over 1 point" in c.refused or "not" in c.refused
               or "gains nothing" in c.refused for c in result.settled.left)  # fmt: skip


def test_without_samples_a_note_says_what_errors_are() -> None:
    module = parse(TEXT)
    (one,) = parse_pipeline("factorize{ratio=0.5}")
    result = one.run(module, Context())
    verify(module)
    assert result.changed
    assert result.notes[-1] == "factorize: no samples, so errors are those of weights"


@pytest.mark.parametrize(
    ("passes", "said"),
    [
        ("lowrank{ratio=1.5}", r"ratio=1.5 isn't at least 0 and below 1"),
        ("factorize{ratio=-0.1}", r"ratio=-0.1 isn't at least 0 and below 1"),
        ("lowrank", r"lowrank needs ratio=... or a limit on the loss \(--max-drop\)"),
        ("factorize", r"factorize needs ratio=... or a limit on the loss \(--max-drop\)"),
        ("lowrank{rank=0}", r"rank=0 isn't 1 or more"),
        ("lowrank{rank=energy,energy=1.5}", r"energy=1.5 isn't above 0 and at most 1"),
        ("factorize{terms=0}", r"terms=0 isn't 1 or more"),
        ("lowrank{ratio=0.3,skip=[secnd]}", r"no layer's name has 'secnd' in it; "),
        ("factorize{ratio=0.3,skip=[haed]}", r"has 'haed' in it; did you mean 'head'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(passes: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        run(TEXT, passes)
    assert "\n" not in str(error.value)


def test_a_layer_split_twice_makes_values_of_names_that_no_other_has() -> None:
    """Later passes find values by name: of two of one name they would take the wrong one."""
    module, _ = run(TEXT, "factorize{terms=2,aim=macs}")
    for passes in ("lowrank{rank=3,aim=macs}", "lowrank{rank=2,aim=macs}"):
        (one,) = parse_pipeline(passes)
        one.run(module, Context())
    names = [r.hint for op in module.main if op.kind.name != "const" for r in op.results]
    assert len(set(names)) == len(names)
    assert {"y0/1", "y0/2", "y0/3", "y0/4"} <= set(names)


@pytest.mark.parametrize("passes", ["lowrank{ratio=0.3,aim=macs}", "factorize{ratio=0.3,aim=macs}"])
def test_a_layer_with_a_weight_that_is_not_finite_stays(passes: str) -> None:
    numbers = Rand(DType.f32, (48, 32, 3, 3), 3).numpy()
    numbers[1, 1, 1, 1] = np.nan
    module = changed(parse(TEXT), {"w1": numbers})
    (one,) = parse_pipeline(passes)
    result = one.run(module, Context())
    told = {r.loc.nodes: r.text for r in result.remarks if not r.applied}
    assert told["body/second",] == "a weight isn't finite"
    assert any(r.applied and r.loc.nodes == ("body/first",) for r in result.remarks)
