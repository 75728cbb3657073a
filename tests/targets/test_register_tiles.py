# pyright: basic
# TVM ships no types.
"""Register tiles of float32 stay in registers, and are as wide as there is room for."""

from __future__ import annotations

import re

import pytest

from graphopt.ir.parser import parse
from graphopt.targets.machine import load
from graphopt.targets.tvm import build, loops

SPILL = re.compile(r"\bvmov\w+\s+%zmm\d+, -?\d*\(%r[sb]p\)")  # a vector stored to the stack


def graph(ins: int, outs: int, size: int):
    t = f"f32[1,{outs},{size},{size}:aBcd16b]"
    return parse(f"""graph @k(%x: f32[1,{ins},{size},{size}:aBcd16b],
                              %w: f32[{outs},{ins},1,1:ABcd16b16a], %b: f32[{outs}]) {{
      %c = conv(%x, %w, %b) {{strides=[1,1],pads=[0,0,0,0],dilations=[1,1],group=1}} : {t}
      %y = relu(%c) : {t}
      return(%y) }}""").main


@pytest.mark.parametrize(("size", "tile"), [(14, (14, 2)), (13, (13, 2))])
def test_the_widest_tile_that_fits_spills_nothing(size: int, tile: tuple[int, int]) -> None:
    machine = load("amx")
    asked = graph(64, 64, size)
    knobs = [c for c in build.choices(asked, machine)
             if f'"blocks": {tile[1]}, "columns": {tile[0]},' in c]  # fmt: skip
    assert loops.tile_registers(*tile, 1, machine) > 28
    module = build.compile_module({"k": build.primfunc(asked, machine, "k", knobs[0])}, machine)
    assert not SPILL.findall(module.inspect_source("asm"))


def test_rows_that_no_tile_divides_are_copied_only_where_that_is_cheap() -> None:
    """A copy takes as long as sixteen products a vector: 16 results use it once, 512 often."""
    machine = load("amx")
    few, many = (build.choices(graph(128, outs, 19), machine)[0] for outs in (16, 512))
    assert '"copy": false' in few
    assert '"copy": true' in many


def test_other_machines_keep_a_broadcast_a_column() -> None:
    for name, registers in (("amx", 31), ("znver4", 44), ("avx2", 44)):
        assert loops.tile_registers(14, 2, 1, load(name)) == registers
        assert loops.cells(2, 2, load(name))[1] == ((1, 0) if name == "amx" else (0, 1))
