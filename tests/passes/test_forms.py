"""Forms of layers (`lowrank`, `factorize`): exact at full size, best in the whitened sense."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from graphopt import parse
from graphopt.activations import SampleRuns
from graphopt.analysis.interpret import interpret, random_inputs
from graphopt.ir.core import Module
from graphopt.ir.data import Inline
from graphopt.ir.verify import verify
from graphopt.passes.factorize.forms import DepthwiseFirst, PointwiseFirst
from graphopt.passes.factorize.shuffled import Shuffled
from graphopt.passes.layers.forms import Form
from graphopt.passes.layers.gram import grams
from graphopt.passes.layers.measured import Measured
from graphopt.passes.layers.replace import Weights, replace_layers
from graphopt.passes.layers.sites import Site, sites
from graphopt.passes.lowrank.forms import Spatial, Svd, Tucker

Make = Callable[[Site], Form]


def conv(x: str, w: str, attrs: str, bias: int = 0) -> str:
    """A graph of one convolution."""
    b, name = (f"  %b = const rand 3 : f32[{bias}]\n", ", %b") if bias else ("", "")
    return (f"graph @main(%x: f32{x}) {{\n  %w = const rand 1 : f32{w}\n{b}"
            f'  %y = conv(%x, %w{name}) {{{attrs}}} @ "layer"\n  return(%y) {{names=[y]}}\n}}')  # fmt: skip


def product(kind: str, x: str, w: str, attrs: str = "", bias: str = "") -> str:
    """A graph of one product."""
    b, name = (f"  %b = const rand 3 : f32{bias}\n", ", %b") if bias else ("", "")
    return (f"graph @main(%x: f32{x}) {{\n  %w = const rand 1 : f32{w}\n{b}"
            f'  %y = {kind}(%x, %w{name}) {attrs} @ "layer"\n  return(%y) {{names=[y]}}\n}}')  # fmt: skip


PLAIN = conv("[2,4,7,8]", "[6,4,3,3]", "strides=[1,1],pads=[1,1,1,1],dilations=[1,1]", 6)
WIDE = conv("[1,6,9,8]", "[4,6,3,5]", "strides=[2,1],pads=[0,2,1,1],dilations=[1,1]")
SPREAD = conv("[1,4,9,9]", "[4,4,3,3]", "strides=[1,1],pads=[2,2,2,2],dilations=[2,2]", 4)
GROUPED = conv("[1,8,6,6]", "[6,4,3,3]", "strides=[1,2],pads=[1,1,1,1],dilations=[1,1],group=2", 6)
LINE = conv("[2,4,11]", "[6,4,5]", "strides=[2],pads=[2,1],dilations=[1]", 6)
SOLID = conv("[1,3,4,5,4]", "[4,3,2,3,2]", "strides=[1,1,2],pads=[1,0,1,0,1,0],dilations=[1,1,1]")
POINT = conv("[1,8,5,5]", "[6,8,1,1]", "strides=[1,1],pads=[0,0,0,0],dilations=[1,1]", 6)
GEMM = product("gemm", "[3,8]", "[5,8]", "{alpha=0.5,beta=2.0,trans_b=true}", "[5]")
GEMM_T = product("gemm", "[3,8]", "[8,5]", "{alpha=1.5,beta=1.0}")
MATMUL = product("matmul", "[2,3,8]", "[8,10]")

SVD = [PLAIN, WIDE, SPREAD, GROUPED, LINE, SOLID, POINT, GEMM, GEMM_T, MATMUL]
WINDOWS = [PLAIN, WIDE, SPREAD, GROUPED]
EXACT: list[tuple[Make, str]] = [
    *((Svd, text) for text in SVD),
    *((lambda s, a=a: Spatial(s, a), text) for text in WINDOWS for a in (0, 1)),
    *((Tucker, text) for text in (*WINDOWS, LINE, SOLID)),
    *((DepthwiseFirst, text) for text in (*WINDOWS, LINE, SOLID)),
    *((PointwiseFirst, text) for text in (*WINDOWS, LINE, SOLID)),
    *((lambda s, g=g: Shuffled(s, *g), text) for text in (PLAIN, WIDE, SPREAD, LINE)
      for g in ((2, 2), (1, 2), (2, 1))),
]  # fmt: skip


def correlated(text: str, count: int = 8) -> SampleRuns:
    """Runs whose inputs have a mean and neighbours that go together."""
    module = parse(text)
    shape = module.main.args[0].tensor.static or ()

    def one(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        axis = 1 if len(shape) > 2 and "conv" in text else -1
        n = shape[axis]
        mix = np.random.default_rng(99).normal(size=(n, n)) * 0.5 ** np.arange(n)[:, None]
        x = np.moveaxis(rng.normal(size=shape), axis, -1) @ mix + 0.3
        return np.moveaxis(x, -1, axis).astype(np.float32)

    return SampleRuns(lambda: [{"x": one(i)} for i in range(count)], count, "given")


def fitted(
    text: str, make: Make, size: Sequence[int] | None, whiten: bool
) -> tuple[Module, float, SampleRuns]:
    """A module with its layer in another form; the error that was predicted; the samples."""
    module, samples = parse(text), correlated(text)
    (site,) = sites(module.main)
    form = make(site)
    (inputs,) = grams(module, [site.op], samples)
    measured = Measured(site, inputs)
    fit = form.fit(measured.numbers(whiten), tuple(size or form.full()))
    error, shifts = measured.error(fit.made)
    assert [a.shape for a in fit.weights] == list(form.shapes(tuple(size or form.full())))
    data = tuple(Inline(a.astype(np.float32)) for a in fit.weights)
    replace_layers([site.op], form, Weights(data, shifts))
    verify(module)
    return module, error, samples


def true_error(text: str, module: Module, samples: SampleRuns) -> float:
    """Noise over signal of the result."""
    noise = signal = 0.0
    for feed in samples.take():
        want = next(iter(interpret(parse(text), feed).values())).astype(np.float64)
        got = next(iter(interpret(module, feed).values()))
        noise, signal = noise + float(np.sum((got - want) ** 2)), signal + float(np.sum(want**2))
    return noise / signal


@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize(("make", "text"), EXACT)
def test_every_form_is_exact_at_full_size(make: Make, text: str, whiten: bool) -> None:
    """To 2e-5 of the largest result; the noise that is told, to 1e-9 of the signal."""
    module, error, _ = fitted(text, make, None, whiten)
    inputs = random_inputs(module)
    want = next(iter(interpret(parse(text), inputs).values()))
    got = next(iter(interpret(module, inputs).values()))
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.abs(want).max())
    assert error < 1e-9


SMALL: list[tuple[Make, str, tuple[int, ...]]] = [
    (Svd, PLAIN, (2,)), (Svd, GROUPED, (1,)), (Svd, GEMM, (2,)), (Svd, MATMUL, (3,)),
    (Svd, POINT, (2,)), (lambda s: Spatial(s, 0), WIDE, (3,)), (lambda s: Spatial(s, 1), PLAIN, (3,)),
    (Tucker, PLAIN, (2, 3)), (Tucker, GROUPED, (2, 2)), (DepthwiseFirst, PLAIN, (1,)),
    (DepthwiseFirst, GROUPED, (2,)), (DepthwiseFirst, SOLID, (2,)), (PointwiseFirst, PLAIN, (1,)),
    (PointwiseFirst, WIDE, (2,)), (PointwiseFirst, GROUPED, (2,)),
    (lambda s: Shuffled(s, 2, 2), PLAIN, (1,)), (lambda s: Shuffled(s, 2, 2), WIDE, (1,)),
]  # fmt: skip


@pytest.mark.parametrize(("make", "text", "size"), SMALL)
def test_the_error_told_is_the_true_one(make: Make, text: str, size: tuple[int, ...]) -> None:
    """On the same samples, all of whose windows were seen; the bias takes up the mean."""
    module, error, samples = fitted(text, make, size, True)
    assert error > 1e-4
    assert true_error(text, module, samples) == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize(("make", "text", "size"), SMALL)
def test_whitening_lowers_the_error(make: Make, text: str, size: tuple[int, ...]) -> None:
    _, plain, _ = fitted(text, make, size, False)
    _, whitened, _ = fitted(text, make, size, True)
    assert whitened < 0.98 * plain


def test_names_and_places() -> None:
    module, _, _ = fitted(PLAIN, DepthwiseFirst, (2,), True)
    made = [op for op in module.main if op.kind.name not in ("const", "return")]
    assert [op.kind.name for op in made] == ["conv", "conv", "concat", "conv"]
    assert [op.result.hint for op in made] == ["y/1", "y/2", "y/3", "y"]
    assert {op.loc.nodes for op in made} == {("layer",)}
