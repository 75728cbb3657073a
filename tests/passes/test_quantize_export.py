"""The exported QDQ file in ONNX Runtime against the compiled integers, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.analysis.interpret import interpret
from graphopt.ir.builtin import Const
from graphopt.ir.clone import clone_graph, extract
from graphopt.ir.core import Graph, Module, Op
from graphopt.onnx import Reference
from graphopt.ops.quant import Quantize
from graphopt.pipeline import Context, parse_pipeline, run_pipeline

MODELS = Path(__file__).parents[2] / "models"
NEAR = 0.999  # of the elements are within 1 of each other


def before(op: Op) -> list[Op]:
    """The ops between a quantize and the integers that it depends on, in order."""
    found: set[Op] = set()
    todo = [op]
    while todo:
        at = todo.pop()
        found.add(at)
        for v in at.operands:
            inner = v.op if v else None
            if inner and inner not in found and not isinstance(inner.kind, Quantize | Const):
                todo.append(inner)
    assert op.graph
    return [o for o in op.graph if o in found]


def layers(graph: Graph) -> list[tuple[Op, Graph]]:
    """Each quantize of something computed from integers, with those as inputs."""
    found: list[tuple[Op, Graph]] = []
    for op in graph:
        if isinstance(op.kind, Quantize):
            part, inputs, _ = extract(before(op), "layer")
            if inputs and all(v.tensor.dtype.is_int for v in inputs):
                found.append((op, part))
    return found


@pytest.mark.parametrize(
    ("model", "data"), [("fmnist_resnet8", "fmnist"), ("fmnist_mobilenetv2", "fmnist")]
)
def test_given_the_same_integers_both_give_the_same(model: str, data: str) -> None:
    """Requantisation is one float32 product here, and another sequence of roundings there."""
    with np.load(MODELS / "data" / f"{data}.npz") as file:
        samples = [{"input": x[None]} for x in file["input"][:16]]
    module = graphopt.optimize(MODELS / f"{model}.onnx", None,
                               "default,calibrate,quantize", samples, check=False).module  # fmt: skip
    for i, op in enumerate(o for o in module.main if isinstance(o.kind, Quantize)):
        op.result.hint = f"integers{i}"
    values: dict[str, Any] = {}
    interpret(module, samples[3], observe=lambda op, rs: values.update(
        zip((r.hint for r in op.results), rs, strict=True)))  # fmt: skip
    checked = 0
    for op, part in layers(module.main):
        feed = {a.hint: values[a.hint] for a in part.args}
        layer = Module(part, "layer", dict(module.opsets))
        theirs = Reference(layer, optimize=True).run(feed)[op.result.hint]
        ours = Module(clone_graph(part, {}), "layer", dict(module.opsets))
        run_pipeline(parse_pipeline("integers"), ours, Context())
        got = interpret(ours, feed)[op.result.hint]
        apart = np.abs(got.astype(np.int32) - theirs.astype(np.int32))
        assert np.count_nonzero(apart <= 1) >= NEAR * apart.size, op.loc
        checked += 1
    assert checked >= 8
