# pyright: basic
# Tables of cases of mixed types.
"""Convolutions, pools and products: kernels against numpy, in many shapes, layouts, machines."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernelcheck import block, check, runnable

EPILOGUES = {
    "none": ("", "%c"),
    "relu": ("%y = relu(%c) : {t}", "%y"),
    "clip": ("%y = clip(%c) {{lo=0.0,hi=6.0}} : {t}", "%y"),
    "residual": ("%s = add(%c, %r) : {t}\n%y = relu(%s) : {t}", "%y"),
    "silu": ("%y = silu(%c) : {t}", "%y"),
    "scale": ("%k = const dense [0.5] : f32[1]\n%s = mul(%c, %k) : {t}\n%y = hard_swish(%s) : {t}", "%y"),
}


def conv(ins, outs, size, kernel, *, stride=1, pad=0, dilation=1, group=1, n=1, tag=True,
         epilogue="relu", b=16, kind="conv", more=0):  # fmt: skip
    """The text of a 2-D convolution region with bias and epilogue."""
    deep = ins // group >= b and tag
    wide = group > 1 and group == ins == outs
    packed = group in (1, ins) or not (deep and outs // group % b == 0 and ins // group % b == 0)
    deep = deep and (group in (1, ins) or not packed)
    if kind == "conv":
        out = tuple((s + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 for s in size)
        wshape, wtag = f"{outs},{ins // group}", f"ABcd{b}b{b}a" if deep and not wide else f"Abcd{b}a"
        extra = ""
    else:
        out = tuple((s - 1) * stride + more + (kernel - 1) * dilation + 1 - 2 * pad for s in size)
        wshape, wtag = f"{ins},{outs // group}", f"BAcd{b}a{b}b"
        extra = f",output_padding=[{more},{more}]"
        deep = True
    layout = f":aBcd{b}b" if tag else ""
    xt = f"f32[{n},{ins},{size[0]},{size[1]}{layout if deep or wide or group > 1 else ''}]"
    t = f"f32[{n},{outs},{out[0]},{out[1]}{layout}]"
    ops, last = EPILOGUES[epilogue]
    bias = f"f32[{outs}{f':A{b}a' if tag and outs % b else ''}]"
    return f"""graph @k(%x: {xt}, %w: f32[{wshape},{kernel},{kernel}{':' + wtag if tag and packed else ''}],
             %b: {bias}, %r: {t}) {{
      %c = {kind}(%x, %w, %b) {{strides=[{stride},{stride}],pads=[{pad},{pad},{pad},{pad}],
                                dilations=[{dilation},{dilation}],group={group}{extra}}} : {t}
      {ops.format(t=t)}
      return({last})
    }}"""


CONVS = [
    dict(ins=32, outs=32, size=(14, 14), kernel=3, pad=1, epilogue="residual"),
    dict(ins=16, outs=64, size=(9, 11), kernel=1, epilogue="none"),
    dict(ins=64, outs=128, size=(8, 8), kernel=1, stride=2, epilogue="clip"),
    dict(ins=3, outs=32, size=(33, 31), kernel=3, stride=2, pad=1, epilogue="clip"),
    dict(ins=1, outs=16, size=(12, 10), kernel=5, pad=2, epilogue="silu"),
    dict(ins=20, outs=24, size=(7, 13), kernel=3, pad=1, epilogue="residual"),
    dict(ins=24, outs=7, size=(5, 5), kernel=3, pad=2, dilation=2, epilogue="scale"),
    dict(ins=32, outs=48, size=(17, 17), kernel=3, n=2, epilogue="none"),
    dict(ins=16, outs=16, size=(1, 1), kernel=1, epilogue="silu"),
    dict(ins=32, outs=64, size=(6, 6), kernel=3, pad=1, group=2, epilogue="relu"),
    dict(ins=136, outs=136, size=(7, 9), kernel=1, group=4, epilogue="residual"),
    dict(ins=24, outs=112, size=(6, 6), kernel=1, group=4, epilogue="relu", n=2),
    dict(ins=60, outs=44, size=(9, 5), kernel=3, pad=1, group=4, epilogue="silu"),
    dict(ins=64, outs=64, size=(8, 8), kernel=3, pad=2, dilation=2, group=16, epilogue="relu"),
    dict(ins=96, outs=48, size=(7, 7), kernel=3, stride=2, pad=1, group=2, epilogue="none"),
    dict(ins=40, outs=33, size=(6, 6), kernel=3, pad=1, tag=False, epilogue="relu"),
    dict(ins=8, outs=12, size=(9, 9), kernel=3, pad=1, group=2, tag=False),
    dict(ins=8, outs=16, size=(9, 9), kernel=3, stride=2, group=8, tag=False),
    dict(ins=32, outs=32, size=(14, 14), kernel=3, pad=1, group=32, epilogue="clip"),
    dict(ins=20, outs=20, size=(11, 9), kernel=5, pad=2, stride=2, group=20, epilogue="residual"),
    dict(ins=24, outs=24, size=(30, 5), kernel=3, pad=2, dilation=2, group=24, tag=False),
    dict(ins=16, outs=32, size=(7, 7), kernel=2, stride=2, kind="conv_transpose"),
    dict(ins=20, outs=24, size=(5, 6), kernel=3, stride=2, pad=1, more=1, kind="conv_transpose"),
    dict(ins=8, outs=12, size=(5, 5), kernel=4, stride=2, pad=1, group=2, tag=False, kind="conv_transpose"),
    dict(ins=16, outs=16, size=(5, 5), kernel=3, pad=1, dilation=2, tag=False, kind="conv_transpose"),
    dict(ins=32, outs=12, size=(9, 8), kernel=2, stride=2, kind="conv_transpose", epilogue="residual"),
    dict(ins=24, outs=32, size=(4, 7), kernel=4, stride=2, pad=1, kind="conv_transpose", n=2),
    dict(ins=16, outs=16, size=(5, 6), kernel=5, stride=3, pad=2, more=1, kind="conv_transpose"),
    dict(ins=5, outs=16, size=(6, 6), kernel=3, kind="conv_transpose", pad=1, tag=False),
    # Images whose padded copies leave the second cache together: one after another.
    dict(ins=32, outs=20, size=(80, 80), kernel=3, stride=2, pad=1, n=3, epilogue="residual"),
    dict(ins=3, outs=16, size=(240, 240), kernel=3, stride=2, pad=1, n=3),
    dict(ins=64, outs=48, size=(60, 60), kernel=3, stride=2, pad=1, group=2, n=3),
]  # fmt: skip


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("case", CONVS, ids=lambda c: "-".join(map(str, c.values())))
def test_convolution(case: dict, name: str) -> None:
    check(conv(**case, b=block(name)), name)


@pytest.mark.parametrize("name", runnable())
def test_a_grouped_convolution_reads_through_a_channel_shuffle(name: str) -> None:
    tag = f"aBcd{block(name)}b"
    check(f"""graph @k(%x: f32[1,40,7,5:{tag}], %w: f32[28,10,1,1:Abcd{block(name)}a]) {{
      %a = reorder(%x) : f32[1,40,7,5]
      %b = reshape(%a) {{shape=[1,8,5,7,5]}} : f32[1,8,5,7,5]
      %c = transpose(%b) {{perm=[0,2,1,3,4]}} : f32[1,5,8,7,5]
      %d = reshape(%c) {{shape=[1,40,7,5]}} : f32[1,40,7,5]
      %e = reorder(%d) : f32[1,40,7,5:{tag}]
      %f = conv(%e, %w) {{strides=[1,1],pads=[0,0,0,0],dilations=[1,1],group=4}}
           : f32[1,28,7,5:{tag}]
      return(%f)
    }}""", name)


def test_convolutions_of_one_and_three_axes() -> None:
    check("""graph @k(%x: f32[1,16,40:aBc16b], %w: f32[32,16,3:ABc16b16a]) {
      %y = conv(%x, %w) {strides=[2],pads=[1,1],dilations=[1]} : f32[1,32,20:aBc16b]
      return(%y) }""")
    check("""graph @k(%x: f32[1,16,5,6,7:aBcde16b], %w: f32[16,16,3,3,3:ABcde16b16a]) {
      %y = conv(%x, %w) {strides=[1,1,1],pads=[1,1,1,1,1,1],dilations=[1,1,1]}
           : f32[1,16,5,6,7:aBcde16b]
      return(%y) }""")


POOLS = [
    ("max_pool", 20, (13, 11), 3, 2, 1, ""),
    ("max_pool", 16, (8, 8), 2, 2, 0, ""),
    ("avg_pool", 16, (8, 9), 3, 1, 1, ""),
    ("avg_pool", 24, (8, 8), 3, 2, 1, ",count_include_pad=true"),
    ("avg_pool", 32, (7, 7), 7, 1, 0, ""),
    ("avg_pool", 16, (6, 6), 7, 1, 1, ""),
]


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("tags", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("case", POOLS, ids=str)
def test_pool(case: tuple, tags: tuple[bool, bool], name: str) -> None:
    kind, c, size, k, s, p, extra = case
    read, written = (f":aBcd{block(name)}b" if tag else "" for tag in tags)
    out = [(d + 2 * p - k) // s + 1 for d in size]
    check(f"""graph @k(%x: f32[2,{c},{size[0]},{size[1]}{read}]) {{
      %y = {kind}(%x) {{kernel=[{k},{k}],strides=[{s},{s}],pads=[{p},{p},{p},{p}],dilations=[1,1]{extra}}}
           : f32[2,{c},{out[0]},{out[1]}{written}]
      return(%y) }}""", name)


GEMMS = [(1, 100, 64, True, True), (5, 10, 33, False, True), (17, 33, 20, True, False),
         (40, 48, 70, False, False)]  # fmt: skip


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("case", GEMMS, ids=str)
def test_gemm(case: tuple, name: str) -> None:
    m, n, k, transposed, packed = case
    b = block(name)
    tag = f":{f'Ab{b}a' if transposed else f'Ba{b}b'}" if packed else ""
    shape = f"{n},{k}" if transposed else f"{k},{n}"
    check(f"""graph @k(%a: f32[{m},{k}], %b: f32[{shape}{tag}], %c: f32[{n}]) {{
      %g = gemm(%a, %b, %c) {{trans_b={str(transposed).lower()},alpha=0.5}} : f32[{m},{n}]
      %y = gelu(%g) : f32[{m},{n}]
      return(%y) }}""", name)


@pytest.mark.parametrize(("a", "b", "y"), [
    ("4,8", "8,6", "4,6"), ("2,3,4,8", "8,6", "2,3,4,6"), ("2,3,17,8", "2,3,8,20", "2,3,17,20"),
    ("8", "8,6", "6"), ("5,8", "8", "5"), ("2,1,4,8", "3,8,6", "2,3,4,6"), ("8", "8", ""),
    ("2,4,8", "8", "2,4"), ("3,4,8", "2,1,8,5", "2,3,4,5"), ("1,1,4,8", "1,1,8,6", "1,1,4,6"),
    ("1,2,4,8", "1,1,8,6", "1,2,4,6"), ("6,8", "2,3,8,5", "2,3,6,5"),
])  # fmt: skip
def test_matmul_as_numpy_broadcasts(a: str, b: str, y: str) -> None:
    check(f"""graph @k(%a: f32[{a}], %b: f32[{b}]) {{
      %m = matmul(%a, %b) : f32[{y}]
      %y = tanh(%m) : f32[{y}]
      return(%y) }}""")


def test_transposed_left_operand() -> None:
    check("""graph @k(%a: f32[20,9], %b: f32[20,17], %c: f32[9,1]) {
      %y = gemm(%a, %b, %c) {trans_a=true,beta=2.0} : f32[9,17]
      return(%y) }""")


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize(("q", "k", "v", "mask"), [
    ("2,3,17,8", "2,3,20,8", "2,3,20,12", ""), ("2,3,17,8", "1,3,20,8", "2,1,20,12", "17,20"),
    ("50,64", "50,64", "50,64", "50,50"),
])  # fmt: skip
def test_attention(q: str, k: str, v: str, mask: str, name: str) -> None:
    shape = f"{q.rpartition(',')[0]},{v.rpartition(',')[2]}"
    extra, use = (f", %m: f32[{mask}]", ", %m") if mask else ("", "")
    check(f"""graph @k(%q: f32[{q}], %k: f32[{k}], %v: f32[{v}]{extra}) {{
      %y = attention(%q, %k, %v{use}) {{scale=0.125}} : f32[{shape}]
      return(%y) }}""", name)


@pytest.mark.parametrize("name", runnable())
def test_attention_to_nothing_but_what_a_mask_leaves(name: str) -> None:
    """A mask of -inf leaves weights of exactly 0, whatever v holds there."""
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((2, 19, 16)).astype(np.float32) for _ in range(3))
    mask = np.triu(np.full((19, 19), -np.inf, np.float32), 1)
    check("""graph @k(%q: f32[2,19,16], %k: f32[2,19,16], %v: f32[2,19,16], %m: f32[19,19]) {
      %y = attention(%q, %k, %v, %m) {scale=0.25} : f32[2,19,16]
      return(%y) }""", name, arrays=[q, k, v, mask])
