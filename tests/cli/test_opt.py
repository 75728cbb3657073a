"""`graphopt opt`: passes, dumps, limits, checks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt import api
from graphopt.ir.store import load_gir
from graphopt.onnx import Reference

Cli = Callable[..., Any]
X = {"x": np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)}


@pytest.mark.parametrize("suffix", [".onnx", ".gir"])
def test_writes_a_model_with_the_same_numbers(cli: Cli, model: Path, suffix: str) -> None:
    out = model.with_name(f"out{suffix}")
    done = cli("opt", model, "--passes", "default", "-o", out)
    assert (done.code, done.out, done.err) == (0, "", "")
    got = Reference(api.load(out)).run(X)["y"]
    np.testing.assert_allclose(got, Reference(model).run(X)["y"], rtol=1e-4)
    kinds = [op.kind.name for op in api.load(out).main]
    assert "batch_norm" not in kinds


def test_a_gir_gives_a_gir_which_gives_an_onnx(cli: Cli, model: Path) -> None:
    assert cli("opt", model, "--passes", "fold", "-o", "a.gir").code == 0
    assert cli("opt", "a.gir", "--passes", "default", "-o", "b.onnx").code == 0
    onnx.checker.check_model("b.onnx")  # pyright: ignore


def test_without_o_the_ir_is_printed_and_reparses_but_for_large_constants(
    cli: Cli, model: Path
) -> None:
    done = cli("opt", model, "--passes", "")
    assert done.code == 0
    assert done.err == ""
    assert done.out.startswith('module "small"')
    assert "elided" in done.out


def test_dumps_reparse_and_tables_are_kept(cli: Cli, model: Path) -> None:
    cli("opt", model, "--passes", "default", "-o", "o.gir", "--dump-dir", "d", "--check-each")
    names = sorted(p.name for p in Path("d").iterdir())
    assert names == ["000_input.gir", "002_simplify.gir", "004_fuse.gir", "errors.txt",
                     "remarks.txt", "timing.txt", "weights.bin"]  # fmt: skip
    last = load_gir(Path("d/004_fuse.gir"))
    assert last.to_text() == load_gir(Path("o.gir")).to_text()
    assert "applied: batch-norm-into-weights at conv1 + norm1" in Path("d/remarks.txt").read_text()
    assert Path("d/timing.txt").read_text().count(" fuse\n") == 1
    assert "TOO MUCH" not in Path("d/errors.txt").read_text()


def test_print_after_timing_and_errors_go_to_stderr(cli: Cli, model: Path) -> None:
    done = cli("opt", model, "--passes", "default", "-o", "o.onnx", "--print-after", "fuse",
               "--timing", "--check-each")  # fmt: skip
    assert done.out == ""
    assert "// after 4 fuse\n" in done.err
    assert "all passes" in done.err
    assert "largest error" in done.err


def test_stop_after_ends_there(cli: Cli, model: Path) -> None:
    done = cli("opt", model, "--passes", "default", "--stop-after", "cse", "--json")
    assert [p["text"] for p in json.loads(done.out)["passes"]] == ["fold", "simplify", "cse"]


@pytest.mark.parametrize(("limit", "kinds"), [(0, 9), (1, 8), (2, 7), (99, 7)])
def test_bisect_limit_allows_the_first_rewrites(
    cli: Cli, model: Path, limit: int, kinds: int
) -> None:
    done = cli("opt", model, "--passes", "default", "--bisect-limit", limit, "--json")
    assert json.loads(done.out)["operators"] == kinds


def test_json_has_a_fixed_form(cli: Cli, model: Path) -> None:
    done = cli("opt", model, "--passes", "default", "--json", "--check-each")
    told = json.loads(done.out)
    assert done.err == ""
    assert set(told) == {"output", "operators", "passes", "errors"}
    assert set(told["passes"][0]) == {
        "number", "text", "effect", "changed", "remarks", "settled", "notes", "seconds",
    }  # fmt: skip
    assert [e["text"] for e in told["errors"]] == ["read", "simplify", "fuse"]


def test_check_each_names_pass_op_and_the_command_to_replay(cli: Cli, model: Path) -> None:
    done = cli("opt", model, "--passes", "fold,test-wrong-relu", "--check-each", "-o", "o.onnx",
               "--dump-dir", "d")  # fmt: skip
    assert done.code == 1
    assert "pass 2 (test-wrong-relu)" in done.err
    assert "with relu at relu2 gone before it" in done.err
    assert "`graphopt opt d/reproducer.gir --passes test-wrong-relu --check-each`" in done.err
    assert not Path("o.onnx").exists()
    again = cli("opt", "d/reproducer.gir", "--passes", "test-wrong-relu", "--check-each")
    assert again.code == 1


def test_a_crash_is_one_sentence_with_the_command_to_replay(cli: Cli, model: Path) -> None:
    done = cli("opt", model, "--passes", "fold,test-crash", "--dump-dir", "d", "-o", "o.onnx")
    assert done.code == 70
    assert done.err.startswith("graphopt: this is a bug in graphopt: KeyError")
    assert done.err.count("\n") == 1
    assert "`graphopt opt d/reproducer.gir --passes test-crash`" in done.err
    assert cli("opt", "d/reproducer.gir", "--passes", "test-crash").code == 70
    assert not Path("o.onnx").exists()


def test_traceback_shows_where(cli: Cli, model: Path) -> None:
    done = cli("opt", model, "--passes", "test-crash", "--traceback")
    assert done.code == 70
    assert "Traceback (most recent call last)" in done.err


def test_data_and_input_shape(cli: Cli, model: Path) -> None:
    np.savez("x.npz", x=np.zeros((2, 3, 8, 8), np.float32))
    done = cli("opt", model, "--passes", "default", "--check-each", "--data", "x.npz",
               "--input-shape", "x=1x3x8x8", "-o", "o.onnx")  # fmt: skip
    assert done.code == 0


def test_names_that_steer_a_terminal_are_escaped(cli: Cli, model: Path) -> None:
    made: Any = onnx.load(model)  # pyright: ignore
    made.graph.node[3].name = "two\n\x1b[31mred"
    model.write_bytes(made.SerializeToString())
    done = cli("opt", model, "--passes", "default,lowrank{ratio=0.01,skip=[red]}", "-o", "o.onnx")
    assert done.code == 0
    assert "two \\x1b[31mred (skipped, as asked)" in done.err
    shown = cli("inspect", model, "--layers").out
    assert "\x1b" not in shown
    assert "\\x1b[31mred" in shown
