# pyright: basic
# Tables of cases of mixed types.
"""Integer kernels against numpy: every bit, in many shapes, layouts, machines."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir.parser import parse
from graphopt.targets.tvm import build
from tests.kernelcheck import block, check, runnable

CONVS = [
    dict(ins=32, outs=32, size=(14, 14), kernel=3, pad=1),
    dict(ins=64, outs=48, size=(7, 9), kernel=1),
    dict(ins=16, outs=64, size=(8, 8), kernel=1, stride=2, n=2),
    dict(ins=3, outs=32, size=(33, 31), kernel=3, stride=2, pad=1),
    dict(ins=1, outs=16, size=(12, 10), kernel=5, pad=2),
    dict(ins=20, outs=24, size=(7, 13), kernel=3, pad=1),
    dict(ins=24, outs=7, size=(5, 5), kernel=3, pad=2, dilation=2),
    dict(ins=32, outs=64, size=(6, 6), kernel=3, pad=1, group=2),
    dict(ins=32, outs=32, size=(14, 14), kernel=3, pad=1, group=32),
    dict(ins=20, outs=20, size=(11, 9), kernel=5, pad=2, stride=2, group=20),
    dict(ins=12, outs=8, size=(6, 7), kernel=3, pad=1, group=2, dense=True),
    dict(ins=10, outs=8, size=(6, 7), kernel=3, pad=1, dense=True, dtype="i8"),
    dict(ins=32, outs=16, size=(150, 150), kernel=3, stride=2, pad=1, n=3),  # image by image
]


def conv(ins, outs, size, kernel, *, b, stride=1, pad=0, dilation=1, group=1, n=1, dense=False,
         dtype="u8"):  # fmt: skip
    """A convolution, its bias, and its requantization by channel to u8."""
    out = tuple((s + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 for s in size)
    x = f"aBcd{b}b" if ins // group > 4 or group > 1 else "aBcd4b"
    w = f"AbcD{b}a4d" if group == ins > 1 else f"ABcd{b // 4}b{b}a4b" if ins // group > 4 else f"ABcd{b}a4b"
    tag = {"x": ":" + x, "w": ":" + w, "y": f":aBcd{b}b"} if not dense else dict.fromkeys("xwy", "")
    vector = f":A{b}a" if outs % b and not dense else ""
    bias = f":Abc{b}a" if outs % b and not dense else ""
    shape = f"{n},{outs},{out[0]},{out[1]}{tag['y']}"
    value = 0 if dtype == "i8" else 119
    return f"""graph @k(%x: {dtype}[{n},{ins},{size[0]},{size[1]}{tag['x']}],
             %w: i8[{outs},{ins // group},{kernel},{kernel}{tag['w']}],
             %b: i32[{outs},1,1{bias}], %s: f32[{outs}{vector}], %z: u8[]) {{
      %c = conv_integer(%x, %w) {{strides=[{stride},{stride}],pads=[{pad},{pad},{pad},{pad}],
        dilations=[{dilation},{dilation}],group={group},pad_value={value}}} : i32[{shape}]
      %d = add(%c, %b) : i32[{shape}]
      %q = requantize(%d, %s, %z) {{dtype=u8,axis=1}} : u8[{shape}]
      return(%q)
    }}"""


def numbers(text: str, seed: int = 0) -> list[np.ndarray]:
    """Integers over their whole range; scales that spread the sums over the result's range."""
    rng = np.random.default_rng(seed)
    found = []
    for a in parse(text).main.args:
        shape, dtype = a.tensor.static, a.tensor.dtype.numpy
        if dtype.kind == "f":
            found.append(np.exp(rng.uniform(-12, -6, shape)).astype(np.float32))
        elif dtype.itemsize == 4:
            found.append(rng.integers(-50000, 50000, shape).astype(dtype))
        else:
            info = np.iinfo(dtype)
            found.append(np.asarray(rng.integers(info.min, info.max + 1, shape)).astype(dtype))
    return found


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("case", CONVS, ids=lambda c: "-".join(map(str, c.values())))
def test_convolution(case: dict, name: str) -> None:
    text = conv(**case, b=block(name))
    check(text, name, arrays=numbers(text))


def test_depthwise_kernels_are_a_family_of_their_own() -> None:
    """Prices learn by family, and depthwise kernels reach a fraction of what dense ones do."""
    dense, each = (parse(conv(32, 32, (8, 8), 3, b=16, pad=1, group=g)).main for g in (1, 32))
    assert [build.graph_family(g) for g in (dense, each)] == ["conv_integer", "depthwise_integer"]


@pytest.mark.parametrize("name", runnable())
def test_sums_do_not_saturate(name: str) -> None:
    """255 * -128 four times over is what saturating instruction pairs get wrong."""
    text = conv(64, 16, (4, 4), 1, b=block(name))
    arrays = numbers(text)
    arrays[0][:], arrays[1][:] = 255, -128
    check(text, name, arrays=arrays)


PRODUCTS = [
    ((49, 64), (64, 128), True),
    ((1, 256), (256, 10), True),
    ((2, 7, 30), (30, 48), True),
    ((3, 5, 5, 8), (8, 17), True),
    ((64,), (64, 32), True),
    ((6, 10), (10, 5), False),
    ((2, 3, 4, 8), (2, 3, 8, 6), False),
]


def product(a, b, packed: bool, lanes: int) -> str:
    """A product, and its dequantization with one scale."""
    t = f"[{','.join(map(str, np.matmul(np.zeros(a), np.zeros(b)).shape))}]"
    tag = f":BA{lanes}b4a" if packed else ""
    left, right = (",".join(map(str, s)) for s in (a, b))
    return f"""graph @k(%a: u8[{left}], %b: i8[{right}{tag}], %s: f32[]) {{
      %c = matmul_integer(%a, %b) : i32{t}
      %y = dequantize(%c, %s) {{axis=-1}} : f32{t}
      return(%y)
    }}"""


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize(("a", "b", "packed"), PRODUCTS, ids=str)
def test_product(a, b, packed: bool, name: str) -> None:
    text = product(a, b, packed, block(name))
    check(text, name, arrays=numbers(text), tolerance=0)


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("dtype", ["u8", "i8"])
def test_largest_of_windows(dtype: str, name: str) -> None:
    b = block(name)
    for tag in (f":aBcd{b}b", ""):
        text = f"""graph @k(%x: {dtype}[1,20,9,9{tag}]) {{
          %y = max_pool(%x) {{kernel=[3,3],strides=[2,2],pads=[1,1,1,1],dilations=[1,1]}}
               : {dtype}[1,20,5,5{tag}]
          return(%y)
        }}"""
        check(text, name, arrays=numbers(text))


@pytest.mark.parametrize("name", runnable())
def test_residual_in_floats_between_integers(name: str) -> None:
    """quantize(relu(dequantize(a) + dequantize(b))), not contracted into a fused multiply-add."""
    t = f"[1,24,5,7:aBcd{block(name)}b]"
    text = f"""graph @k(%a: u8{t}, %b: u8{t}, %s: f32[], %z: u8[], %t: f32[], %o: u8[]) {{
      %af = dequantize(%a, %s, %z) : f32{t}
      %bf = dequantize(%b, %t, %o) : f32{t}
      %c = add(%af, %bf) : f32{t}
      %r = relu(%c) : f32{t}
      %q = quantize(%r, %t, %z) {{dtype=u8}} : u8{t}
      return(%q, %c)
    }}"""
    arrays = numbers(text)
    arrays[2], arrays[4] = np.array(0.0237, np.float32), np.array(0.0113, np.float32)
    check(text, name, arrays=arrays, tolerance=0)


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("shape", ["4,64", "3,5,7", "1,24,5,7:aBcd{}b", "2,32,3,3:aBcd{}b", "9", ""])
@pytest.mark.parametrize(("x", "y"), [("u8", "u8"), ("i8", "u8"), ("u8", "i8")])
def test_bytes_looked_up(x: str, y: str, shape: str, name: str) -> None:
    """All 256, in whatever width the kernel is."""
    t = f"[{shape.format(block(name))}]"
    text = f"""graph @k(%x: {x}{t}, %t: {y}[256]) {{
      %y = lookup(%x, %t) : {y}{t}
      return(%y)
    }}"""
    check(text, name, arrays=numbers(text))


@pytest.mark.parametrize("name", runnable())
def test_table_after_requantization(name: str) -> None:
    b = block(name)
    text = f"""graph @k(%a: u8[9,32], %b: i8[32,48:BA{b}b4a], %s: f32[], %z: u8[], %t: u8[256]) {{
      %c = matmul_integer(%a, %b) : i32[9,48]
      %q = requantize(%c, %s, %z) {{dtype=u8,axis=1}} : u8[9,48]
      %y = lookup(%q, %t) : u8[9,48]
      return(%y)
    }}"""
    check(text, name, arrays=numbers(text))


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("shape", ["3,197,192", "1,24,5,7:aBcd{}b", "1,3,9,11", "7", "1", ""])
def test_quantization_by_the_range(shape: str, name: str) -> None:
    """The range of what is negative, positive, both, or zero."""
    tag = shape.format(block(name))
    text = f"""graph @k(%x: f32[{tag}]) {{
      %q, %s, %z = dynamic_quantize(%x) : u8[{tag}], f32[], u8[]
      return(%q, %s, %z)
    }}"""
    (x,) = numbers(text)
    noise = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    for array in (noise, np.abs(noise), -np.abs(noise) - 3, 0 * noise, noise * 1e-20):
        check(text, name, arrays=[np.asarray(array, np.float32)], tolerance=0)


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("case", [CONVS[0], CONVS[3], CONVS[7], CONVS[9], CONVS[10]],
                         ids=lambda c: "-".join(map(str, c.values())))  # fmt: skip
def test_padding_known_as_the_model_runs(case: dict, name: str) -> None:
    text = conv(**case, b=block(name))
    text = text.replace("%z: u8[])", "%z: u8[], %p: u8[])").replace("(%x, %w)", "(%x, %w, %p)")
    check(text, name, arrays=numbers(text))


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("exponent", [-140, -100, -61, -20, -6, 0, 40, 61, 110, 126])
def test_quotients_near_the_middle_of_two_integers(exponent: int, name: str) -> None:
    """x / scale is rounded once, to a float32, before it is rounded to an integer."""
    rng = np.random.default_rng(exponent + 200)
    text = """graph @k(%x: f32[32,1024], %s: f32[], %z: u8[]) {
      %q = quantize(%x, %s, %z) {dtype=u8} : u8[32,1024]
      return(%q)
    }"""
    for scale in (rng.uniform(1, 2, 2) * 2.0**exponent).astype(np.float32):
        middles = (rng.integers(-300, 300, (32, 1024)) + 0.5) * np.float64(scale)
        x = np.clip(middles, -3e38, 3e38).astype(np.float32)
        for _ in range(2):  # the nearest floats, too
            x = np.where(rng.integers(0, 2, x.shape), np.nextafter(x, np.float32(0)), x)
        x[0, :4] = np.inf, -np.inf, 0, 3e38
        check(text, name, arrays=[x, np.asarray(scale), np.asarray(17, np.uint8)], tolerance=0)
