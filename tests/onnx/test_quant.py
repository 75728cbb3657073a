"""Quantization: written as ONNX, run by ONNX Runtime, the same integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphopt.analysis.interpret import interpret
from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.ir.types import Array
from graphopt.onnx import Reference, load, to_proto
from tests.onnx.models import finish, value


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


def test_quantization_by_the_range() -> None:
    for text in ("f32[3,64]", "f32[1]", "f32[2,3,5]"):
        both(f"""graph @main(%x: {text}) {{
          %q, %s, %z = dynamic_quantize(%x)
          return(%q, %s, %z) {{names=[q, s, z]}}
        }}""")


@pytest.mark.parametrize("x", [np.zeros((2, 3)), np.full((2, 3), 3.0), np.full((2, 3), -1e-30)])
def test_a_range_of_nothing(x: Array) -> None:
    module = parse("""graph @main(%x: f32[2,3]) {
      %q, %s, %z = dynamic_quantize(%x)
      return(%q, %s, %z) {names=[q, s, z]}
    }""")
    feed = {"x": x.astype(np.float32)}
    want, got = interpret(module, feed), Reference(module).run(feed)
    for name in ("q", "s", "z"):
        np.testing.assert_array_equal(got[name], want[name])


def test_convolution_padded_with_a_zero_point_of_the_run() -> None:
    both("""graph @main(%x: u8[1,8,5,5], %z: u8[]) {
      %w = const rand 3 : i8[4,8,3,3]
      %y = conv_integer(%x, %w, %z) {strides=[1,1],pads=[1,0,1,2],dilations=[1,1]}
      return(%y) {names=[y]}
    }""")


NODE = helper.make_node
POINTS = [None, 0, 131, "run"]


def integer_model(node: str, w: Array, wz: Array | None, xz: Any, x: Array, **attrs: Any) -> Any:
    """A model of one ConvInteger or MatMulInteger, and its inputs."""
    feeds: dict[str, Array] = {"x": x}
    weights = {"w": w}
    names = ["x", "w", "", ""]
    if xz == "run":
        feeds["p"] = np.asarray(77, x.dtype)
        names[2] = "p"
    elif xz is not None:
        weights["p"] = np.asarray(xz, x.dtype)
        names[2] = "p"
    if wz is not None:
        weights["r"] = wz
        names[3] = "r"
    while not names[-1]:
        names.pop()
    graph = helper.make_graph(
        [NODE(node, names, ["y"], **attrs)], "g",
        [value(k, v) for k, v in feeds.items()], [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )  # fmt: skip
    return finish(graph, 17), feeds


def modelled(proto: Any, feeds: dict[str, Array]) -> None:
    """Compare numpy's integers with ONNX Runtime's of the model as it was, and as it is written."""
    module = load(proto)
    assert not any(isinstance(op.kind, Opaque) for op in module.main)
    want = Reference(proto).run(feeds)["y"]
    np.testing.assert_array_equal(interpret(module, feeds)["y"], want)
    np.testing.assert_array_equal(Reference(to_proto(module)).run(feeds)["y"], want)


def weight(shape: tuple[int, ...], dtype: Any, point: Any) -> tuple[Array, Array | None]:
    """Weights over the whole range of a type, and their zero point."""
    info = np.iinfo(dtype)
    w = np.random.default_rng(1).integers(info.min, info.max + 1, shape).astype(dtype)
    if point == "channel":
        last = shape[-1] if len(shape) == 2 else shape[0]
        return w, np.arange(last).astype(dtype)
    return w, None if point is None else np.asarray(point, dtype)


@pytest.mark.parametrize("xz", POINTS)
@pytest.mark.parametrize(
    ("dtype", "point"),
    [(np.int8, None), (np.int8, 0), (np.int8, 5), (np.int8, "channel"), (np.uint8, 128),
     (np.uint8, 121), (np.uint8, None), (np.uint8, "channel")],
)  # fmt: skip
def test_products_with_zero_points(dtype: Any, point: Any, xz: Any) -> None:
    w, wz = weight((6, 5), dtype, point)
    x = np.random.default_rng(0).integers(0, 256, (2, 3, 6)).astype(np.uint8)
    proto, feeds = integer_model("MatMulInteger", w, wz, xz, x)
    if wz is None and xz is None and dtype is np.uint8:
        return  # u8 by u8 is a matmul_integer as it is
    modelled(proto, feeds)


@pytest.mark.parametrize("xz", POINTS)
@pytest.mark.parametrize(
    ("dtype", "point"), [(np.int8, None), (np.int8, 0), (np.uint8, 128), (np.uint8, 120)]
)
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 0, 2]])
@pytest.mark.parametrize("group", [1, 4])
def test_convolutions_with_zero_points(
    dtype: Any, point: Any, xz: Any, pads: list[int], group: int
) -> None:
    w, wz = weight((4, 4 // group, 3, 3), dtype, point)
    x = np.random.default_rng(0).integers(0, 256, (1, 4, 6, 6)).astype(np.uint8)
    modelled(*integer_model("ConvInteger", w, wz, xz, x, pads=pads, group=group))
