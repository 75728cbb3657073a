"""distill: a changed model learns the original's answers; what it may change, and how it says no."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from graphopt.analysis.interpret import interpret, random_inputs
from graphopt.errors import InputError, UnsupportedError
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.ir.verify import verify
from graphopt.passes.distill import targets
from graphopt.passes.distill.augment import augmented, is_image
from graphopt.passes.distill.network import Network, parameters
from graphopt.pipeline import Context, PassResult, parse_pipeline
from tests.changed import changed, constants, samples

RUNS = 96
QUICK = "distill{epochs=20,batch=16,lr=0.03,augment=[],threads=1}"

NETWORK = """graph @main(%x: f32[1,3,16,16]) {
  %w0 = const rand 1 : f32[8,3,3,3]
  %b0 = const rand 2 : f32[8]
  %y0 = conv(%x, %w0, %b0) {strides=[2,2],pads=[1,1,1,1],dilations=[1,1]} @ "first"
  %r0 = relu(%y0) @ "relu"
  %w1 = const rand 3 : f32[8,8,3,3]
  %y1 = conv(%r0, %w1) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "second"
  %s = add(%y1, %r0) @ "sum"
  %p = reduce_mean(%s) {axes=[2,3],keepdims=false} @ "mean"
  %w2 = const rand 4 : f32[8,5]
  %c2 = const rand 5 : f32[5]
  %z = matmul(%p, %w2) @ "product"
  %o = add(%z, %c2) @ "bias"
  return(%o) {names=[o]}
}"""


def pytorch() -> Any:
    """PyTorch, or a skipped test."""
    return pytest.importorskip("torch", reason="it's the extra graphopt[distill]")


def noisy(before: Module, size: float = 0.3) -> Module:
    """A copy whose weights moved."""
    random, old = np.random.default_rng(0), constants(before)
    return changed(
        before,
        {n: a + size * a.std() * random.standard_normal(a.shape) for n, a in old.items()},
    )


def train(module: Module, before: Module, text: str = QUICK, **more: Any) -> PassResult:
    """Run the pass on a module in place."""
    given = more.pop("samples", None) or samples(before, RUNS)
    (one,) = parse_pipeline(text)
    result = one.run(module, Context(samples=given, before=before, **more))
    verify(module)
    return result


def error(module: Module, before: Module) -> float:
    """Noise over signal of the output, on runs that the pass hasn't seen."""
    noise = signal = 0.0
    for seed in range(1000, 1016):
        feed = random_inputs(before, seed)
        want, got = (interpret(m, feed)["o"] for m in (before, module))
        noise += float(np.square(want - got).sum())
        signal += float(np.square(want).sum())
    return noise / signal


def told(result: PassResult) -> str:
    """The one remark."""
    (remark,) = result.remarks
    return remark.text


def test_it_learns_and_unseen_answers_get_closer() -> None:
    pytorch()
    before = parse(NETWORK)
    module = noisy(before)
    start = error(module, before)
    seen: list[tuple[str, int, int]] = []

    def progress(what: str, done: int, total: int) -> None:
        seen.append((what, done, total))

    result = train(module, before, progress=progress)
    assert result.changed and error(module, before) < 0.1 * start
    assert result.notes[0].startswith("distill trained 20 epochs of 96 runs")
    assert [done for _, done, _ in seen] == list(range(1, 121))  # 20 of ceil(86 / 16) steps
    assert {total for _, _, total in seen} == {120}
    assert all(what.startswith("distill (loss ") for what, _, _ in seen)


def test_same_seed_same_bytes_another_seed_others() -> None:
    pytorch()
    before = parse(NETWORK)
    found: list[bytes] = []
    for seed in (1, 1, 2):
        module = noisy(before)
        text = f"distill{{epochs=1,batch=32,threads=1,augment=[flip,shift,mix],seed={seed}}}"
        train(module, before, text)
        found.append(b"".join(a.tobytes() for a in constants(module).values()))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("lr", [30.0, 1e9])
def test_training_that_only_does_harm_changes_nothing(lr: float) -> None:
    """The best state is the one at the beginning; it stops after `patience` epochs without gain."""
    pytorch()
    before = parse(NETWORK)
    module = noisy(before, 0.01)
    start, steps = constants(module), list[int]()
    text = f"distill{{epochs=50,batch=32,lr={lr},patience=1,augment=[],threads=1}}"

    def progress(what: str, done: int, total: int) -> None:
        steps.append(done)

    result = train(module, before, text, progress=progress)
    assert not result.changed and "stays" in told(result)
    assert all((constants(module)[n] == a).all() for n, a in start.items())
    assert steps[-1] < 50 * 3 / 2
    steps.clear()
    train(module, before, text.replace("patience=1,", "").replace("50", "9"), progress=progress)
    assert steps[-1] == 9 * 3  # without patience it goes on to where the rate is small


