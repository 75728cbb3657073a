"""What watches a pipeline: dumps that reparse, clocks, limits, reproducers, numbers."""

from __future__ import annotations

import importlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from graphopt import passes
from graphopt.analysis import cost
from graphopt.analysis.interpret import interpret
from graphopt.errors import InputError, MismatchError, VerifyError
from graphopt.hooks import (
    BisectLimit,
    Dump,
    Feed,
    NumericCheck,
    PrintAfter,
    Records,
    Reproducer,
    Shifted,
    Timing,
    VerifyEach,
    first_difference,
    observe,
)
from graphopt.ir.core import Module, Op
from graphopt.ir.parser import parse
from graphopt.ir.store import load_gir
from graphopt.ir.types import TensorType
from graphopt.ops.elementwise import Relu
from graphopt.pipeline import Context, Effect, Pass, PassResult, parse_pipeline, run_pipeline
from graphopt.rewrite import Remark, Rewriter, Rule, rewrite
from graphopt.verify import Tolerance

TEXT = """module "m" opset "" 17
graph @main(%x: f32[4,40]) {
  %w = const rand 1 : f32[40,40]
  %a = matmul(%x, %w) : f32[4,40] @ "first"
  %b = relu(%a) : f32[4,40] @ "second"
  %c = add(%b, %x) : f32[4,40] @ "third"
  return(%c) {names=[c]}
}
"""
X = {"x": np.random.default_rng(0).normal(size=(4, 40)).astype(np.float32)}
assert passes.DEFAULT  # importing them registers them
LIMIT = Tolerance(1e-5, 1, 1e-7)


@dataclass(frozen=True)
class Break(Pass, name="test-hooks-break"):
    """Wrong on purpose: `how` is skip (relu(x) = x), crash, or malform."""

    how: str = "skip"

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Do the damage."""
        if self.how == "crash":
            raise KeyError("oh no")
        (relu,) = (op for op in module.main if op.kind.name == "relu")
        if self.how == "malform":
            relu.result.type = TensorType(relu.result.tensor.dtype, (1, 2))
            return PassResult(True)
        relu.result.replace_all_uses_with(relu.operand(0))
        module.main.erase(relu)
        return PassResult(True, (Remark("skip", relu.loc, True),))


@dataclass(frozen=True)
class Twice(Pass, name="test-hooks-twice"):
    """relu(x) = relu(relu(x)), for the first `count` visits."""

    count: int = 3

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Rewrite."""
        left = [self.count]

        def fn(rw: Rewriter, op: Op, kind: Relu) -> Any:
            """relu(x) = relu(relu(x))."""
            if not left[0]:
                return None
            left[0] -= 1
            return rw.make(Relu(), rw.make(Relu(), op.operand(0)))

        outcome = rewrite(module.main, [Rule("twice", Relu, fn)], ctx.permit)
        return PassResult(outcome.changed, tuple(outcome.remarks))


def run(module: Module, feed: Feed) -> dict[str, Any]:
    return interpret(module, feed)


def go(text: str, *hooks: Any, module: Module | None = None, **context: Any) -> Module:
    module = module or parse(TEXT)
    run_pipeline(parse_pipeline(text), module, Context(**context), hooks)
    return module


def test_dumps_reparse_to_the_same_module_constants_included(tmp_path: Path) -> None:
    module = go("test-hooks-twice,cse", Dump(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "000_input.gir", "001_test-hooks-twice.gir", "weights.bin",
    ]  # fmt: skip
    again = load_gir(tmp_path / "001_test-hooks-twice.gir")
    assert numbers(again) == numbers(module)
    first = load_gir(tmp_path / "000_input.gir")
    assert numbers(first) == numbers(parse(TEXT))


def numbers(module: Module) -> tuple[str, list[bytes]]:
    constants = [k.data.numpy().tobytes() for k in cost.constants(module.main)]
    return module.to_text(elide=True).replace("rand 1", "elided"), constants


def test_dumps_of_an_earlier_run_go_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "007_old.gir").write_text("old")
    (tmp_path / "mine.txt").write_text("mine")
    go("cse", Dump(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "000_input.gir",
        "mine.txt",
        "weights.bin",
    ]


def test_a_dump_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/d: can't make the folder"):
        Dump(tmp_path / "file" / "d")


def test_timing_has_every_pass_in_order() -> None:
    timing = Timing()
    go("cse,dce,cse", timing)
    assert [name for name, _ in timing.seconds] == ["cse", "dce", "cse"]
    assert all(s >= 0 for _, s in timing.seconds)


@pytest.mark.parametrize(("name", "count"), [("all", 1), ("cse", 2), ("test-hooks-twice", 1)])
def test_print_after(name: str, count: int) -> None:
    shown: list[str] = []
    go("cse,test-hooks-twice,cse", PrintAfter(name, shown.append))
    assert len(shown) == count
    assert shown[0].startswith("// after ")
    parse(shown[0].replace("elided", "rand 1"))


def test_a_second_pipeline_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    records, dump = Records(), Dump(tmp_path)
    module = go("test-hooks-twice,cse", records, dump)
    run_pipeline(parse_pipeline("test-hooks-twice{count=1}"), module, Context(),
                 [Shifted(records, 2), Shifted(dump, 2)])  # fmt: skip
    assert [r.number for r in records.records] == [1, 2, 3]
    assert sum(r.applied for r in records.records[2].remarks) == 1
    assert [p.name[:3] for p in sorted(tmp_path.glob("*.gir"))] == ["000", "001", "003"]


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 9])
def test_bisect_limit_permits_the_first_rewrites(limit: int) -> None:
    permit = BisectLimit(limit)
    module = go("test-hooks-twice", permit=permit)
    relus = sum(op.kind.name == "relu" for op in module.main)
    assert relus == 1 + min(limit, 3)
    assert permit.log[0] == ("twice", permit.log[0][1])
    assert permit.log[0][1].nodes == ("second",)


