# pyright: basic
# Tables of cases of mixed types.
"""Kernels of float16 on ARM CPUs that compute in it, under qemu: against numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graphopt.ir.parser import parse
from graphopt.targets import machine
from graphopt.targets.catalog import KERNELS, KernelCatalog
from graphopt.targets.tvm import build
from tests.crosscheck import Region, check_all, emulated
from tests.targets import test_kernels as floats

BLOCK = 8  # channels: one vector of float16
UNIT = 2.0**-11  # of rounding

# Sums of K products are rounded at each of K steps, numpy's once: by a random walk they differ by
# sqrt(K) units of a partial sum, which may be larger than the largest result; observed at most 0.6.
ROUNDING = 2.0


def tolerance(k: int) -> float:
    return ROUNDING * UNIT * k**0.5


def conv(**case: Any) -> Region:
    text = floats.conv(**case, b=BLOCK).replace("f32", "f16")
    ins, group, kernel = (case.get(name, 1) for name in ("ins", "group", "kernel"))
    return Region(text, tolerance=tolerance(ins // group * kernel**2 + 2))


def product(a: str, b: str, result: str, k: int, tail: str = "") -> Region:
    last = tail or "return(%m)"
    text = f"graph @k(%a: f16[{a}], %b: f16[{b}]) {{ %m = matmul(%a, %b) : f16[{result}]\n {last} }}"
    return Region(text, tolerance=tolerance(k))


def regions() -> dict[str, Region]:
    found = {
        "conv": conv(ins=32, outs=32, size=(9, 10), kernel=3, pad=1, epilogue="residual"),
        "point": conv(ins=16, outs=40, size=(9, 11), kernel=1, epilogue="none"),
        "first": conv(ins=3, outs=16, size=(17, 15), kernel=3, stride=2, pad=1, epilogue="clip"),
        "odd": conv(ins=20, outs=20, size=(7, 13), kernel=3, pad=1, epilogue="relu"),
        "depthwise": conv(ins=24, outs=24, size=(11, 9), kernel=5, pad=2, stride=2, group=24),
        "product": product("13,40", "40,24:Ba8b", "13,24", 40),
        "ragged": product("2,13,40", "40,21", "2,13,21", 40),
        "widened": product("13,40", "40,24:Ba8b", "13,24", 40,
                           "%w = cast(%m) {to=f32} : f32[13,24]\n%g = gelu(%w) : f32[13,24]\n"
                           "return(%g)"),
    }  # fmt: skip
    # what only picks, narrows or widens is exact, but for the order of a float32 sum of 49
    found["pool"] = Region("""graph @k(%x: f16[1,16,8,8:aBcd8b]) {
      %y = max_pool(%x) {kernel=[2,2],strides=[2,2],pads=[0,0,0,0],dilations=[1,1]}
           : f16[1,16,4,4:aBcd8b]
      return(%y) }""", tolerance=0.0)  # fmt: skip
    found["mean"] = Region("""graph @k(%x: f16[1,24,7,7:aBcd8b]) {
      %w = cast(%x) {to=f32} : f32[1,24,7,7:aBcd8b]
      %y = reduce_mean(%w) {axes=[2,3],keepdims=false} : f32[1,24]
      return(%y) }""")  # fmt: skip
    found["narrow"] = Region("""graph @k(%x: f32[5,37]) {
      %y = cast(%x) {to=f16} : f16[5,37]
      return(%y) }""", tolerance=0.0)  # fmt: skip
    return found


@pytest.mark.parametrize("name", ["neoverse-n1", pytest.param("cortex-a76", marks=pytest.mark.slow)])
def test_kernels_in_float16(name: str, tmp_path: Path) -> None:
    m = machine.load(name)
    compiler, runner = emulated(m)
    check_all(regions(), m, compiler, runner, tmp_path)


def test_eight_products_an_instruction() -> None:
    """A tile multiplies whole vectors by a lane of one, without converting anything."""
    m = machine.load("cortex-a55")
    for name in ("conv", "point", "product"):
        func = build.primfunc(parse(regions()[name].text).main, m, "k")
        text = build.compile_module({"k": func}, m).inspect_source("asm")
        lines = [line.split() for line in text.splitlines() if line.strip().startswith("fmla")]
        by_lane = [words for words in lines if words[1].endswith(".8h,") and ".h[" in words[3]]
        assert len(by_lane) > 0.9 * len(lines) > 0
        assert "fcvt" not in text


@pytest.mark.parametrize("name", ["cortex-a53", "cortex-a72", "avx512", "portable"])
def test_a_machine_without_float16_arithmetic_has_no_kernel_of_it(name: str) -> None:
    catalog = KernelCatalog(machine=machine.load(name))
    for text in ("point", "product", "pool", "narrow"):
        op = next(iter(parse(regions()[text].text).main))
        assert catalog.family(op) is None
        assert KERNELS.family(op) is None
        assert catalog.reason(op).endswith(f"{name} doesn't compute in float16")


def test_a_convolution_in_groups_has_no_kernel_of_float16() -> None:
    text = conv(ins=32, outs=64, size=(6, 6), kernel=3, pad=1, group=2).text
    catalog = KernelCatalog(machine=machine.load("neoverse-n1"))
    op = next(iter(parse(text).main))
    assert catalog.family(op) is None
    assert "groups" in catalog.reason(op)
