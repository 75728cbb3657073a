"""LSTM and GRU layers in int8: weights as bytes, the input's product in integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import graphopt
from graphopt.errors import InputError
from graphopt.ir.core import Module
from graphopt.onnx import Reference, to_proto
from graphopt.targets.base import Build
from graphopt.targets.x86 import X86

STEPS, BATCH, INPUT, HIDDEN = 6, 2, 12, 16
WEIGHTS = "default,quantize{activations=f32}"
PRODUCT = "default,calibrate,quantize{recurrent=product}"
CASES: list[tuple[str, str, dict[str, Any], str]] = [("LSTM", "forward", {}, PRODUCT), ("LSTM", "bidirectional", {}, WEIGHTS),
         ("GRU", "reverse", {}, WEIGHTS),
         ("GRU", "bidirectional", {"linear_before_reset": 1}, PRODUCT)]  # fmt: skip


def model(kind: str, direction: str, attrs: dict[str, Any], state: bool = False) -> ModelProto:
    """A layer after a transposition, as exporters write it; `state`: with an initial state."""
    rng = np.random.default_rng(0)
    d, g, h = 1 + (direction == "bidirectional"), {"LSTM": 4, "GRU": 3}[kind], HIDDEN
    shapes = {"w": (d, g * h, INPUT), "r": (d, g * h, h), "b": (d, 2 * g * h)}
    weights = [numpy_helper.from_array(rng.uniform(-0.4, 0.4, s).astype(np.float32), n)
               for n, s in shapes.items()]  # fmt: skip
    inputs = ["t", "w", "r", "b", *(["", "h"] if state else [])]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2], name="turn"),
        helper.make_node(kind, inputs, ["y", "last"], name="layer", hidden_size=h,
                         direction=direction, **attrs),
    ]  # fmt: skip
    given = {"x": [BATCH, STEPS, INPUT], **({"h": [d, BATCH, h]} if state else {})}
    args = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in given.items()]
    outs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [STEPS, d, BATCH, h]),
            helper.make_tensor_value_info("last", TensorProto.FLOAT, [d, BATCH, h])]  # fmt: skip
    graph = helper.make_graph(nodes, "m", args, outs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def samples(proto: ModelProto, count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim]
              for i in proto.graph.input}  # fmt: skip
    return [{n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
            for _ in range(count)]  # fmt: skip


def sqnr(want: dict[str, Any], got: dict[str, Any]) -> float:
    w, g = want["y"].astype(np.float64), got["y"].astype(np.float64)
    return float(10 * np.log10(np.sum(w * w) / np.sum((w - g) ** 2)))


@pytest.mark.parametrize(("kind", "direction", "attrs", "passes"), CASES)
def test_a_layer_becomes_bytes_and_compiles(
    kind: str, direction: str, attrs: dict[str, Any], passes: str, tmp_path: Path
) -> None:
    """The file is a third, ONNX Runtime computes it, and so does the library, near the floats."""
    proto = model(kind, direction, attrs)
    data = samples(proto, 16)
    written = to_proto(_passes(proto, passes, data))
    assert sum(len(t.raw_data) for t in written.graph.initializer) < 0.4 * sum(
        len(t.raw_data) for t in proto.graph.initializer
    )
    result = graphopt.optimize(written, X86("avx2"), threads=1,
                               build=Build(cache=tmp_path / "cache"))  # fmt: skip
    assert all(c.ok for c in result.report.checks)
    result.save(tmp_path / "out")
    for feed in data[:2]:
        want, got = (Reference(m).run(feed) for m in (proto, written))
        assert sqnr(want, got) > 30
        with graphopt.Session(tmp_path / "out", threads=1) as session:
            assert (
                sqnr(got, session.run(feed)) > 50
            )  # inputs at the middle of a step may round apart
    assert result.manifest is not None
    ops = [op for layer in result.manifest.layers for op in layer.ops]
    assert {"lstm_scan", "gru_scan"} & set(ops)
    assert ("matmul_integer" in ops) == (passes == PRODUCT)


def test_an_initial_state_stays_what_it_is() -> None:
    proto = model("GRU", "forward", {}, state=True)
    data = samples(proto, 16)
    module = _passes(proto, "default,calibrate,quantize{recurrent=product}", data)
    assert {op.kind.name for op in module.main} >= {"quantize", "dequantize"}
    want, got = (Reference(m).run(data[0]) for m in (proto, to_proto(module)))
    assert sqnr(want, got) > 30


def _passes(proto: ModelProto, passes: str, data: Any) -> Module:
    return graphopt.optimize(proto, None, passes, data, check=False).module


def test_by_default_a_note_says_what_bytes_would_save() -> None:
    proto = model(*CASES[0][:3])
    result = graphopt.optimize(proto, None, "default,calibrate,quantize", samples(proto, 16),
                               check=False)  # fmt: skip
    assert not {"quantize", "dequantize"} & {op.kind.name for op in result.module.main}
    bytes_ = 3 * 4 * HIDDEN * (INPUT + HIDDEN)
    (note,) = (n for n in result.report.notes if "recurrent=weights" in n)
    assert note.startswith("layer:") and f"{bytes_ / 1000:.0f} kB less" in note


def test_a_layer_may_be_skipped_and_options_are_checked() -> None:
    proto = model(*CASES[0][:3])
    module = _passes(proto, "default,quantize{activations=f32,skip=[layer]}", None)
    assert "dequantize" not in {op.kind.name for op in module.main}
    with pytest.raises(InputError, match="recurrent=product needs activations"):
        _passes(proto, "default,quantize{activations=f32,recurrent=product}", None)
    with pytest.raises(InputError, match="no layer's name has 'nothing'"):
        _passes(proto, "default,quantize{activations=f32,skip=[nothing]}", None)
