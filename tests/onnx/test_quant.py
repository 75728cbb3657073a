"""Quantization: written as ONNX, run by ONNX Runtime, the same integers."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.analysis.interpret import interpret
from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.ir.types import Array
from graphopt.onnx import Reference


def both(text: str, seed: int = 0) -> None:
    """Compare ONNX Runtime with numpy, every bit, on integers over their whole range."""
    module = parse(text)
    feed = {a.hint: number(module, a.hint, seed) for a in module.main.args}
    want, got = interpret(module, feed), Reference(module).run(feed)
    for name, array in want.items():
        assert array.dtype == got[name].dtype
        np.testing.assert_array_equal(got[name], array)


def number(module: Module, name: str, seed: int) -> Array:
    """Integers of all sizes; floats at and between halves."""
    rng = np.random.default_rng(seed)
    (arg,) = (a for a in module.main.args if a.hint == name)
    shape, dtype = arg.tensor.static or (), arg.tensor.dtype.numpy
    if dtype.kind == "f":
        return (rng.integers(-600, 600, shape) / 4).astype(dtype)
    info = np.iinfo(dtype) if dtype.itemsize < 4 else np.iinfo(np.int16)
    return np.asarray(rng.integers(info.min, info.max + 1, shape), dtype)


@pytest.mark.parametrize("dtype", ["u8", "i8"])
def test_between_floats_and_integers(dtype: str) -> None:
    both(f"""graph @main(%x: f32[3,64]) {{
      %s = const dense [0.5] : f32[]
      %z = const dense [7] : {dtype}[]
      %q = quantize(%x, %s, %z) {{dtype={dtype}}}
      %y = dequantize(%q, %s, %z)
      return(%q, %y) {{names=[q, y]}}
    }}""")


@pytest.mark.parametrize("dtype", ["u8", "i8"])
def test_requantization_by_channel(dtype: str) -> None:
    both(f"""graph @main(%x: i32[2,3,50]) {{
      %s = const dense [0.5, 0.001, 0.25] : f32[3]
      %z = const dense [7] : {dtype}[]
      %q = requantize(%x, %s, %z) {{dtype={dtype}}}
      return(%q) {{names=[q]}}
    }}""")


@pytest.mark.parametrize("value", [0, 131])
def test_convolution_padded_with_its_zero_point(value: int) -> None:
    both(f"""graph @main(%x: u8[1,8,5,5]) {{
      %w = const rand 3 : i8[4,8,3,3]
      %y = conv_integer(%x, %w) {{strides=[1,1],pads=[1,1,1,1],dilations=[1,1],pad_value={value}}}
      return(%y) {{names=[y]}}
    }}""")


def test_products() -> None:
    both("""graph @main(%a: u8[2,5,8], %b: i8[2,8,3]) {
      %y = matmul_integer(%a, %b)
      return(%y) {names=[y]}
    }""")


@pytest.mark.parametrize("x", ["u8", "i8"])
@pytest.mark.parametrize("y", ["u8", "i8"])
def test_tables(x: str, y: str) -> None:
    both(f"""graph @main(%x: {x}[4,200]) {{
      %t = const rand 5 : {y}[256]
      %y = lookup(%x, %t)
      return(%y) {{names=[y]}}
    }}""")
