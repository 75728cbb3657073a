# pyright: basic
# Tables of cases of mixed types.
"""Convolution by minimal filtering: its kernel against its definition, and that against `conv`."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir.parser import parse
from graphopt.ops.nn import Conv
from graphopt.ops.winograd import ConvWinograd, transformed
from tests.kernelcheck import block, check, random_arrays, runnable

CASES = [
    dict(ins=32, outs=48, size=(16, 16), pads=(1, 1, 1, 1), epilogue="residual"),
    dict(ins=16, outs=16, size=(7, 9), pads=(1, 1, 1, 1), epilogue="relu"),
    dict(ins=16, outs=32, size=(11, 6), pads=(0, 0, 0, 0), n=2, epilogue="none"),
    dict(ins=48, outs=16, size=(13, 30), pads=(1, 0, 2, 1), epilogue="residual"),
    dict(ins=64, outs=64, size=(28, 28), pads=(1, 1, 1, 1), epilogue="relu"),
    dict(ins=24, outs=12, size=(31, 40), pads=(1, 1, 1, 1), epilogue="residual"),  # turns, and rest
    dict(ins=12, outs=40, size=(9, 9), pads=(1, 1, 1, 1), epilogue="none"),
]
EPILOGUES = {"none": ("", "%c"), "relu": ("%y = relu(%c) : {t}", "%y"),
             "residual": ("%s = add(%c, %r) : {t}\n%y = relu(%s) : {t}", "%y")}  # fmt: skip


def text(ins, outs, size, pads, epilogue, b, n=1) -> str:
    out = (size[0] + pads[0] + pads[2] - 2, size[1] + pads[1] + pads[3] - 2)
    t = f"f32[{n},{outs},{out[0]},{out[1]}:aBcd{b}b]"
    ops, last = EPILOGUES[epilogue]
    return f"""graph @k(%x: f32[{n},{ins},{size[0]},{size[1]}:aBcd{b}b],
             %u: f32[36,{outs},{ins}:aBc{b}b], %b: f32[{outs}], %r: {t}) {{
      %c = conv_winograd(%x, %u, %b) {{pads=[{",".join(map(str, pads))}]}} : {t}
      {ops.format(t=t)}
      return({last})
    }}"""


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c.values())))
def test_kernel(case: dict, name: str) -> None:
    """Filters as transforms of real ones; the transforms' cancellations lose some five bits."""
    source = text(**case, b=block(name))
    arrays = random_arrays(parse(source).main)
    arrays[1] = transformed(arrays[1][:9].transpose(1, 2, 0).reshape(*arrays[1].shape[1:], 3, 3))
    check(source, name, arrays=arrays, tolerance=2e-5)


def test_it_is_the_convolution() -> None:
    """In float64, up to the rounding of the filters to float32."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 16, 13, 10)).astype(np.float32)
    w, b = (rng.standard_normal(s).astype(np.float32) for s in ((32, 16, 3, 3), 32))
    want = Conv((1, 1), (1, 0, 1, 2), (1, 1)).evaluate(x, w, b)[0]
    got = ConvWinograd((1, 0, 1, 2)).evaluate(x, transformed(w), b)[0]
    assert np.abs(got - want).max() < 3e-6 * np.abs(want).max()
