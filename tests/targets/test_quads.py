# pyright: basic
# TVM ships no types.
"""Lanes of a vector as factors (NEON): which loads are joined, and which get a base of their own."""

from __future__ import annotations

import re
from typing import Any

import pytest

from graphopt.ir.parser import parse
from graphopt.targets import machine
from graphopt.targets.tvm import build, quads
from tests.targets import test_kernels as floats
from tests.targets import test_kernels_integer as integers

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


def test_a_column_is_one_load_or_two_where_registers_are_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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


def signed(**case: Any) -> str:
    """An integer convolution as ARM has it."""
    return integers.conv(**case, b=BLOCK, dtype="i8")


def test_taps_and_columns_of_a_row_share_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight columns and three taps see ten pixels of two words each: five loads a row, not 48."""
    text = lowered(signed(ins=16, outs=16, size=(8, 8), kernel=3, pad=1), monkeypatch)
    assert bound(text, "quad") == ["int32x4"] * 5 and not bound(text, "far")
    assert text.count("T.graphopt_dot(") == 8 * 3 * 2
    assert len(re.findall(r"graphopt_hidden_1\", 3\)", text)) == 1  # rows of the window


def test_sums_begin_with_the_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    text = lowered(signed(ins=16, outs=16, size=(8, 8), kernel=3, pad=1), monkeypatch)
    assert re.search(r"anchor_local\[0\] = p2(_\d+)?\[", text) and "T.Broadcast(0, 8)" not in text
    padded = lowered(signed(ins=16, outs=12, size=(8, 8), kernel=3, pad=1), monkeypatch)
    assert "T.Broadcast(0, 8)" in padded  # its bias has no numbers for the lanes past the last


def test_two_blocks_of_channels_are_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """49 pixels are tiles of ten; a second block's words are 392 bytes on, which no load reaches."""
    text = lowered(signed(ins=32, outs=16, size=(7, 7), kernel=1), monkeypatch)
    assert bound(text, "quad") == ["int32x4"] * 2 * (5 + 5)  # a tile of ten, and one of nine
    assert bound(text, "far") == ["int64"] * 2


def test_rows_are_copied_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two words before, 26 of the row, two after and what fills a vector: none is asked for."""
    text = lowered(signed(ins=16, outs=16, size=(5, 13), kernel=3, pad=1), monkeypatch)
    assert "graphopt_inside" not in text
    copied = re.findall(r"rows\S*\[.*\] = p0\S*\[.*, 1, (\d+)\)\]", text)
    assert [int(n) for n in copied] == [16, 8, 2]


def test_weights_of_a_window_stay_for_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLVM doesn't know how many rows a window has: it would keep the weights of all, and spill."""
    text = lowered(
        floats.conv(ins=16, outs=16, size=(9, 8), kernel=3, pad=1, group=16, b=BLOCK), monkeypatch
    )
    assert len(re.findall(r"graphopt_hidden_1\", 3\)", text)) == 1