def test_an_unchanged_model_stays_as_it_is() -> None:
    pytorch()
    before = parse(NETWORK)
    module = clone_module(before)
    assert not train(module, before, "distill{epochs=1,augment=[],threads=1}").changed
    assert module.to_text() == before.to_text()


def test_zeros_stay_zeros_and_shared_values_stay() -> None:
    pytorch()
    before = parse(NETWORK)
    old, random = constants(before), np.random.default_rng(0)
    sparse = old["w0"] * (random.random(old["w0"].shape) < 0.5)
    shared = np.round(old["w1"] * 3) / np.float32(3) + np.float32(0.05)
    module = changed(before, {"w0": sparse, "w1": shared})
    start = error(module, before)
    assert train(module, before).changed
    now = constants(module)
    assert (now["w0"][sparse == 0] == 0).all() and (now["w0"] != sparse).sum() > 50
    assert (now["w1"] == shared.astype(np.float32)).all()
    assert error(module, before) < start


def test_weights_come_back_exactly() -> None:
    torch = pytorch()
    module = parse(NETWORK)
    numbers, feed = constants(module), random_inputs(module, 3)
    network = Network(torch, module.main, module.main.outputs, train=True)
    network.write(network.state())
    assert all((constants(module)[n] == a).all() for n, a in numbers.items())
    again = Network(torch, module.main, module.main.outputs, train=True)
    state = [w * 1.25 for w in again.state()]
    again.write(state)
    verify(module)
    for name, tensor in zip(("w0", "b0", "w1", "w2", "c2"), state, strict=True):
        assert (constants(module)[name] == tensor.numpy()).all()
    assert np.isfinite(interpret(module, feed)["o"]).all()


def test_pruned_channels_are_compared_with_those_that_are_left() -> None:
    pytorch()
    before = parse(NETWORK)
    kept, old = (0, 2, 3, 5, 6, 7), constants(before)
    text = NETWORK.replace("f32[8,3,3,3]", "f32[6,3,3,3]").replace("2 : f32[8]", "2 : f32[6]")
    text = text.replace("f32[8,8,3,3]", "f32[6,6,3,3]").replace("f32[8,5]", "f32[6,5]")
    at = list(kept)
    cut = {
        "w0": old["w0"][at],
        "b0": old["b0"][at],
        "w1": old["w1"][at][:, at],
        "w2": old["w2"][at],
    }
    module = changed(parse(text), cut)
    channels = {name: kept for name in ("y0", "r0", "y1", "s")}
    goals, way = targets.features(module, before, channels), (1, kept)
    assert {g.mine.hint: g.kept for g in goals} == {"y0": way, "y1": way, "z": None}
    assert [g.mine.hint for g in targets.features(module, before, {})] == ["z"]
    start = error(module, before)
    text = "distill{epochs=20,batch=16,lr=0.02,augment=[],features=0.1,threads=1}"
    assert train(module, before, text, channels=channels).changed
    assert error(module, before) < 0.7 * start


def test_logits_stand_for_what_a_softmax_makes_of_them() -> None:
    text = NETWORK.replace("return(%o)", "%q = softmax(%o) {axis=-1}\n  return(%q)")
    before = parse(text)
    (goal,) = targets.outputs(parse(text), before)
    assert (goal.mine.hint, goal.wanted.hint) == ("o", "o") and goal.classes in (1, -1)


def test_what_it_may_train() -> None:
    """Not: what an op reads as numbers, a mask's infinities, scalars, integers, shared values."""
    module = parse("""graph @main(%x: f32[1,4]) {
  %w = const rand 1 : f32[4,4]
  %m = matmul(%x, %w)
  %mask = const dense [0.0,0.0,0.0,-1e9] : f32[4]
  %a = add(%m, %mask)
  %half = const dense [0.5] : f32[]
  %b = mul(%a, %half)
  %p = const dense [1.0,2.0,3.0,1.0] : f32[4]
  %c = pow(%b, %p)
  %s = const dense [1.0,2.0,3.0,4.0] : f32[4]
  %y = mul(%c, %s)
  return(%y) {names=[y]}
}""")
    assert [op.result.hint for op in parameters(module.main)] == ["w", "s"]


def test_without_pytorch_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    before = parse(NETWORK)
    with pytest.raises(UnsupportedError, match=r"pip install 'graphopt\[distill\]'") as found:
        train(noisy(before), before)
    assert "\n" not in str(found.value)


def test_an_op_that_it_cannot_train_through_is_named() -> None:
    pytorch()
    text = NETWORK.replace(
        '%s = add(%y1, %r0) @ "sum"',
        '%t = cum_sum(%y1) {axis=1} @ "running"\n  %s = add(%t, %r0) @ "sum"',
    )
    before = parse(text)
    with pytest.raises(UnsupportedError, match=r"can't train through cum_sum \(running\)"):
        train(noisy(before), before)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("epochs=-1.0", "epochs=-1.0 isn't 0 or more"), ("batch=0", "batch=0 isn't 1 or more"),
        ("lr=0.0", "lr=0.0 isn't more than 0"), ("patience=-1", "patience=-1 isn't 0 or more"),
        ("temperature=-2.0", "isn't more than 0"), ("augment=[flop]", r"augment=flop is none of .*flip"),
    ],
)  # fmt: skip
def test_bad_options_are_one_sentence(options: str, says: str) -> None:
    before = parse(NETWORK)
    with pytest.raises(InputError, match=says) as found:
        train(clone_module(before), before, f"distill{{{options}}}")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("data", [None, "seeded"])
