# pyright: basic
# TVM ships no types.
"""Lanes of a vector as factors (NEON): which loads are joined, and which get a base of their own."""

from __future__ import annotations

import re

import pytest

from graphopt.ir.parser import parse
from graphopt.targets import machine
from graphopt.targets.tvm import build, quads
from tests.targets import test_kernels as floats

BLOCK = 8


def lowered(text: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A kernel's loops as they are handed to LLVM."""
    found: list[str] = []

    def kept(stmt, own=quads.rewritten):
        made = own(stmt)
        found.append(str(made))
        return made

    monkeypatch.setattr(quads, "rewritten", kept)
    m = machine.load("neoverse-n1")
    build.compile_module({"k": build.primfunc(parse(text).main, m, "k")}, m)
    return found[-1]


def bound(text: str, name: str) -> list[str]:
    """The types that variables of a name, and those numbered after it, are bound to."""
    return re.findall(rf"^ *{name}(?:_\d+)?: T\.let\[T\.(\w+)\]", text, re.MULTILINE)


def test_a_column_is_one_load_or_two_where_registers_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight columns of eight channels: 16 sums, 16 vectors of x, 2 of weights are 34 registers."""
    text = lowered(floats.conv(ins=32, outs=16, size=(5, 8), kernel=1, b=BLOCK), monkeypatch)
    assert sorted(bound(text, "quad")) == ["float32x4"] * 4 + ["float32x8"] * 6
    assert bound(text, "half") == ["int64"]
    text = lowered(floats.conv(ins=32, outs=16, size=(5, 7), kernel=1, b=BLOCK), monkeypatch)
    assert bound(text, "quad") == ["float32x8"] * 7 and not bound(text, "half")


def test_a_window_reads_a_line_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight columns of stride 2 and three taps see 17 neighbours: five loads, not 24."""
    source = floats.conv(ins=3, outs=16, size=(17, 15), kernel=3, stride=2, pad=1, b=BLOCK)
    text = lowered(source, monkeypatch)
    assert bound(text, "quad") == ["float32x4"] * 5
    places = re.findall(r"quad.*\[T\.Ramp\(.*?( \+ \d+)?, 1, 4\)\]", text)
    assert [int(p[3:] or 0) for p in places] == [0, 4, 8, 12, 13]  # none past the last number


def test_blocks_far_apart_have_bases_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Panels of 64 x 8 weights, 2 KiB each: loads in pairs reach 1 KiB."""
    source = """graph @k(%a: f32[1,64], %b: f32[64,96:Ba8b]) {
      %m = matmul(%a, %b) : f32[1,96]
      return(%m)
    }"""
    text = lowered(source, monkeypatch)
    panels = len(bound(text, "far")) + 1
    assert panels in {2, 3, 4, 6} and len(bound(text, "wide")) == panels - 1
    assert set(bound(text, "wide")) == {"float32x64"}  # eight steps of eight columns
    before, _, after = text.partition("far")
    assert "in range(8)" in after and "far" not in before.rsplit("in range(8)", 1)[-1]
