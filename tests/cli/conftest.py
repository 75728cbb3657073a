"""Small models, broken rules and a way to call the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.cli import main
from graphopt.ir.core import Module, Op
from graphopt.ops.elementwise import Relu
from graphopt.pipeline import Context, Pass, PassResult
from graphopt.rewrite import Rewriter, Rule, rewrite


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


Cli = Callable[..., Done]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in this process."""

    def run(*args: object) -> Done:
        code = main([str(a) for a in args])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


def conv_model(batch: int | str = 1) -> onnx.ModelProto:
    """Two convolutions, the first with BatchNorm, relu between; pooling and a classifier."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "g", "b", "m", "v"], ["n1"], "norm1"),
        helper.make_node("Relu", ["n1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["a2"], "add2"),
        helper.make_node("Relu", ["a2"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], "classifier", transB=1),
    ]
    constants = [
        weight("w1", 8, 3, 3, 3), weight("w2", 8, 8, 3, 3), weight("w3", 5, 8), weight("b3", 5),
        weight("g", 8), weight("b", 8), weight("m", 8),
        numpy_helper.from_array(rng.uniform(0.5, 2, 8).astype(np.float32), "v"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="session")
def small() -> bytes:
    """The small model."""
    return conv_model().SerializeToString()


@pytest.fixture(scope="session")
def batched() -> bytes:
    """The small model with a symbolic batch."""
    return conv_model("N").SerializeToString()


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bytes) -> Path:
    """A small model in an empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.onnx"
    path.write_bytes(small)
    return path


@dataclass(frozen=True)
class WrongRelu(Pass, name="test-wrong-relu"):
    """A rule that is right, relu(x) = relu(relu(x)), but for the node named `at`."""

    at: str = "relu2"

    def run(self, module: Module, ctx: Context) -> PassResult:
        """relu(x) = relu(relu(x)), but x at the node `at`."""
        seen: set[str] = set()

        def fn(rw: Rewriter, op: Op, kind: Relu) -> object:
            """relu(x) = relu(relu(x))."""
            name = op.loc.nodes[-1]
            if name in seen:
                return None
            if name == self.at:
                return op.operand(0)
            seen.add(name)
            return rw.make(Relu(), rw.make(Relu(), op.operand(0)))

        outcome = rewrite(module.main, [Rule("wrong-relu", Relu, fn)], ctx.permit)  # pyright: ignore
        return PassResult(outcome.changed, tuple(outcome.remarks))


@dataclass(frozen=True)
class Crash(Pass, name="test-crash"):
    """Raises what a bug would raise, where the model has an op of this kind."""

    kind: str = "relu"

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Look for the op."""
        if any(op.kind.name == self.kind for op in module.main):
            raise KeyError("a bug\nof two lines")
        return PassResult(False)
