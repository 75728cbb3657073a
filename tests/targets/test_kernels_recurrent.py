# pyright: basic
# Tables of cases of mixed types.
"""LSTM and GRU: the scans' kernels against numpy, and whole layers against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphopt
from graphopt.ir.parser import parse
from tests.kernelcheck import block, check, random_arrays, runnable

SCANS = [
    dict(name="lstm_scan", gates=4, states=2, units=32, batch=1, state=True),
    dict(name="lstm_scan", gates=4, states=2, units=24, batch=3, reverse=True),
    dict(name="lstm_scan", gates=4, states=2, units=5, batch=2, state=True),
    dict(name="gru_scan", gates=3, states=1, units=32, batch=2, state=True, bias=True),
    dict(name="gru_scan", gates=3, states=1, units=16, batch=1, reverse=True),
    dict(name="gru_scan", gates=3, states=1, units=48, batch=2, state=True, first=True),
    dict(name="gru_scan", gates=3, states=1, units=7, batch=1, first=True, reverse=True),
    dict(name="lstm_scan", gates=4, states=2, units=24, batch=2, scaled=True),
    dict(name="gru_scan", gates=3, states=1, units=32, batch=1, bias=True, state=True, scaled=True),
    dict(name="gru_scan", gates=3, states=1, units=16, batch=2, first=True, scaled=True),
]


def scan(name, gates, states, units, batch, b, state=False, bias=False, first=False, reverse=False,
         scaled=False):  # fmt: skip
    """The text of a scan of six steps."""
    width = int(np.gcd(b, units))
    tag = f":Bca{width}b" if width > 1 else ":bca"
    h = f"f32[{batch},{units}]"
    args = [f"%x: f32[6,{batch},2,{gates},{units}]", f"%r: f32[{gates},{units},{units}{tag}]"]
    operands = ["%x", "%r"]
    if gates == 3:
        operands.append("%b" if bias else "_")
        args += [f"%b: f32[{units}]"] if bias else []
    if state:
        args += [f"%h: {h}", f"%c: {h}"][:states]
        operands += ["%h", "%c"][:states]
    if scaled:
        args.append(f"%s: f32[{gates},{units}]")
        operands += ["_"] * (4 - len(operands)) + ["%s"]
    attrs = ["reverse=true", "part=1"] if reverse else []
    attrs += ["linear_before_reset=false"] if first else []
    given = f" {{{','.join(attrs)}}}" if attrs else ""
    results = ", ".join(["%y", "%n", "%m"][: 1 + states])
    types = ", ".join([f"f32[6,{batch},{units}]", h, h][: 1 + states])
    return f"""graph @k({", ".join(args)}) {{
      {results} = {name}({", ".join(operands)}){given} : {types}
      return({results})
    }}"""


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("case", SCANS, ids=lambda c: "-".join(map(str, c.values())))
def test_scan(case: dict, name: str) -> None:
    """Weights of norm about 1, as layers have, so that a step's rounding isn't amplified."""
    text = scan(**case, b=block(name))
    arrays = random_arrays(parse(text).main)
    arrays[1] /= np.sqrt(np.float32(case["units"]))
    check(text, name, arrays=arrays)


LAYERS = [
    ("LSTM", "forward", {}),
    ("LSTM", "reverse", {}),
    ("LSTM", "bidirectional", {}),
    ("GRU", "forward", {"linear_before_reset": 1}),
    ("GRU", "bidirectional", {}),
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("op", "direction", "attrs"), LAYERS)
def test_a_layer_is_compiled_whole(op, direction, attrs, bias, tmp_path) -> None:
    """No fallback, and the bundle's results are those of ONNX Runtime (verified by optimize)."""
    rng = np.random.default_rng(0)
    d, g, h = 1 + (direction == "bidirectional"), {"LSTM": 4, "GRU": 3}[op], 24
    shapes = {"w": (d, g * h, 10), "r": (d, g * h, h), "b": (d, 2 * g * h)}
    weights = {n: rng.uniform(-0.3, 0.3, s).astype(np.float32) for n, s in shapes.items()}
    inputs = ["x", "w", "r", "b" if bias else ""]
    outputs = ["y", "y_h", "y_c"][: g - 1]
    node = helper.make_node(op, inputs, outputs, hidden_size=h, direction=direction, **attrs)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "g", [info("x", 1, [7, 2, 10])], [info(n, 1, None) for n in outputs],
        [numpy_helper.from_array(v, n) for n, v in weights.items() if n in inputs],
    )  # fmt: skip
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    result = graphopt.optimize(path, target="x86")
    assert result.program is not None
    assert not list(result.program.fallbacks())
    assert result.report.checks
