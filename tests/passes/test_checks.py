"""What is wrong with any pass of a pipeline, or with an argument, is said before the first runs."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import graphopt
from graphopt.errors import GraphoptError, InputError, UnsupportedError
from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.passes.lowrank import LowRank
from graphopt.passes.prune import Prune
from graphopt.passes.quantize.adaround import AdaRound
from graphopt.pipeline import Context, Hook, Pass, PassResult, parse_pipeline, run_pipeline
from tests.changed import samples

TEXT = """graph @main(%x: f32[1,16,8,8]) {
  %w1 = const rand 1 : f32[32,16,3,3]
  %y1 = conv(%x, %w1) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "block/first"
  %r1 = relu(%y1) @ "block/relu"
  %w2 = const rand 2 : f32[32,32,3,3]
  %y2 = conv(%r1, %w2) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "block/second"
  return(%y2) {names=[y]}
}"""
MODEL = Path(__file__).parents[2] / "models" / "fmnist_resnet8.onnx"
FEED = {"input": np.zeros((1, 28, 28), np.float32)}


@dataclass(frozen=True)
class Ran(Pass, name="test-ran"):
    """Notes in the module that it ran."""

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Note it."""
        module.metadata["ran"] = "yes"
        return PassResult(True)


class Watching(Hook):
    """Sees that nothing begins."""

    def start(self, module: Module) -> None:
        """Fail."""
        raise AssertionError("a hook was called")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("lowrank{ratio=1.0}", "ratio=1 isn't at least 0 and below 1"),
        ("lowrank{ratio=0.5,energy=0.0}", "energy=0 isn't above 0"),
        ("lowrank{rank=0}", "rank=0 isn't 1 or more"),
        ("lowrank", "needs ratio=... or a limit on the loss"),
        ("lowrank{ratio=0.5,skip=[frist]}", "no layer's name has 'frist' in it; did you mean 'first'?"),
        ('lowrank{ratio=0.5,skip=["block/frist"]}', "did you mean 'block/first'?"),
        ("factorize{terms=0}", "terms=0"),
        ("factorize{ratio=-0.1}", "ratio=-0.1"),
        ("factorize{ratio=0.5,skip=[first,nobody]}", "'nobody'"),
        ("prune{ratio=2.0,criterion=l1}", "ratio=2"),
        ("prune{ratio=0.5}", "criterion=reconstruct needs samples"),
        ("prune{ratio=0.5,criterion=l1,round_to=0}", "round_to=0"),
        ("prune{ratio=0.5,criterion=l1,rounds=-1}", "rounds=-1"),
        ("prune{ratio=0.5,criterion=l1,skip=[secnod]}", "did you mean 'second'?"),
        ("sparsify{ratio=nan}", "ratio=nan"),
        ("sparsify{pattern=2:4,ratio=0.7}", "more than the half"),
        ("sparsify{ratio=0.5,skip=[third]}", "'third'"),
        ("cluster{bits=9}", "bits=9 isn't from 1 to 8"),
        ("cluster", "cluster needs bits=..."),
        ("cluster{bits=4,skip=[third]}", "'third'"),
        ("reconstruct", "reconstruct needs samples"),
        ("reconstruct{samples=0}", "samples=0"),
        ("reconstruct{ridge=-1.0}", "ridge=-1"),
        ("distill{lr=0.0}", "lr=0"),
        ("distill{augment=[flop]}", "augment=flop is none of"),
        ("equalize{iterations=0}", "iterations=0"),
        ("smooth", "no samples to smooth for"),
        ("calibrate", "no samples to calibrate on"),
        ("calibrate{percent=40.0}", "percent=40"),
        ("quantize", "put `calibrate` before `quantize`"),
        ("quantize{activations=f32,bits=9}", "bits=9"),
        ("quantize{activations=f32,skip=[third]}", "'third'"),
        ("quantize{activations=f32},adaround{samples=0}", "samples=0"),
        ("quantize{activations=f32},bias_correct{samples=0}", "samples=0"),
        ("half{type=f16,activations=true}", "takes neither"),
        ("group", "group needs a target"),
    ],
)  # fmt: skip
def test_a_later_pass_is_checked_before_the_first_runs(bad: str, says: str) -> None:
    module = parse(TEXT)
    text = module.to_text()
    with pytest.raises(GraphoptError, match=re.escape(says)) as raised:
        run_pipeline(parse_pipeline(f"test-ran,{bad}"), module, Context(), [Watching()])
    assert re.match(r"pass [23] \(", str(raised.value))
    assert str(raised.value).count("pass ") == 1
    assert module.to_text() == text and not module.metadata


def test_what_an_earlier_pass_makes_may_be_named_later() -> None:
    module = parse(TEXT)
    ctx = Context(samples=samples(module, 4))
    passes = "lowrank{method=svd,rank=8,skip=[second]},lowrank{method=svd,rank=4,skip=[\"y1/1\"]}"
    first, second = run_pipeline(parse_pipeline(passes), module, ctx)
    assert [r.loc.nodes for r in first.remarks if r.applied] == [("block/first",)]
    assert ["skipped" in r.text for r in second.remarks].count(True) == 1


def test_notes_that_a_module_has_already_are_enough_for_quantize() -> None:
    module = parse(TEXT)
    run_pipeline(parse_pipeline("calibrate"), module, Context(samples=samples(module, 4)))
    records = run_pipeline(parse_pipeline("fold,quantize"), module, Context())
    assert records[1].changed


