"""Where convolutions are computed by minimal filtering: as a machine's description says."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.targets.costs import Database, Row, reference_model
from graphopt.targets.machine import load, names
from graphopt.targets.roofline import described
from graphopt.targets.x86 import X86

SAME = "{strides=[1,1],pads=[1,1,1,1],dilations=[1,1]}"


def module(ins: int, outs: int, size: int, more: int = 16, batch: int = 1) -> Module:
    """A convolution in a model with `more` MiB of other weights."""
    return parse(f"""graph @main(%x: f32[{batch},{ins},{size},{size}], %z: f32[1,1024]) {{
      %w = const rand 1 : f32[{outs},{ins},3,3]
      %y = conv(%x, %w) {SAME} @ "it"
      %v = const rand 2 : f32[1024,{256 * more}]
      %p = matmul(%z, %v)
      return(%y, %p) {{names=[y,p]}}
    }}""")


def families(asked: Module, cpu: str = "avx512bf16") -> set[str]:
    return {k.family for k in X86(cpu).lower(asked).kernels} - {"elementwise", "matmul"}


# Measured: its time by the direct sum's on one core with AVX-512, the weights far away.
@pytest.mark.parametrize(("shape", "measured"), [
    ((16, 16, 28), 0.54), ((16, 16, 32), 0.63), ((64, 64, 28), 0.43), ((64, 64, 56), 0.40),
    ((128, 128, 28), 0.51), ((128, 32, 28), 0.48), ((64, 96, 14), 0.85), ((128, 128, 14), 0.84),
    ((256, 256, 14), 0.84), ((160, 224, 7), 2.0), ((192, 320, 7), 1.9), ((192, 384, 6), 2.3),
    ((512, 512, 7), 1.8), ((128, 32, 7), 1.04),
    ((12, 12, 96), 0.60), ((24, 12, 96), 0.48), ((48, 24, 48), 0.35), ((20, 16, 48), 1.0),
])  # fmt: skip
def test_it_is_chosen_where_it_is_faster(shape: tuple[int, int, int], measured: float) -> None:
    assert families(module(*shape)) == {"winograd" if measured < 0.95 else "conv"}


# Measured at batch 8, where more of the time is memory's: all are faster so.
@pytest.mark.parametrize("shape", [
    (12, 12, 96), (24, 12, 96), (48, 24, 48), (64, 64, 56), (128, 128, 28), (256, 256, 14),
])  # fmt: skip
def test_it_is_chosen_for_batches(shape: tuple[int, int, int]) -> None:
    assert families(module(*shape, batch=8)) == {"winograd"}


def test_filters_that_few_values_make_small_stay_where_they_are_stored_so() -> None:
    few = "const splat 1.0 : f32[64,64,3,3]"
    text = module(64, 64, 28).to_text().replace("const rand 1 : f32[64,64,3,3]", few)
    assert few in text
    for coded, family in ((True, "conv"), (False, "winograd")):
        program = X86("avx512bf16").lower(parse(text), coded=coded)
        assert family in {k.family for k in program.kernels}


def test_filters_that_stay_in_the_cache_are_no_wait() -> None:
    assert families(module(64, 64, 7, more=64)) == {"conv"}
    assert families(module(64, 64, 7, more=0)) == {"winograd"}


def test_times_measured_here_decide_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = X86("avx2").lower(module(64, 64, 28))
    keys = [(k.key, k.family) for k in before.kernels]
    Database(1).add(Row(key, f, "conv", "f32", 10**6, 10**5, 10**5, 1e9) for key, f in keys)
    assert str(X86("avx2").lower(module(64, 64, 28))) == str(before)
    assert not list(tmp_path.rglob("roofline"))


@pytest.mark.parametrize("name", names())
def test_every_machine_has_a_roofline(name: str) -> None:
    machine = load(name)
    roof = described(machine)
    assert [size for size, _ in roof.bandwidth] == sorted(size for size, _ in roof.bandwidth)
    assert [rate for _, rate in roof.bandwidth] == sorted(
        (r for _, r in roof.bandwidth), reverse=True
    )
    assert roof.peaks["f32"] >= 10 * machine.lanes / 4


def test_kept_times_are_told_again() -> None:
    """On the machine that they are of, a kernel of the table costs what it did."""
    from graphopt.targets.costs.reference import CONV, FOOTPRINT, SERVER, WINOGRAD

    model = reference_model(load(SERVER))
    for family, op, table in (("conv", "conv", CONV), ("winograd", "conv_winograd", WINOGRAD)):
        for flops, data, weights, us in table:
            work = Row("", family, op, "f32", flops, data, weights, us).work
            told = model.seconds(family, [op], work, FOOTPRINT)
            assert 0.7 * us < 1e6 * told < 1.4 * us
