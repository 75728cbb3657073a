"""Tables of vectors in bytes: what is read of them, what they lose, and that they compile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.analysis.interpret import interpret
from graphopt.errors import InputError
from graphopt.ir.builtin import Const
from graphopt.ir.core import Module
from graphopt.ir.data import nbytes
from graphopt.ir.parser import parse
from graphopt.onnx import to_proto
from graphopt.pipeline import Context, parse_pipeline, run_pipeline
from graphopt.targets.base import Build
from graphopt.targets.x86 import X86

TABLE = """graph @main(%i: i64[2,5], %j: i64[3]) {
  %t = const rand 1 : f32[4096,64]
  %small = const rand 2 : f32[16,64]
  %a = gather(%t, %i) {axis=0} @ "words"
  %b = gather(%t, %j) {axis=0} @ "more"
  %c = gather(%small, %j) {axis=0} @ "places"
  %d = add(%b, %c) @ "sum"
  return(%a, %d) {names=[a,d]}
}"""
FEEDS = {"i": np.arange(-4, 6).reshape(2, 5), "j": np.array([0, 7, 15])}


def quantized(options: str = "") -> Module:
    module = parse(TABLE)
    run_pipeline(parse_pipeline(f"quantize{{activations=f32{options}}},dce"), module, Context())
    return module


def held(module: Module) -> int:
    return sum(nbytes(op.kind.data) for op in module.main if isinstance(op.kind, Const))


def test_rows_are_within_half_a_step_of_their_own() -> None:
    module = quantized()
    assert held(module) == 4096 * 64 + 4096 * 4 + 16 * 64 * 4
    want, got = (interpret(m, FEEDS) for m in (parse(TABLE), module))
    steps = np.abs(want["a"]).max(-1, keepdims=True) / 127
    assert (np.abs(got["a"] - want["a"]) <= steps * 0.5001).all()
    assert not np.array_equal(got["a"], want["a"])


def test_a_table_may_be_skipped_by_each_name() -> None:
    assert held(quantized(",skip=[words]")) > held(parse(TABLE))  # the other gather reads bytes
    assert held(quantized(",skip=[words,more]")) == held(parse(TABLE))
    with pytest.raises(InputError, match="no layer's name has 'nothing'"):
        quantized(",skip=[nothing]")


def test_tables_are_written_and_compiled(tmp_path: Path) -> None:
    proto = to_proto(quantized()).SerializeToString()
    result = graphopt.optimize(proto, X86(), build=Build(cache=tmp_path / "cache"), threads=1)
    assert all(check.ok for check in result.report.checks)
    result.save(tmp_path / "out")
    with graphopt.Session(tmp_path / "out", threads=1) as session:
        got = session.run(FEEDS)
    want = interpret(quantized(), FEEDS)
    assert np.array_equal(got["a"], want["a"])
    files = {f.name: f.stat().st_size for f in (tmp_path / "out").iterdir() if f.is_file()}
    assert files["libmodel.so"] < 4096 * 64 * 3, "the library holds the table as floats"
