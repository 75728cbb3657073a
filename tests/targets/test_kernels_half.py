# pyright: basic
# Tables of cases of mixed types.
"""Kernels that read and write bfloat16, against numpy: rounding to the bit, sums as float32's."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from graphopt.ir.parser import parse
from tests.kernelcheck import block, check, random_arrays, run, runnable
from tests.targets.test_kernels_recurrent import scan

# Each takes a block; `bf16` arguments are read through a cast, as `narrow-constants` makes it.
READS = {
    "one row": """graph @k(%x: f32[1,64], %w: bf16[64,96:Ba{b}b]) {{
      %v = cast(%w) {{to=f32}} : f32[64,96:Ba{b}b]
      %y = matmul(%x, %v)
      return(%y)
    }}""",
    "panels converted once": """graph @k(%x: f32[61,64], %w: bf16[64,96:Ba{b}b], %c: f32[96]) {{
      %v = cast(%w) {{to=f32}} : f32[64,96:Ba{b}b]
      %a = matmul(%x, %v)
      %s = add(%a, %c)
      %y = gelu(%s)
      return(%y)
    }}""",
    "rows outside": """graph @k(%x: f32[960,48], %w: bf16[48,32:Ba{b}b]) {{
      %v = cast(%w) {{to=f32}} : f32[48,32:Ba{b}b]
      %y = matmul(%x, %v)
      return(%y)
    }}""",
    "columns left over": """graph @k(%x: f32[2,50,33], %w: bf16[33,20:Ba{b}b]) {{
      %v = cast(%w) {{to=f32}} : f32[33,20:Ba{b}b]
      %y = matmul(%x, %v)
      return(%y)
    }}""",
    "gemm": """graph @k(%x: f32[4,40], %w: bf16[24,40:Ab{b}a], %c: f32[24]) {{
      %v = cast(%w) {{to=f32}} : f32[24,40:Ab{b}a]
      %y = gemm(%x, %v, %c) {{trans_b=true}}
      return(%y)
    }}""",
    "a batch of matrices": """graph @k(%x: f32[3,5,16], %w: bf16[3,16,24]) {{
      %v = cast(%w) {{to=f32}}
      %y = matmul(%x, %v)
      return(%y)
    }}""",
    "convolution of one pixel": """graph @k(%x: f32[1,32,1,1:aBcd{b}b],
             %w: bf16[48,32,1,1:ABcd{b}b{b}a], %c: f32[48]) {{
      %v = cast(%w) {{to=f32}} : f32[48,32,1,1:ABcd{b}b{b}a]
      %y = conv(%x, %v, %c) {{strides=[1,1],pads=[0,0,0,0],dilations=[1,1]}} : f32[1,48,1,1:aBcd{b}b]
      return(%y)
    }}""",
    "convolution of a bf16 image": """graph @k(%x: bf16[1,32,9,9:aBcd{b}b],
             %w: bf16[32,32,3,3:ABcd{b}b{b}a]) {{
      %f = cast(%x) {{to=f32}} : f32[1,32,9,9:aBcd{b}b]
      %v = cast(%w) {{to=f32}} : f32[32,32,3,3:ABcd{b}b{b}a]
      %y = conv(%f, %v) {{strides=[1,1],pads=[1,1,1,1],dilations=[1,1]}} : f32[1,32,9,9:aBcd{b}b]
      return(%y)
    }}""",
    "pointwise of a bf16 image": """graph @k(%w: bf16[32,32,1,1:ABcd{b}b{b}a],
             %x: bf16[1,32,8,14:aBcd{b}b]) {{
      %v = cast(%w) {{to=f32}} : f32[32,32,1,1:ABcd{b}b{b}a]
      %f = cast(%x) {{to=f32}} : f32[1,32,8,14:aBcd{b}b]
      %y = conv(%f, %v) {{strides=[1,1],pads=[0,0,0,0],dilations=[1,1]}} : f32[1,32,8,14:aBcd{b}b]
      return(%y)
    }}""",
    "depthwise": """graph @k(%x: bf16[1,32,9,9:aBcd{b}b], %w: f32[32,1,3,3:Abcd{b}a]) {{
      %f = cast(%x) {{to=f32}} : f32[1,32,9,9:aBcd{b}b]
      %y = conv(%f, %w) {{strides=[2,2],pads=[1,1,1,1],dilations=[1,1],group=32}} : f32[1,32,5,5:aBcd{b}b]
      return(%y)
    }}""",
    "transposed": """graph @k(%x: bf16[1,32,4,4:aBcd{b}b], %w: bf16[32,32,2,2:BAcd{b}a{b}b]) {{
      %f = cast(%x) {{to=f32}} : f32[1,32,4,4:aBcd{b}b]
      %v = cast(%w) {{to=f32}} : f32[32,32,2,2:BAcd{b}a{b}b]
      %y = conv_transpose(%f, %v) {{strides=[2,2],pads=[0,0,0,0],dilations=[1,1],output_padding=[0,0]}} : f32[1,32,8,8:aBcd{b}b]
      return(%y)
    }}""",
    "minimal filtering": """graph @k(%x: bf16[1,32,9,9:aBcd{b}b], %u: f32[36,32,32:aBc{b}b]) {{
      %f = cast(%x) {{to=f32}} : f32[1,32,9,9:aBcd{b}b]
      %y = conv_winograd(%f, %u) {{pads=[1,1,1,1]}} : f32[1,32,9,9:aBcd{b}b]
      return(%y)
    }}""",
    "pool": """graph @k(%x: bf16[1,32,8,8:aBcd{b}b]) {{
      %f = cast(%x) {{to=f32}} : f32[1,32,8,8:aBcd{b}b]
      %y = avg_pool(%f) {{kernel=[3,3],strides=[2,2],pads=[1,1,1,1],dilations=[1,1]}} : f32[1,32,4,4:aBcd{b}b]
      return(%y)
    }}""",
    "mean": """graph @k(%x: bf16[1,32,8,8:aBcd{b}b]) {{
      %f = cast(%x) {{to=f32}} : f32[1,32,8,8:aBcd{b}b]
      %y = reduce_mean(%f) {{axes=[2,3],keepdims=false}} : f32[1,32]
      return(%y)
    }}""",
    "layer norm": """graph @k(%x: bf16[5,40], %s: f32[40], %c: f32[40]) {{
      %f = cast(%x) {{to=f32}}
      %y = layer_norm(%f, %s, %c) {{axis=-1}}
      return(%y)
    }}""",
    "softmax": """graph @k(%x: bf16[5,40]) {{
      %f = cast(%x) {{to=f32}}
      %y = softmax(%f) {{axis=1}}
      return(%y)
    }}""",
    "attention": """graph @k(%q: bf16[2,9,16], %k: bf16[2,11,16], %v: bf16[2,11,16]) {{
      %a = cast(%q) {{to=f32}}
      %b = cast(%k) {{to=f32}}
      %c = cast(%v) {{to=f32}}
      %y = attention(%a, %b, %c) {{scale=0.25}}
      return(%y)
    }}""",
    "attention by rounded weights": """graph @k(%q: bf16[2,3,9,16], %k: bf16[2,1,37,16], %v: bf16[2,3,37,16]) {{
      %a = cast(%q) {{to=f32}}
      %b = cast(%k) {{to=f32}}
      %c = cast(%v) {{to=f32}}
      %y = attention(%a, %b, %c) {{scale=0.25,rounded=true}}
      return(%y)
    }}""",
    "rows of a table": """graph @k(%t: bf16[9,24], %i: i64[2,3]) {{
      %f = cast(%t) {{to=f32}}
      %y = gather(%f, %i)
      return(%y)
    }}""",
    "sum": """graph @k(%x: bf16[3,40], %z: f32[3,40]) {{
      %f = cast(%x) {{to=f32}}
      %y = add(%f, %z)
      return(%y)
    }}""",
}


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("case", READS)
def test_reads(case: str, name: str) -> None:
    """The sums are float32's, of the widened numbers."""
    check(READS[case].format(b=block(name)), name, tolerance=5e-6)


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("case", [
    dict(name="lstm_scan", gates=4, states=2, units=32, batch=2, state=True),
    dict(name="gru_scan", gates=3, states=1, units=16, batch=1, first=True),
], ids=lambda c: c["name"])  # fmt: skip
def test_recurrence(case: dict, name: str) -> None:
    b = block(name)
    head, _, rest = scan(**case, b=b).partition(") {\n")
    weights = next(p for p in head.split("%") if p.startswith("r: ")).strip(" ,")
    wide = weights.removeprefix("r: ")
    head = head.replace(f"%{weights}", f"%half: {wide.replace('f32', 'bf16')}")
    text = f"{head}) {{\n  %r = cast(%half) {{to=f32}} : {wide}\n{rest}"
    arrays = random_arrays(parse(text).main)
    arrays[1] = (arrays[1] / np.sqrt(case["units"])).astype(ml_dtypes.bfloat16)
    check(text, name, arrays=arrays)


