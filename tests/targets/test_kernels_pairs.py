# pyright: basic
# Tables of cases of mixed types.
"""Kernels that multiply pairs of bfloat16, against numpy's float32 sums of the same numbers."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.ir.parser import parse
from graphopt.targets import machine
from graphopt.targets.tvm import build
from tests.kernelcheck import HOST, check, random_arrays
from tests.targets.test_kernels_amx import attention

ZEN4 = machine.load("znver4")
native = pytest.mark.skipif(not ZEN4.runs_on(HOST), reason="this CPU can't multiply bfloat16")
TOLERANCE = 2e-6  # of the largest result: both sum in float32, in other orders


def convolution(
    ins, outs, size, kernel=1, stride=1, pad=0, dilation=1, group=1, n=1, bias=True,
    tail="", dense=False,
) -> str:  # fmt: skip
    """A convolution of images, and what follows it: the name of a bfloat16 result is %r."""
    out = tuple((s + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 for s in size)
    letters = "cdef"[: len(size)]
    blocked, weights = f":aB{letters}16b", f":AB{letters}8b16a2b"
    dims = len(size)

    def listed(value: int, times: int) -> str:
        return ",".join([str(value)] * times)

    x = f"[{n},{ins * group},{','.join(map(str, size))}{blocked}]"
    w = f"[{outs},{ins},{listed(kernel, dims)}{weights}]"
    y = f"[{n},{outs},{','.join(map(str, out))}{'' if dense else blocked}]"
    given, used = (f", %b: f32[{outs}]", ", %b") if bias else ("", "")
    return f"""graph @k(%x: bf16{x}, %w: bf16{w}{given}, %z: f32{y}) {{
      %f = cast(%x) {{to=f32}} : f32{x}
      %v = cast(%w) {{to=f32}} : f32{w}
      %c = conv(%f, %v{used}) {{strides=[{listed(stride, dims)}],pads=[{listed(pad, 2 * dims)}],dilations=[{listed(dilation, dims)}],group={group}}} : f32{y}
      %s = add(%c, %z) : f32{y}
      return(%s)
    }}"""


def product(m, k, n, lead=(), gemm=False) -> str:
    """A product, and a sum."""
    rows = ",".join(map(str, (*lead, m)))
    weights = f"bf16[{n},{k}:AB16a2b]" if gemm else f"bf16[{k},{n}:BA16b2a]"
    wide = weights.removeprefix("bf16")
    how = "gemm(%f, %v, %c) {trans_b=true}" if gemm else "matmul(%f, %v)"
    after = "%s = gelu(%y)" if gemm else "%s = add(%y, %c)"
    return f"""graph @k(%x: bf16[{rows},{k}], %w: {weights}, %c: f32[{n}]) {{
      %f = cast(%x) {{to=f32}}
      %v = cast(%w) {{to=f32}} : f32{wide}
      %y = {how}
      {after}
      return(%s)
    }}"""


def code(text: str) -> str:
    """The machine code of a kernel."""
    lib = build.compile_module({"k": build.primfunc(parse(text).main, ZEN4, "k")}, ZEN4)
    return lib.inspect_source("s")


CONVS = [
    dict(ins=64, outs=64, size=(7, 7)),
    dict(ins=64, outs=64, size=(14, 14), kernel=3, pad=1),
    dict(ins=24, outs=40, size=(9, 13), n=2),
    dict(ins=17, outs=33, size=(6, 7), kernel=3, pad=1),
    dict(ins=32, outs=48, size=(11, 11), kernel=3, stride=2, pad=1, bias=False),
    dict(ins=32, outs=32, size=(12, 12), kernel=3, dilation=2, pad=2),
    dict(ins=16, outs=32, size=(8, 8), kernel=3, pad=1, group=2),
    dict(ins=48, outs=32, size=(30,), kernel=5, pad=2),
    dict(ins=16, outs=16, size=(4, 5, 6), kernel=3, pad=1),
    dict(ins=64, outs=64, size=(1, 1), n=3),
    dict(ins=32, outs=32, size=(5, 9), kernel=3, pad=1, dense=True),
]


@native
@pytest.mark.parametrize("case", CONVS, ids=str)
def test_convolution(case: dict) -> None:
    text = convolution(**case)
    check(text, "znver4", tolerance=TOLERANCE)


@native
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(1, 20),
       st.sampled_from([1, 2, 3, 5]), st.integers(1, 3), st.integers(0, 3))  # fmt: skip
def test_any_convolution(ins, outs, height, width, kernel, stride, pad) -> None:
    if min(height, width) + 2 * pad < kernel:
        return
    text = convolution(ins, outs, (height, width), kernel, stride, pad)
    check(text, "znver4", tolerance=TOLERANCE)


PRODUCTS = [
    dict(m=2, k=64, n=64),
    dict(m=197, k=192, n=80),
    dict(m=17, k=96, n=48, gemm=True),
    dict(m=5, k=34, n=10),
    dict(m=33, k=40, n=23, gemm=True),
    dict(m=7, k=64, n=17, lead=(2, 3)),
]


@native
@pytest.mark.parametrize("case", PRODUCTS, ids=str)
def test_product(case: dict) -> None:
    check(product(**case), "znver4", tolerance=TOLERANCE)


@pytest.mark.parametrize("text", [convolution(32, 32, (8, 8), 3, pad=1), product(32, 64, 32)])
def test_the_instruction_is_used(text: str) -> None:
    """And a number for all lanes is its operand in memory: no instruction of its own."""
    lines = code(text).splitlines()
    used = [line for line in lines if "vdpbf16ps" in line]
    assert used
    assert sum("{1to16}" in line for line in used) > len(used) // 2 or (
        sum("vpbroadcastd" in line for line in lines) < len(used)
    )


@native
def test_denormals_count_as_zero() -> None:
    """Their products are at most 2^-126 times the other factor: nothing beside ordinary results."""
    text = product(4, 32, 16)
    arrays = random_arrays(parse(text).main)
    arrays[0][:2] = ml_dtypes.bfloat16(9e-41)
    check(text, "znver4", arrays=arrays, tolerance=TOLERANCE)
    assert np.isfinite(arrays[0].astype(np.float32)).all()


ATTENTIONS = [
    dict(q=(2, 3, 37, 32), keys=37, width=32),
    dict(q=(3, 197, 64), keys=197, width=64),
    dict(q=(2, 16, 48), keys=71, width=80, scale=0.125),
    dict(q=(1, 2, 5, 20), keys=19, width=23, scale=0.3),
    dict(q=(2, 3, 20, 32), keys=40, width=32, mask="2,1,1,40", lead=((1, 3), (2, 1))),
]


@native
@pytest.mark.parametrize("case", ATTENTIONS, ids=str)
def test_attention(case: dict) -> None:
    """Weights that are rounded the other way at times: 2^-9 of the largest."""
    text = attention(**case)
    arrays = random_arrays(parse(text).main)
    arrays[0] = (arrays[0].astype(np.float32) / 4).astype(arrays[0].dtype)
    check(text, "znver4", arrays=arrays, tolerance=2.0**-9)
    assert "vdpbf16ps" in code(text)
