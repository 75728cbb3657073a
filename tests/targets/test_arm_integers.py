"""int8 on ARM, to the bit: each way of multiplying bytes, as the CPU that has it, against numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.onnx import to_proto
from graphopt.targets import machine
from graphopt.targets.emulator.instructions import tools
from tests.crosscheck import emulated


def model() -> str:
    """Few channels, a dense, a depthwise and a pointwise convolution, a product of their means."""

    def conv(name: str, source: str, shape: str, scale: float, more: str = "group=1") -> str:
        return f"""
  %{name}i = const rand {len(name)} : i8[{shape}]
  %{name}s = const dense [{scale}] : f32[]
  %{name}w = dequantize(%{name}i, %{name}s)
  %{name}c = conv(%{source}, %{name}w) {{strides=[1,1],pads=[1,1,1,1],dilations=[1,1],{more}}}
  %{name}r = relu(%{name}c)
  %{name}q = quantize(%{name}r, %s, %z) {{dtype=u8}}
  %{name} = dequantize(%{name}q, %s, %z)"""

    return f"""graph @main(%x: f32[1,3,9,11]) {{
  %s = const dense [0.03] : f32[]
  %z = const dense [117] : u8[]
  %xq = quantize(%x, %s, %z) {{dtype=u8}}
  %xf = dequantize(%xq, %s, %z){conv("a", "xf", "16,3,3,3", 0.003)}
{conv("bb", "a", "16,16,3,3", 0.001)}
{conv("ccc", "bb", "16,1,3,3", 0.004, "group=16")}
{conv("dddd", "ccc", "24,16,1,1", 0.003)}
  %m = reduce_mean(%dddd) {{axes=[2,3],keepdims=false}}
  %mq = quantize(%m, %s, %z) {{dtype=u8}}
  %mf = dequantize(%mq, %s, %z)
  %ti = const rand 9 : i8[10,24]
  %ts = const dense [0.01] : f32[]
  %t = dequantize(%ti, %ts)
  %y = gemm(%mf, %t) {{trans_b=true}}
  %yq = quantize(%y, %s, %z) {{dtype=u8}}
  return(%ddddq, %yq) {{names=[image, classes]}}
}}"""


# smull with smlal; smull of weights that may be -128; sdot; smmla (qemu 7.2 runs it as `max`).
CPUS = (
    "cortex-a72", "cortex-a76", "neoverse-v1",
    pytest.param("cortex-a53", marks=pytest.mark.slow),
    pytest.param("cortex-a55", marks=pytest.mark.slow),
    pytest.param("neoverse-n1", marks=pytest.mark.slow),
)  # fmt: skip


@pytest.mark.parametrize("cpu", CPUS)
def test_integers_are_those_of_numpy(cpu: str, tmp_path: Path) -> None:
    emulated(machine.load(cpu))  # skips where nothing runs it
    path = tmp_path / "m.gir"
    path.write_text(model())
    result = graphopt.optimize(path, f"arm:{cpu}", threads=1)
    checks = {c.what.split(",")[1].strip(): c for c in result.report.checks if "," in c.what}
    assert checks["against numpy in integers"].ok
    assert result.report.instructions.startswith(f"{cpu} has every instruction") or not tools()
    assert result.manifest is not None
    ops = [op for layer in result.manifest.layers for op in layer.ops]
    assert ops.count("conv_integer") >= 4 and ops.count("matmul_integer") == 1
    assert not {"conv", "matmul", "gemm"} & set(ops)


def test_weights_of_minus_128_take_another_way(tmp_path: Path) -> None:
    """Two products of -128 by -128 don't fit into 16 bits, which the fast way adds them in."""
    emulated(machine.load("cortex-a72"))
    module = graphopt.parse(model())
    proto = to_proto(module)
    feed = {"x": np.full((1, 3, 9, 11), -9.0, np.float32)}  # quantizes to the least integer
    for tensor in proto.graph.initializer:
        if tensor.data_type == 3 and len(tensor.dims) == 4:
            tensor.raw_data = bytes([128]) * len(tensor.raw_data)
    result = graphopt.optimize(proto, "arm:cortex-a72", data=[feed] * 2, threads=1)
    assert all(check.ok for check in result.report.checks)
    assert any("against numpy in integers" in check.what for check in result.report.checks)