def test_verify_each_stops_a_malformed_module() -> None:
    with pytest.raises(VerifyError, match=r"^pass 2 \(test-hooks-break\{how=malform\}\)"):
        go("cse,test-hooks-break{how=malform}", VerifyEach())


def test_reproducer_keeps_the_ir_before_the_pass_that_fails(tmp_path: Path) -> None:
    hook = Reproducer(tmp_path / "d", "m.onnx")
    with pytest.raises(KeyError):
        go("cse,test-hooks-break{how=crash}", hook)
    path = tmp_path / "d" / "reproducer.gir"
    assert hook.command == f"graphopt opt {path} --passes 'test-hooks-break{{how=crash}}'"
    assert hook.failing == "pass 2 (test-hooks-break{how=crash})"
    assert numbers(load_gir(path)) == numbers(parse(TEXT))
    assert path.read_text().startswith("// KeyError: 'oh no'\n")


def test_reproducer_without_a_folder_writes_nothing(tmp_path: Path) -> None:
    hook = Reproducer(None, "my model.onnx")
    with pytest.raises(KeyError):
        go("cse,test-hooks-break{how=crash}", hook)
    expected = ["graphopt", "opt", "my model.onnx", "--passes", "cse,test-hooks-break{how=crash}"]
    assert shlex.split(hook.command) == expected
    assert not list(tmp_path.iterdir())


def check() -> NumericCheck:
    return NumericCheck(run, [X], [run(parse(TEXT), X)], LIMIT)


def test_numeric_check_names_the_pass_the_op_and_what_is_gone() -> None:
    hook = check()
    with pytest.raises(MismatchError) as caught:
        go("cse,test-hooks-break", hook)
    text = str(caught.value)
    assert text.startswith("pass 2 (test-hooks-break): the model DIFFERS at output 'c'")
    assert "the first op that differs is add at third" in text
    assert "with relu at second gone before it" in text
    assert [(e.number, e.text) for e in hook.errors] == [(0, "read"), (2, "test-hooks-break")]
    assert hook.errors[0].worst
    assert hook.errors[0].worst.ok


def test_numeric_check_refuses_a_model_that_was_read_wrong() -> None:
    wanted = run(parse(TEXT), X)
    hook = NumericCheck(run, [X], [{"c": wanted["c"] + 1}], LIMIT)
    with pytest.raises(MismatchError, match="DIFFERS"):
        go("cse", hook)


def test_numeric_check_lets_right_passes_through() -> None:
    hook = check()
    go("test-hooks-twice,cse,dce", hook)
    assert all(e.worst and e.worst.relative == 0 for e in hook.errors)


def test_observe_gives_every_named_value() -> None:
    values = observe(parse(TEXT), X, run)
    assert list(values) == ["a", "b", "c"]
    np.testing.assert_array_equal(values["b"], np.maximum(values["a"], 0))


def test_no_difference_between_equal_modules() -> None:
    assert first_difference(parse(TEXT), parse(TEXT), X, run, LIMIT) is None


def blas_threads() -> set[int]:
    """How many threads numpy's and scipy's linear algebra may take."""
    importlib.import_module("scipy.linalg")  # loads its library

    tool: Any = importlib.import_module("threadpoolctl")  # untyped
    return {i["num_threads"] for i in tool.threadpool_info() if i["user_api"] == "blas"}


@dataclass(frozen=True)
class Blas(Pass, name="test-blas"):
    """Tells of the threads."""

    effect: ClassVar[Effect] = "lossy"

    def run(self, module: Module, ctx: Context) -> PassResult:
        return PassResult(False, notes=(str(blas_threads()),))


def test_linear_algebra_of_lossy_passes_takes_one_thread() -> None:
    """Those of numpy and scipy take the cores from each other (graphopt/blas.py)."""
    tool: Any = importlib.import_module("threadpoolctl")
    blas_threads()  # both libraries are there before they are limited
    with tool.threadpool_limits(2, user_api="blas"):
        (record,) = run_pipeline((Blas(),), parse(TEXT), Context())
        assert (record.notes, blas_threads()) == (("{1}",), {2})
