# pyright: basic
# Tables of cases of mixed types.
"""Kernels whose results are parts of a larger tensor: the same bits, and the rest left as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.analysis.interpret import interpret, random_inputs
from graphopt.ir.parser import parse
from graphopt.targets import machine
from graphopt.targets.base import Build
from tests.kernelcheck import HOST, block, evaluate, random_arrays, run, runnable
from tests.targets import test_kernels as floats
from tests.targets import test_kernels_amx as tiles
from tests.targets import test_kernels_chain as chains
from tests.targets import test_kernels_integer as integers
from tests.targets import test_kernels_pool as pools
from tests.targets import test_kernels_winograd as winograd

WIDE = "avx512vnni"
NATIVE = machine.load("amx").runs_on(HOST)


def texts(b: int = 16) -> Iterator[tuple[str, str]]:
    """Regions of most families, with channels in blocks of `b`."""
    yield "conv", floats.conv(ins=32, outs=32, size=(9, 10), kernel=3, pad=1, n=3, b=b)
    yield "grouped", floats.conv(ins=24, outs=112, size=(6, 6), kernel=1, group=4, n=2, b=b)
    yield "depthwise", floats.conv(ins=32, outs=32, size=(9, 9), kernel=3, group=32, n=2, b=b)
    yield "transposed", floats.conv(ins=16, outs=32, size=(7, 7), kernel=2, stride=2, n=2, b=b,
                                    kind="conv_transpose")  # fmt: skip
    yield "winograd", winograd.text(16, 32, (11, 9), (1, 1, 1, 1), "relu", b, n=2)
    yield "chain", chains.text(32, 32, 32, (9, 11), n=2, b=b)
    yield "pooled", pools.text(n=2, b=b)
    yield "bytes", integers.conv(ins=32, outs=32, size=(9, 10), kernel=3, pad=1, n=2, b=b)
    yield "pixels", integers.conv(ins=32, outs=48, size=(7, 8), kernel=1, n=3, b=b)
    yield "spatial", integers.conv(ins=32, outs=32, size=(9, 9), kernel=3, group=32, n=2, b=b)
    yield "pool", f"""graph @k(%x: f32[2,32,9,9:aBcd{b}b]) {{
      %y = max_pool(%x) {{kernel=[3,3],strides=[2,2],pads=[0,0,0,0],dilations=[1,1]}} : f32[2,32,4,4:aBcd{b}b]
      return(%y) }}"""
    yield "gemm", f"""graph @k(%a: f32[7,24], %b: f32[24,40:Ba{b}b]) {{
      %y = matmul(%a, %b) : f32[7,40]
      return(%y) }}"""
    yield "elementwise", """graph @k(%x: f32[3,5,7], %z: f32[3,5,7]) {
      %t = add(%x, %z) : f32[3,5,7]
      %y = tanh(%t) : f32[3,5,7]
      return(%y) }"""
    yield "reduce", """graph @k(%x: f32[6,5,33]) {
      %y = reduce_max(%x) {axes=[2],keepdims=false} : f32[6,5]
      return(%y) }"""


def parted(text: str) -> tuple[str, int]:
    """The region with its result as the first part along axis 1 of twice the size and a block."""
    result = parse(text).main.outputs[0].tensor
    shape = result.static
    assert shape
    size = 2 * shape[1] + 16
    whole = ",".join(map(str, (shape[0], size, *shape[2:])))
    tag = f":{result.layout}" if result.layout else ""
    head, _, last = text.rpartition("return(")
    name = last.split(")")[0]
    part = f"%whole = part({name}) {{axis=1,of={size}}} : {result.dtype}[{whole}{tag}]\n"
    return f"{head}{part}return(%whole) }}", shape[1]


def check_part(text: str, name: str, arrays: list[np.ndarray] | None = None) -> None:
    """The part has the bits of the dense result; what follows it isn't written."""
    graph = parse(text).main
    arrays = arrays or random_arrays(graph)
    (dense,) = run(graph, name, arrays)
    larger, _ = parted(text)
    (found,) = run(parse(larger).main, name, arrays)
    np.testing.assert_array_equal(found[:, : dense.shape[1]], dense)
    assert (found[:, dense.shape[1] :] == 7).all()


@pytest.mark.parametrize("name", [n for n in runnable() if n in (WIDE, "avx2")])
@pytest.mark.parametrize("family", [name for name, _ in texts()])
def test_a_part(family: str, name: str) -> None:
    text = dict(texts(block(name)))[family]
    check_part(text, name, integers.numbers(text) if "integer" in text else None)


def test_its_meaning_is_zeros_after_it() -> None:
    text, size = parted(dict(texts())["gemm"])
    graph = parse(text).main
    arrays = random_arrays(graph)
    (whole,) = evaluate(graph, arrays)
    np.testing.assert_array_equal(whole[:, :size], arrays[0] @ arrays[1])
    assert not whole[:, size:].any()


@pytest.mark.skipif(not NATIVE, reason="this CPU has no AMX (amx_int8 in /proc/cpuinfo)")
@pytest.mark.parametrize("case", [tiles.CONVS[1], tiles.CONVS[10], tiles.CONVS[11]], ids=str)
def test_a_part_on_tiles(case: dict) -> None:
    tiles.permit_tiles()
    text = tiles.convolution(**{**case, "n": 2, "outs": 32})
    check_part(text, "amx", integers.numbers(text))
    check_part(tiles.half_convolution(**{**case, "n": 2, "outs": 32}), "amx")


FIRE = """graph @main(%x: f32[3,16,14,13]) {
  %w = const rand 1 : f32[16,16,1,1]
  %u = const rand 2 : f32[32,16,1,1]
  %v = const rand 3 : f32[48,16,3,3]
  %t = const rand 4 : f32[16,80,1,1]
  %s = conv(%x, %w) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "squeeze"
  %a = conv(%s, %u) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "one"
  %b = conv(%s, %v) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "three"
  %p = relu(%a)
  %q = relu(%b)
  %c = concat(%p, %q) {axis=1} @ "concat"
  %y = conv(%c, %t) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "next"
  return(%y) {names=[y]}
}"""


@pytest.mark.parametrize("target", ["x86", "c"])
def test_end_to_end_on_two_threads(target: str, tmp_path: Path) -> None:
    module = parse(FIRE)
    module.save(str(tmp_path / "m.onnx"))
    result = graphopt.optimize(tmp_path / "m.onnx", target, threads=2, build=Build(jobs=2))
    assert result.program
    assert [s.nodes[-1] for s in result.program.steps if "concat" in s.nodes] == []
    assert sum("part(" in k.text for k in result.program.kernels) == 2
    result.save(tmp_path / "out")
    feed = random_inputs(module)
    with graphopt.Session(tmp_path / "out", threads=2) as session:
        got = session.run(feed)["y"]
    want = interpret(module, feed)["y"]
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
