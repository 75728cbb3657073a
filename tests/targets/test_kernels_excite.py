# pyright: basic
# Tables of cases of mixed types.
"""Squeeze and excitation: the kernel against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir.parser import parse
from tests.kernelcheck import block, check, random_arrays, runnable


def text(
    x: tuple[int, ...], squeezed: int, name: str, *, blocked: bool, packed: bool, bias: bool, functions: str
) -> str:
    """A kernel as lowering prints it (`blocked` and `packed`), or with dense operands."""
    b, ones, channels = block(name), ",1" * (len(x) - 2), x[1]
    letters = "cdef"[: len(x) - 2]
    tag, w = f":aB{letters}{b}b" if blocked else "", f":Ab{letters}{b}a" if packed else ""
    biases = "".join(f", %b{i}: f32[{n}{f':A{b}a' if packed and n % b else ''}]"
                     for i, n in ((1, squeezed), (2, channels)))  # fmt: skip
    return f"""graph @k(%x: f32[{','.join(map(str, x))}{tag}], %w1: f32[{squeezed},{channels}{ones}{w}],
             %w2: f32[{channels},{squeezed}{ones}{w}]{biases if bias else ''}) {{
      %y = squeeze_excite(%x, %w1, %w2{', %b1, %b2' if bias else ''}) {{{functions}}}
           : f32[{x[0]},{channels}{ones}{tag}]
      return(%y) }}"""


def compare(source: str, name: str) -> None:
    """With weights that keep the sums near 1, so that a sigmoid shows their errors."""
    arrays = random_arrays(parse(source).main)
    for i in (1, 2):
        arrays[i] = (arrays[i] / math.sqrt(arrays[i].shape[1])).astype(np.float32)
    check(source, name, arrays=arrays)


SHAPES = [
    ((1, 96, 7, 5), 4), ((2, 72, 3, 3), 24), ((1, 17, 4, 4), 5), ((1, 960, 7, 7), 240),
    ((3, 32, 1, 1), 8), ((1, 40, 50), 10), ((2, 16, 3, 2, 4), 16), ((1, 24, 11, 13), 1),
]  # fmt: skip


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize(("x", "squeezed"), SHAPES)
def test_shapes(x: tuple[int, ...], squeezed: int, name: str) -> None:
    functions = 'activation=silu,gate="hard_sigmoid{alpha=0.16666667}"'
    compare(text(x, squeezed, name, blocked=True, packed=True, bias=True, functions=functions), name)


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 12), st.integers(1, 12)),
    st.integers(1, 40),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.sampled_from(["", "activation=hard_swish", 'activation="clip{lo=0.0,hi=6.0}",gate="clip{lo=0.0,hi=1.0}"']),
    st.sampled_from(runnable()),
)
@settings(max_examples=25, deadline=None)
def test_any_shape(
    x: tuple[int, ...], squeezed: int, how: tuple[bool, bool, bool], functions: str, name: str
) -> None:
    blocked, packed, bias = how
    compare(text(x, squeezed, name, blocked=blocked, packed=packed, bias=bias, functions=functions), name)


@pytest.mark.parametrize("name", runnable())
def test_epilogue_and_other_layouts(name: str) -> None:
    b = block(name)
    compare(f"""graph @k(%x: f32[1,40,6,6:aBcd{b}b], %w1: f32[12,40,1,1:Abcd{b}a], %w2: f32[40,12,1,1:Abcd{b}a],
             %s: f32[1,40,1,1:aBcd{b}b]) {{
      %g = squeeze_excite(%x, %w1, %w2) : f32[1,40,1,1:aBcd{b}b]
      %y = mul(%g, %s) : f32[1,40,1,1:aBcd{b}b]
      return(%y) }}""", name)
    compare(f"""graph @k(%x: f32[1,32,6,6:aBcd{b}b], %w1: f32[8,32,1,1], %w2: f32[32,8,1,1]) {{
      %y = squeeze_excite(%x, %w1, %w2) : f32[1,32,1,1]
      return(%y) }}""", name)
