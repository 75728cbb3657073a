# pyright: basic
# Tables of cases of mixed types.
"""A sample of kernels on ARM CPUs under qemu, and as portable C: against numpy."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from graphopt.ir.parser import parse
from graphopt.ops.winograd import transformed
from graphopt.targets import machine
from graphopt.targets.compiled import Native
from graphopt.targets.driver import toolchain
from graphopt.targets.tvm import eights, shorts
from tests.crosscheck import Region, check_all, emulated
from tests.kernelcheck import random_arrays
from tests.targets import test_kernels as floats
from tests.targets import test_kernels_chain as chains
from tests.targets import test_kernels_integer as integers
from tests.targets import test_kernels_winograd as winograd

BLOCK = 8  # channels: two vectors of NEON

UNARY = ("exp", "tanh", "erf", "sigmoid", "softplus", "gelu", "mish", "silu", "hard_swish")


def regions() -> dict[str, Region]:
    """One of each family, more of what int8 does."""
    made = {
        "conv": floats.conv(
            ins=32, outs=32, size=(9, 10), kernel=3, pad=1, epilogue="residual", b=BLOCK
        ),
        "point": floats.conv(ins=16, outs=40, size=(9, 11), kernel=1, epilogue="silu", b=BLOCK),
        "first": floats.conv(
            ins=3, outs=16, size=(17, 15), kernel=3, stride=2, pad=1, epilogue="clip", b=BLOCK
        ),
        "odd": floats.conv(ins=20, outs=24, size=(7, 13), kernel=3, pad=1, b=BLOCK),
        "depthwise": floats.conv(
            ins=24, outs=24, size=(11, 9), kernel=5, pad=2, stride=2, group=24, b=BLOCK
        ),
        "transposed": floats.conv(
            ins=16, outs=32, size=(7, 7), kernel=2, stride=2, kind="conv_transpose", b=BLOCK
        ),
        "columns": floats.conv(ins=32, outs=16, size=(5, 8), kernel=1, epilogue="clip", b=BLOCK),
        "line": floats.conv(
            ins=3, outs=16, size=(6, 11), kernel=5, pad=2, epilogue="relu", b=BLOCK
        ),
        "row": "graph @k(%a: f32[1,64], %b: f32[64,96:Ba8b]) { %m = matmul(%a, %b) : f32[1,96]\n return(%m) }",
        "chain": chains.text(24, 48, 24, (9, 11), act="silu", residual=True, b=BLOCK),
        "softmax": "graph @k(%x: f32[5,33]) { %y = softmax(%x) {axis=1} : f32[5,33]\n return(%y) }",
        "matmul": """graph @k(%a: f32[13,40], %b: f32[40,24]) {
          %m = matmul(%a, %b) : f32[13,24]
          return(%m) }""",
    }
    found = {name: Region(text) for name, text in made.items()}
    for kind in UNARY:
        text = f"graph @k(%x: f32[40]) {{ %y = {kind}(%x) : f32[40]\n return(%y) }}"
        found[kind] = Region(text, tolerance=1e-6)
    found["winograd"] = minimal()
    found |= {kind: edges(kind) for kind in ("relu", "clip", "max", "min")}
    for name, case in {
        "int8": dict(ins=32, outs=32, size=(9, 10), kernel=3, pad=1),
        "int8_point": dict(ins=24, outs=40, size=(7, 8), kernel=1),
        "int8_first": dict(ins=3, outs=16, size=(17, 15), kernel=3, stride=2, pad=1),
        "int8_depthwise": dict(ins=24, outs=24, size=(11, 9), kernel=3, pad=1, group=24),
        "int8_dense": dict(ins=10, outs=8, size=(6, 7), kernel=3, pad=1, dense=True, dtype="i8"),
    }.items():
        text = integers.conv(**case, b=BLOCK)
        found[name] = Region(text, integers.numbers(text))
    text = integers.product((49, 64), (64, 128), True, BLOCK)
    found["int8_product"] = Region(text, integers.numbers(text), 0.0)
    return found


SIGNED = {
    "taps": dict(ins=32, outs=24, size=(9, 16), kernel=3, pad=1),
    "strided": dict(ins=24, outs=16, size=(9, 11), kernel=3, pad=1, stride=2),
    "odd": dict(ins=20, outs=24, size=(7, 13), kernel=3, pad=1),
    "wide": dict(ins=16, outs=8, size=(8, 9), kernel=5, pad=2, dilation=2),
    "first": dict(ins=3, outs=16, size=(17, 15), kernel=3, stride=2, pad=1),
    "point": dict(ins=24, outs=40, size=(7, 7), kernel=1, n=2),
    "pixels": dict(ins=16, outs=8, size=(12, 13), kernel=1),
    "sparse": dict(ins=16, outs=16, size=(8, 8), kernel=1, stride=2),
    "depthwise": dict(ins=24, outs=24, size=(11, 13), kernel=3, pad=1, group=24),
    "depthwise_strided": dict(ins=20, outs=20, size=(12, 9), kernel=3, pad=1, stride=2, group=20, n=2),
    "depthwise_wide": dict(ins=16, outs=16, size=(9, 14), kernel=5, pad=2, group=16),
    "depthwise_jumping": dict(ins=16, outs=16, size=(11, 14), kernel=5, pad=2, stride=2, group=16),
    "depthwise_short": dict(ins=8, outs=8, size=(6, 7), kernel=2, group=8),
    "mean": dict(ins=16, outs=16, size=(7, 7), kernel=7, group=16),
}  # fmt: skip


def signed(m: machine.Machine) -> dict[str, Region]:
    """Signed bytes, as ARM multiplies them: weights laid out as the machine wants them."""
    found: dict[str, Region] = {}
    for name, case in SIGNED.items():
        text = integers.conv(**case, b=BLOCK, dtype="i8")
        module = parse(text)
        for op in module.main:
            wanted = (
                eights.layout(op, m) or shorts.weights(op, m)
                if op.kind.name == "conv_integer"
                else ""
            )
            if wanted:
                text = re.sub(r"(%w: i8\[[\d,]+:)\w+", rf"\1{wanted}", text)
        arrays = integers.numbers(text)
        arrays[1] = np.maximum(arrays[1], eights.LEAST)
        found[name] = Region(text, arrays)
        moving = text.replace("%z: u8[])", "%z: u8[], %p: i8[])").replace(
            "(%x, %w)", "(%x, %w, %p)"
        )
        if case.get("pad"):
            found[f"{name}_moving"] = Region(moving, [*arrays, np.asarray(-77, np.int8)])
    return found


def edges(kind: str) -> Region:
    """Of numbers that aren't any, and infinite ones: they stay as they are, or become bounds."""
    x = np.array([np.nan, np.inf, -np.inf, 0.5, -0.5, 7.0, np.nan, -1e-40] * 5, np.float32)
    if kind in {"max", "min"}:
        text = (
            f"graph @k(%x: f32[40], %z: f32[40]) {{ %y = {kind}(%x, %z) : f32[40]\n return(%y) }}"
        )
        return Region(text, [x, np.roll(x, 1)], 0.0)
    attributes = "{lo=0.0,hi=6.0}" if kind == "clip" else ""
    text = f"graph @k(%x: f32[40]) {{ %y = {kind}(%x) {attributes} : f32[40]\n return(%y) }}"
    return Region(text, [x], 0.0)