ODD = np.array(
    [0, -0.0, np.inf, -np.inf, np.nan, 1, 1.00390625, 1.01171875, 1.0039062, 1.0039064, 3.3895e38,
     3.3895314e38, 3.4e38, -3.4e38, 1e-45, 9e-41, 1.4e-40, -5e-39, 65280, 0.1],
    np.float32,
)  # fmt: skip


@pytest.mark.parametrize("name", runnable())
def test_rounding(name: str) -> None:
    """To nearest even, as numpy's: halves, overflow, denormals, NaN; every mantissa's end."""
    bits = np.arange(0x3F800000, 0x3F820000, 3, dtype=np.uint32).view(np.float32)
    x = np.concatenate([ODD, bits, -bits])
    x = x[: len(x) // 16 * 16]
    text = f"""graph @k(%x: f32[{len(x)}]) {{
      %y = cast(%x) {{to=bf16}}
      return(%y)
    }}"""
    (got,) = stored(text, name, [x])
    want = x.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    finite = ~np.isnan(want)
    np.testing.assert_array_equal(got[finite].view(np.uint16), want[finite].view(np.uint16))


def stored(text: str, name: str, arrays: list) -> list[np.ndarray]:
    """A kernel's results of bfloat16, as they are in memory."""
    return [np.asarray(y).view(ml_dtypes.bfloat16) for y in run(parse(text).main, name, arrays)]


WRITES = {
    "product": """graph @k(%x: f32[40,32], %w: f32[32,48:Ba{b}b]) {{
      %a = matmul(%x, %w)
      %y = cast(%a) {{to=bf16}}
      return(%y)
    }}""",
    "convolution": """graph @k(%x: f32[1,32,6,6:aBcd{b}b], %w: f32[24,32,1,1:ABcd{b}b{b}a]) {{
      %a = conv(%x, %w) {{strides=[1,1],pads=[0,0,0,0],dilations=[1,1]}} : f32[1,24,6,6:aBcd{b}b]
      %r = relu(%a) : f32[1,24,6,6:aBcd{b}b]
      %y = cast(%r) {{to=bf16}} : bf16[1,24,6,6:aBcd{b}b]
      return(%y)
    }}""",
    "minimal filtering": """graph @k(%x: f32[1,32,9,9:aBcd{b}b], %u: f32[36,32,32:aBc{b}b]) {{
      %a = conv_winograd(%x, %u) {{pads=[1,1,1,1]}} : f32[1,32,9,9:aBcd{b}b]
      %y = cast(%a) {{to=bf16}} : bf16[1,32,9,9:aBcd{b}b]
      return(%y)
    }}""",
    "movement": """graph @k(%x: bf16[4,6,5]) {{
      %y = transpose(%x) {{perm=[2,0,1]}}
      return(%y)
    }}""",
}


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("case", WRITES)
def test_writes(case: str, name: str) -> None:
    """One unit of bfloat16 from numpy's at most: another order of a sum may round the other way."""
    from graphopt.ir.layout import unpack
    from tests.kernelcheck import evaluate

    text = WRITES[case].format(b=block(name))
    graph = parse(text).main
    arrays = random_arrays(graph)
    (want,), (got,) = evaluate(graph, arrays), stored(text, name, arrays)
    tensor = graph.outputs[0].tensor
    got = unpack(got, tensor.layout, tensor.static or ()).astype(np.float32)
    want = want.astype(np.float32)
    unit = np.maximum(2.0**-7 * np.abs(want), 1e-6)
    assert np.all(np.abs(got - want) <= unit)
    assert np.mean(got != want) < 0.02


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("pixels", [7, 64])
def test_parts_that_share_a_block(pixels: int, name: str) -> None:
    """LLVM 22 read the pixel before where an image has 2^k pixels."""
    tag = f"aBcd{block(name)}b"
    text = f"""graph @k(%x: f32[1,12,{pixels},{pixels}:{tag}], %y: bf16[1,12,{pixels},{pixels}:{tag}]) {{
      %w = cast(%y) {{to=f32}} : f32[1,12,{pixels},{pixels}:{tag}]
      %z = concat(%w, %x) {{axis=1}} : f32[1,24,{pixels},{pixels}:{tag}]
      return(%z)
    }}"""
    check(text, name, tolerance=0.0)