def test_it_needs_samples(data: str | None) -> None:
    pytorch()
    before = parse(NETWORK)
    (one,) = parse_pipeline(QUICK)
    given = samples(before, 4, data=data) if data else None
    with pytest.raises(InputError, match="needs samples"):
        one.run(clone_module(before), Context(samples=given, before=before))


def test_zero_epochs_change_nothing() -> None:
    pytorch()
    before = parse(NETWORK)
    module = noisy(before)
    text = module.to_text()
    result = train(module, before, "distill{epochs=0.0}")
    assert told(result) == "0 epochs"
    assert result.notes == ("distill changed nothing: 0 epochs",)
    assert module.to_text() == text


def test_augmentation_moves_mirrors_and_mixes_by_its_generator() -> None:
    """Without PyTorch: what comes out is made of the batch's own pixels."""
    x = np.arange(2 * 3 * 16 * 16, dtype=np.float32).reshape(2, 1, 3, 16, 16)
    same = [augmented([x], [True], ("flip", "shift"), np.random.default_rng(5))[0] for _ in "ab"]
    assert (same[0] == same[1]).all() and (same[0] != x).any()
    for i in range(2):
        assert np.isin(same[0][i], x[i]).all()
    mixed = augmented([x], [True], ("mix",), np.random.default_rng(0))[0]
    assert mixed.min() >= x.min() and mixed.max() <= x.max()
    x = np.arange(64 * 3 * 16 * 16, dtype=np.float32).reshape(64, 1, 3, 16, 16)
    cut = augmented([x], [True], ("cut",), np.random.default_rng(0))[0]
    own = (cut == x).mean((1, 2, 3, 4))  # shares of pixels that stay: uniform
    assert np.isin(cut, x).all() and own.min() < 0.2 and own.max() > 0.8
    both = augmented([x], [True], ("mix", "cut"), np.random.default_rng(0))[0]
    whole = np.isin(both, x).reshape(len(x), -1).all(1)
    assert 0 < whole.sum() < len(x)  # those that are cut
    (left,) = augmented([x], [False], ("flip", "shift", "mix"), np.random.default_rng(0))
    assert (left == x).all()
    flips = augmented([x], [True], ("flip",), np.random.default_rng(1))[0]
    assert all((a == b).all() or (a == b[..., ::-1]).all() for a, b in zip(flips, x, strict=True))


def test_what_an_image_is() -> None:
    kinds = {"f32[1,3,32,32]": True, "f32[1,64,32,32]": False, "f32[1,3,8,32]": False,
             "i64[1,3,32,32]": False, "f32[1,128]": False}  # fmt: skip
    for text, image in kinds.items():
        assert is_image(parse(f"graph @g(%x: {text}) {{ return(%x) }}").main.args[0]) is image


def test_runs_are_one_batch_where_that_gives_the_same() -> None:
    torch = pytorch()
    module = parse(NETWORK)
    runs = [random_inputs(module, seed)["x"] for seed in range(5)]
    batch = [torch.from_numpy(np.stack(runs))]
    network = Network(torch, module.main, module.main.outputs, train=False)
    (apart,) = network(batch)
    assert network.merge(batch)
    (together,) = network(batch)
    assert together.shape == apart.shape
    assert torch.allclose(together, apart, rtol=1e-4, atol=1e-5 * float(apart.abs().max()))
    assert not network.merge([batch[0][:1]])  # one run alone tells nothing


@pytest.mark.parametrize("op", [
    "%o = reshape(%x) {shape=[1,12]} : f32[1,12]", "%o = reduce_mean(%x) {axes=[0],keepdims=true}",
    "%o = softmax(%x) {axis=0}", "%o = reduce_sum(%x) {axes=[0,1],keepdims=true}",
])  # fmt: skip
def test_runs_that_would_mix_are_kept_apart(op: str) -> None:
    torch = pytorch()
    module = parse("graph @main(%x: f32[1,3,4]) {\n  " + op + "\n  return(%o) {names=[o]}\n}")
    network = Network(torch, module.main, module.main.outputs, train=False)
    batch = [torch.from_numpy(np.stack([random_inputs(module, s)["x"] for s in range(3)]))]
    (before,) = network(batch)
    assert not network.merge(batch)
    assert torch.equal(network(batch)[0], before)


def test_bfloat16_learns_too() -> None:
    pytorch()
    before = parse(NETWORK)
    module = noisy(before)
    start = error(module, before)
    assert train(module, before, QUICK.replace("threads", "bf16=true,threads")).changed
    assert error(module, before) < 0.5 * start