def minimal() -> Region:
    """A convolution by minimal filtering; its transforms' cancellations lose some five bits."""
    text = winograd.text(ins=16, outs=24, size=(11, 9), pads=(1, 1, 1, 1), epilogue="relu", b=BLOCK)
    arrays = random_arrays(parse(text).main)
    arrays[1] = transformed(arrays[1][:9].transpose(1, 2, 0).reshape(*arrays[1].shape[1:], 3, 3))
    return Region(text, arrays, 2e-5)


@pytest.mark.parametrize(
    "name",
    [
        "cortex-a72",
        "cortex-a76",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("cortex-a53", "cortex-a55", "neoverse-n1", "neoverse-v1")
        ),
    ],
)
def test_kernels_on_arm(name: str, tmp_path: Path) -> None:
    m = machine.load(name)
    compiler, runner = emulated(m)
    check_all(regions(), m, compiler, runner, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "cortex-a72",
        "neoverse-n1",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("cortex-a76", "neoverse-v1")),
    ],
)
def test_signed_bytes_on_arm(name: str, tmp_path: Path) -> None:
    """Each way of summing products: by 16 bits, eights, dots of channels and of columns, squares."""
    m = machine.load(name)
    compiler, runner = emulated(m)
    check_all(signed(m), m, compiler, runner, tmp_path)


def test_kernels_as_portable_c(tmp_path: Path) -> None:
    check_all(regions(), machine.load("portable"), toolchain.find(), Native(), tmp_path, threads=3)


def test_an_instruction_that_a_cpu_lacks_ends_the_program(tmp_path: Path) -> None:
    # sdot v0.4s, v1.16b, v2.4b[0]: neoverse-n1 has it, and cortex-a72 does not.
    (tmp_path / "sdot.c").write_text('int main(void) { __asm__(".inst 0x4f82e020"); return 0; }')
    codes: dict[str, int] = {}
    for name in ("neoverse-n1", "cortex-a72"):
        compiler, runner = emulated(machine.load(name))
        toolchain.run(compiler.static(), ["-static", "sdot.c", "-o", "sdot"], tmp_path)
        command = [*runner.emulator.command, str(tmp_path / "sdot")]
        codes[name] = subprocess.run(command, capture_output=True, check=False).returncode
    assert codes == {"neoverse-n1": 0, "cortex-a72": -signal.SIGILL}
