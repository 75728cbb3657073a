# pyright: basic
# Tables of cases of mixed types.
"""A convolution on AMX tiles and the mean of its image: on the emulation, and as it is."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.ir.parser import parse
from graphopt.targets.tvm import joint, means
from tests import tilecheck
from tests.kernelcheck import check, evaluate, run
from tests.targets import test_kernels_amx as tiles
from tests.targets.test_kernels_integer import numbers
from tests.tilecheck import AMX

emulated = tilecheck.emulated  # a fixture
CASES = [
    dict(ins=64, outs=40, size=(7, 7), kernel=1),
    dict(ins=64, outs=96, size=(7, 7), kernel=3, pad=1, n=2),  # tiles cross lines
    dict(ins=64, outs=33, size=(13, 13), kernel=1, n=9),  # rows stay, panels pass; one is ragged
    dict(ins=64, outs=100, size=(13, 13), kernel=1, n=2),  # tasks share panels
    dict(ins=32, outs=32, size=(9, 33), kernel=3, pad=1),  # tiles end with a line
    dict(ins=64, outs=512, size=(6, 6), kernel=3, pad=1),
]


def averaged(text: str, keep: bool) -> str:
    """The region with the mean of its image, of bytes as float32."""
    found = re.search(r"(u8|f32)\[(\d+),(\d+),(\d+),(\d+):aBcd16b\]\n\s*return\((%\w)\)", text)
    assert found
    dtype, n, outs, rows, columns, last = found.groups()
    e = f"f32[{n},{outs},{rows},{columns}:aBcd16b]"
    y = f"f32[{n},{outs},1,1:aBcd16b]" if keep else f"f32[{n},{outs}]"
    wide = f"%f = dequantize({last}, %t, %z) : {e}\n" if dtype == "u8" else ""
    mean = f"%m = reduce_mean({'%f' if wide else last}) {{axes=[2,3],keepdims={str(keep).lower()}}} : {y}"
    text = text.replace("%z: u8[])", "%z: u8[], %t: f32[])")
    return text[: text.rindex("return(")] + f"{wide}{mean}\n%o = sigmoid(%m) : {y}\nreturn(%o) }}"


def integers(case: dict, keep: bool) -> str:
    """Of bytes."""
    return averaged(tiles.convolution(**case), keep)


def halves(case: dict, keep: bool) -> str:
    """Of bfloat16."""
    text = tiles.half_convolution(**case)
    text = re.sub(r", %r: bf16[^)]*\)", ")", text)
    text = re.sub(r"%s = cast.*\n\s*%d = add.*\n", "", text)
    return averaged(text.replace("relu(%d)", "relu(%c)"), keep)


def arrays_of(text: str) -> list[np.ndarray] | None:
    """Arguments, the scale of the bytes such that a mean is about 1."""
    if "conv_integer" not in text:
        return None
    return [*numbers(text)[:-1], np.asarray(0.01, np.float32)]


TEXTS = [(of.__name__, of(case, i % 2 == 0)) for of in (integers, halves) for i, case in enumerate(CASES)]
PARAMS = [pytest.param(text, id=f"{name}-{i}") for i, (name, text) in enumerate(TEXTS)]


@pytest.mark.skipif(not tiles.WIDE, reason="this CPU lacks AVX-512")
@pytest.mark.parametrize("text", PARAMS)
def test_on_emulated_tiles(text: str, emulated: ctypes.CDLL) -> None:
    check(text, tiles.WIDE[0], tolerance=5e-6, arrays=arrays_of(text))
    assert emulated.amx_products() > 0


@pytest.mark.skipif(not tiles.NATIVE, reason="this CPU has no AMX (amx_int8 in /proc/cpuinfo)")
@pytest.mark.parametrize("text", PARAMS)
def test_on_tiles(text: str) -> None:
    tiles.permit_tiles()
    check(text, "amx", tolerance=5e-6, arrays=arrays_of(text))


@pytest.mark.skipif(not tiles.WIDE, reason="this CPU lacks AVX-512")
def test_each_pixel_counts_once(emulated: ctypes.CDLL) -> None:
    """Sums of small integers are exact: a row that two tiles make must not be summed twice."""
    text = averaged(tiles.convolution(**CASES[2]), True).replace("sigmoid(%m)", "relu(%m)")
    arrays = [np.ones_like(a) for a in numbers(text)]
    graph = parse(text).main
    (got,) = run(graph, tiles.WIDE[0], arrays)
    (want,) = evaluate(graph, arrays)
    assert (got[:, :, 0, 0].reshape(9, -1)[:, :33] == want.reshape(9, 33)).all()


def test_what_is_none() -> None:
    text = integers(CASES[0], False)
    assert joint.family([*parse(text).main]) == means.FAMILY
    assert means.mean_of(parse(text.replace("axes=[2,3]", "axes=[2,1]").replace("f32[1,40]", "f32[1,7]")).main) is None
    other = re.sub(r"(%w: i8\[[\d,]+:)\w+", r"\1ABcd4b16a4b", text)  # for vectors
    assert means.mean_of(parse(other).main) is None


def test_it_pays_where_weights_stay_in_the_second_cache() -> None:
    assert joint.pays([*parse(integers(CASES[0], True)).main], AMX)
    far = dict(ins=512, outs=512, size=(7, 7), kernel=3, pad=1)
    assert not joint.pays([*parse(integers(far, True)).main], AMX)


@pytest.mark.skipif(not tiles.NATIVE, reason="this CPU has no AMX (amx_int8 in /proc/cpuinfo)")
def test_the_same_bits_on_any_number_of_threads(tmp_path: Path) -> None:
    module = parse("""graph @main(%x: f32[2,64,13,13]) {
      %w = const rand 1 : f32[100,64,1,1]
      %c = conv(%x, %w) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "conv"
      %r = relu(%c) @ "relu"
      %y = reduce_mean(%r) {axes=[2,3],keepdims=false} @ "mean"
      return(%y) {names=[y]} }""")
    module.save(str(tmp_path / "m.onnx"))
    feeds = [{"x": np.random.default_rng(i).random((2, 64, 13, 13), np.float32)} for i in range(3)]
    for passes in ("default,calibrate,quantize", "default,half"):
        result = graphopt.optimize(tmp_path / "m.onnx", "x86:amx", passes, feeds)
        assert result.program
        assert means.FAMILY in {k.family for k in result.program.kernels}
        result.save(tmp_path / "out")
        found = []
        for threads in (1, 2, 3):
            with graphopt.Session(tmp_path / "out", threads=threads) as session:
                found.append(session.run(feeds[0])["y"])
        assert all((f == found[0]).all() for f in found)