def test_pytorch_is_missed_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(__import__("sys").modules, "torch", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # pyright: ignore
    module = parse(TEXT)
    ctx = Context(samples=samples(module, 4))
    with pytest.raises(UnsupportedError, match=re.escape("pip install 'graphopt[distill]'")):
        run_pipeline(parse_pipeline("test-ran,distill"), module, ctx)
    assert not module.metadata


def untyped(cls: type[Any], **options: object) -> Pass:
    """A pass whose options no type checker has seen."""
    return cast("Pass", cls(**options))


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (untyped(LowRank, ratio="0.5"), "'ratio' of 'lowrank' wants a number or none, not '0.5'"),
        (untyped(LowRank, rank=2.5), "wants one of choice, energy, vbmf or an integer, not 2.5"),
        (untyped(LowRank, ratio=0.5, skip="first"), "wants a tuple like (a text, ...), not 'first'"),
        (untyped(LowRank, ratio=0.5, skip=["first"]), "wants a tuple like (a text, ...), not ["),
        (untyped(Prune, ratio=0.5, criterion="l3"), "wants one of l1, l2, reconstruct, not 'l3'"),
        (untyped(Prune, ratio=True), "wants a number or none, not True"),
        (untyped(AdaRound, samples=None), "wants an integer, not None"),
    ],
)
def test_options_that_only_python_can_make(made: Pass, says: str) -> None:
    module = parse(TEXT)
    with pytest.raises(InputError, match=re.escape(says)):
        run_pipeline([Ran(), made], module, Context())
    assert not module.metadata


def failing() -> Iterator[object]:
    """No sample is wanted of it."""
    yield {"input": None, 5: None}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"model": None}, "a model is a path, bytes or a ModelProto, not an object of type NoneType"),
        ({"model": parse(TEXT)}, "not an object of type Module"),
        ({"target": 86}, "target is to be a name as x86 or a Target, not 86"),
        ({"passes": 5}, "passes is to be a sequence of passes, not 5"),
        ({"passes": ["fold"]}, "pipeline text or a sequence of passes, not 'fold'"),
        ({"passes": LowRank(rank=8)}, "a sequence of passes, not LowRank("),
        ({"passes": [LowRank]}, "a sequence of passes, not <class"),
        ({"passes": "default,prune{ratio=0.5}"}, "criterion=reconstruct needs samples"),
        ({"passes": "default,lowrank{ratio=0.5},lowrank{ratio=3}"}, "ratio=3 isn't"),
        ({"data": []}, "the data has no samples"),
        ({"data": 5}, "data is a path or an iterable of {name: array}, not 5"),
        ({"data": [None]}, "one for each sample, but it has None"),
        ({"data": {"input": np.zeros((4, 1, 28, 28))}}, "one for each sample, but it has 'input'"),
        ({"data": np.zeros((4, 1, 28, 28))}, "one for each sample, but it has ndarray"),
        ({"data": failing()}, "one for each sample, but it has {'input': None, 5: None}"),
        ({"data": [{"input": None}]}, "'input' is string, but the model takes f32"),
        ({"data": [FEED, {"input": np.zeros((1, 27, 28), np.float32)}]}, "the same names and shapes"),
        ({"threads": "2"}, "threads is to be an integer of 1 or more, not '2'"),
        ({"threads": 0}, "threads is to be an integer of 1 or more, not 0"),
        ({"max_drop": "0.5"}, "max_drop is to be a number of points, 0 or more, not '0.5'"),
        ({"max_drop": float("nan")}, "max_drop is to be a number of points, 0 or more, not nan"),
        ({"input_shapes": {"input": "1x1x28x28"}}, "input_shapes is to be {name: (1, 3, 224, 224)}"),
        ({"input_shapes": {"input": (-1, 1, 28, 28)}}, "sizes being 0 or more"),
        ({"input_shapes": [(1, 1, 28, 28)]}, "input_shapes is to be"),
        ({"hooks": [5]}, "hooks is to be a sequence of Hooks"),
        ({"build": {}}, "build is to be a Build, not {}"),
    ],
)  # fmt: skip
def test_arguments_of_optimize(arguments: dict[str, Any], says: str) -> None:
    optimize = cast("Callable[..., object]", graphopt.optimize)
    with pytest.raises(InputError, match=re.escape(says)):
        optimize(**{"model": MODEL, **arguments})


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: graphopt.parse(cast("str", 5)), "IR text is to be a string, not 5"),
        (lambda: graphopt.parse(cast("str", b"graph")), "IR text is to be a string, not b'graph'"),
        (lambda: graphopt.save(parse(TEXT), cast("str", None)), "save to is to be a path, not None"),
        (lambda: parse(TEXT).save(cast("str", 5)), "save to is to be a path, not 5"),
        (lambda: graphopt.save(cast("Any", None), "x.onnx"), "the module is to be a Module, not None"),
        (lambda: graphopt.save(parse(TEXT), "x.onnx", opset=cast("int", "a")), "opset is to be an int"),
        (lambda: graphopt.profile(cast("str", None)), "the bundle is to be a path, not None"),
    ],
)  # fmt: skip
def test_arguments_of_the_others(call: Callable[[], object], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        call()
