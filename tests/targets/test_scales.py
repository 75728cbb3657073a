# pyright: basic
# Tables of cases of mixed types.
"""What constant scales let kernels leave out: the integers are those of the definition, always."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir.parser import parse
from graphopt.ir.types import Array, DType
from graphopt.ops.inverse import QuantizeByInverse, fused, inverses
from graphopt.ops.quant import Quantize
from graphopt.pipeline import Context
from graphopt.targets import machine
from graphopt.targets.x86 import X86
from tests import kernelcheck
from tests.targets.test_kernels_integer import CONVS, conv, numbers

NASTY = [
    1.0, 0.5, 2.0**-60, 2.0**60, 1.9999999, 1.0000001, 0.99999994, 1 / 3, 1 / 255, 0.1, 6.0,
    0.007843138, 0.003921569, 3.4e-8, 1.1754944e-17, 5e16, 0.023529412, 1.3333334,
]  # fmt: skip
FUSING = [m for m in kernelcheck.runnable() if machine.load(m).fma]


def scales(count: int, seed: int) -> Array:
    """Scales of all magnitudes that are looked at, and those that are hard to divide by."""
    rng = np.random.default_rng(seed)
    usual = np.exp2(rng.uniform(-14, 4, count)) * rng.uniform(1, 2, count)
    wide = np.exp2(rng.uniform(-63, 62, count // 4))
    return np.concatenate([NASTY, usual, wide]).astype(np.float32)


def places(scale: Array, most: int) -> Array:
    """Floats around each place where an integer changes, of both signs, and odd ones."""
    n = np.arange(-1, most + 2)[:, None] + 0.5
    middle = (n * np.float64(scale)).astype(np.float32)
    near = (np.abs(middle).view(np.int32) + np.arange(-4, 5, dtype=np.int32)).view(np.float32)
    rng = np.random.default_rng(int(scale.view(np.int32)))
    bits = rng.integers(0, 2**32, 4096, np.uint64).astype(np.uint32).view(np.float32)
    odd = [0.0, 1e-45, 1e-38, 3.4028235e38, np.inf, np.nan]
    every = np.concatenate([near.ravel(), bits, np.asarray(odd, np.float32)])
    return np.concatenate([every, -every])


@pytest.mark.parametrize("dtype", [DType.u8, DType.i8, DType.u16])
def test_products_give_the_integers_of_the_division(dtype: DType) -> None:
    """For every scale that is taken, around all places where an integer changes."""
    taken, most = 0, np.iinfo(dtype.numpy).max - np.iinfo(dtype.numpy).min
    every = scales(400 if dtype.bits == 8 else 8, 1)
    for i, scale in enumerate(every):
        found = inverses(scale.reshape(()), dtype)
        if found is None:
            continue
        taken += 1
        x, zero = places(scale, most), np.asarray(i % 200 - 100 * (dtype is DType.i8), dtype.numpy)
        (want,) = Quantize(dtype).evaluate(x, scale.reshape(()), zero)
        (got,) = QuantizeByInverse(dtype).evaluate(x, *found, zero)
        np.testing.assert_array_equal(got, want, str(scale))
    assert taken >= 0.9 * len(every)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0x25000000, 0x59000000), min_size=1, max_size=5),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40),
)
def test_any_float_by_any_scales_of_channels(bits: list[int], floats: list[int]) -> None:
    """Scales and numbers are any bits of float32."""
    scale = np.asarray(bits, np.int32).view(np.float32)
    found = inverses(scale, DType.u8)
    x = np.repeat(np.asarray(floats, np.uint32).view(np.float32)[:, None], len(scale), 1)
    if found is None:
        return
    zero = np.full(scale.shape, 7, np.uint8)
    (want,) = Quantize(DType.u8).evaluate(x, scale, zero)
    np.testing.assert_array_equal(QuantizeByInverse(DType.u8).evaluate(x, *found, zero)[0], want)


def test_one_product_would_not_do() -> None:
    """By the nearest inverse alone some float becomes another integer, for nearly all scales."""
    wrong = 0
    for scale in scales(40, 2)[len(NASTY) :]:
        x = places(scale, 255)
        (want,) = Quantize(DType.u8).evaluate(x, scale.reshape(()), None)
        inverse = (1 / scale.astype(np.float64)).astype(np.float32)
        one = QuantizeByInverse(DType.u8).evaluate(x, inverse, np.zeros((), np.float32), None)
        finite = np.isfinite(x)
        wrong += bool((one[0] != want)[finite].any())
    assert wrong > 40


@pytest.mark.parametrize("scale", [0.0, -0.5, np.inf, np.nan, 1e-30, 1e30, 1e-40])
def test_scales_that_are_left_to_the_division(scale: float) -> None:
    assert inverses(np.asarray([0.5, scale], np.float32), DType.u8) is None


def test_fused_sums_are_rounded_once() -> None:
    """Against fractions, where the sum nearly cancels, ties, or is lost."""
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal(3000).astype(np.float32) for _ in range(2))
    c = -(a * b) * rng.choice([0, 1, 1 + 2.0**-23, 0.5, 1e-6, 2.0**-24], 3000).astype(np.float32)
    near = a * b
    a = np.concatenate([a, np.ones(3000, np.float32), near])
    b = np.concatenate([b, near, np.ones(3000, np.float32)])
    c = np.concatenate([c, np.spacing(near) / 2, np.spacing(near) * rng.uniform(-1, 1, 3000)])
    got = fused(a, b, c.astype(np.float32))
    for i in range(len(a)):
        exact = Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(np.float32(c[i])))
        around = [np.nextafter(got[i], np.float32(s * np.inf)) for s in (-1, 1)]
        error = abs(Fraction(float(got[i])) - exact)
        others = [abs(Fraction(float(o)) - exact) for o in around]
        assert error <= min(others)
        if error in others:
            assert int(got[i : i + 1].view(np.int32)[0]) % 2 == 0


@pytest.mark.parametrize("name", FUSING)
@pytest.mark.parametrize("scale", [0.0213, 1 / 255, 1.9999999])
def test_kernels_multiply_as_they_divide(name: str, scale: float) -> None:
    """Every machine's vectors, with what is odd, as the kernel that divides: NaN too."""
    s = np.asarray(scale, np.float32)
    found = inverses(s, DType.u8)
    assert found
    x = places(s, 255)
    x = x[: len(x) // 64 * 64].reshape(1, 64, -1)
    zero = np.asarray(3, np.uint8)
    text = f"""graph @k(%x: f32[1,64,{x.shape[2]}], GIVEN, %z: u8[]) {{
      %y = KIND(%x, OPERANDS, %z) {{dtype=u8}}
      return(%y)
    }}"""

    def run(kind: str, factors: dict[str, Array]) -> Array:
        given = ", ".join(f"%{n}: f32[]" for n in factors)
        names = ", ".join(f"%{n}" for n in factors)
        own = text.replace("GIVEN", given).replace("KIND", kind).replace("OPERANDS", names)
        return kernelcheck.run(parse(own).main, name, [x, *factors.values(), zero])[0]

    divided = run("quantize", {"s": s})
    multiplied = run("quantize_by_inverse", {"i": found[0], "r": found[1]})
    np.testing.assert_array_equal(multiplied, divided)
    (want,) = Quantize(DType.u8).evaluate(x, s, zero)
    number = ~np.isnan(x)
    np.testing.assert_array_equal(multiplied[number], want[number])


BLOCK = """graph @main(%x: u8[1,16,6,6], %v: u8[1,16,6,6]) {
  %w = const rand 1 : i8[32,16,1,1]
  %s = const dense [0.0007] : f32[]
  %t = const dense [0.013] : f32[]
  %c = conv_integer(%x, %w) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]}
  %d = requantize(%c, %s) {dtype=u8}
  %e = dequantize(%d, %t)
  %u = const rand 2 : i8[32,16,1,1]
  %p = conv_integer(%v, %u) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]}
  %f = dequantize(%p, %s)
  %a = add(%e, %f)
  %r = relu(%a)
  %y = quantize(%r, %t) {dtype=u8}
  return(%y)
}"""


@pytest.mark.parametrize("name", ["avx512vnni", "avx2", "x86-64-v2"])
def test_targets_multiply_where_they_fuse(name: str) -> None:
    """Bytes pass between the two kernels; the last divides only on a CPU that can't fuse."""
    program = X86(name).lower(parse(BLOCK))
    texts = [k.text for k in program.kernels if "conv_integer" in k.text]
    assert len(texts) == 2
    assert "small=true" in texts[0]
    assert " i32[" not in texts[1].partition("{")[0]
    assert ("quantize_by_inverse" in texts[1]) == machine.load(name).fma
    assert "relu" not in texts[1]


@pytest.mark.parametrize("name", kernelcheck.runnable())
@pytest.mark.parametrize("case", [CONVS[0], CONVS[1], CONVS[8]], ids=["3x3", "1x1", "depthwise"])
def test_small_sums_saturate_without_a_clamp(case: dict[str, Any], name: str) -> None:
    """The largest sums and smaller ones, by the largest scale that is called small and others."""
    text = conv(**case, b=kernelcheck.block(name))
    text = text.replace("dtype=u8,axis=1", "dtype=u8,axis=1,small=true")
    arrays = numbers(text)
    rng = np.random.default_rng(1)
    bias = np.array([2**31 - 2**24, -(2**31) + 2**24, 0, 2**20, -(2**16)], np.int32)
    arrays[2][:] = rng.choice(bias, arrays[2].shape)
    arrays[3][:] = rng.choice(np.array([0.5, 2.0**-9, 1e-4], np.float32), arrays[3].shape)
    kernelcheck.check(text, name, arrays=arrays)


def test_what_is_not_bounded_is_clamped() -> None:
    """A float that nothing bounds isn't called small."""
    text = BLOCK.replace("%r = relu(%a)", "%r = exp(%a)")
    module = parse(text)
    for p in X86("avx2").lowering()[3:5]:  # integers, scales
        p.run(module, Context())
    (op,) = (o for o in module.main if isinstance(o.kind, QuantizeByInverse))
    assert isinstance(op.kind, QuantizeByInverse)
    assert not op.kind.small
