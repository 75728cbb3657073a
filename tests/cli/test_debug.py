"""`graphopt debug`: bisect, reduce, diff, explain."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphopt import api
from graphopt.cli.debug_bisect import least

Cli = Callable[..., Any]
BROKEN = "fold,test-wrong-relu,fuse"


def ops(path: str) -> list[str]:
    return [op.kind.name for op in api.load(path).main if op.kind.name not in ("const", "return")]


@pytest.mark.parametrize("culprit", range(1, 12))
def test_least_finds_the_first_failing_number(culprit: int) -> None:
    asked: list[int] = []

    def fails(n: int) -> bool:
        asked.append(n)
        return n >= culprit

    assert least(fails, 1, 11) == culprit
    assert len(asked) <= 4


def test_bisect_finds_the_rewrite_of_a_broken_rule(cli: Cli, model: Path) -> None:
    done = cli("debug", "bisect", model, "--passes", BROKEN)
    assert done.code == 1
    assert "rewrite 2 of 3, wrong-relu at relu2, makes the difference" in done.err
    assert done.err.count("\n") == 1
    command = done.err.split("`")[1].split()
    assert command[:2] == ["graphopt", "opt"]
    assert cli(*command[1:]).code == 1
    limit = command.index("--bisect-limit") + 1
    command[limit] = str(int(command[limit]) - 1)
    assert cli(*command[1:]).code == 0


def test_bisect_names_a_pass_that_does_not_ask(cli: Cli, model: Path) -> None:
    done = cli("debug", "bisect", model, "--passes", "fold,test-crash,dce", "--json")
    told = json.loads(done.out)
    assert done.code == 1
    assert told["culprit"] is None
    assert told["pass"] == "pass 2 (test-crash)"
    assert told["trouble"].startswith("KeyError")


def test_bisect_says_when_there_is_nothing(cli: Cli, model: Path) -> None:
    done = cli("debug", "bisect", model)
    assert done.code == 0
    assert "numbers agree" in done.out
    told = json.loads(cli("debug", "bisect", model, "--json").out)
    assert set(told) == {"runs", "trouble", "rewrites", "culprit", "rewrite", "pass"}


@pytest.mark.parametrize("out", ["r.onnx", "r.gir"])
def test_reduce_keeps_the_failure_and_little_else(cli: Cli, model: Path, out: str) -> None:
    done = cli("debug", "reduce", model, "--passes", BROKEN, "-o", out, "--json")
    told = json.loads(done.out)
    assert done.code == 0
    assert (told["ops_before"], told["ops_after"]) == (9, 1)
    assert ops(out) == ["relu"]
    replay = [w.strip("'") for w in told["replay"].split()]
    assert cli(*replay[1:]).code == 1


def test_reduce_keeps_a_crash(cli: Cli, model: Path) -> None:
    passes = "fold,test-crash{kind=conv}"
    assert cli("debug", "reduce", model, "--passes", passes, "-o", "r.onnx").code == 0
    assert ops("r.onnx") == ["conv"]


def test_reduce_says_when_nothing_fails(cli: Cli, model: Path) -> None:
    done = cli("debug", "reduce", model, "-o", "r.onnx")
    assert done.code == 2
    assert "nothing to reduce" in done.err
    assert not Path("r.onnx").exists()


def test_diff_shows_what_changed_and_how_far(cli: Cli, model: Path) -> None:
    cli("opt", model, "--passes", "default", "-o", "o.onnx")
    done = cli("debug", "diff", model, "o.onnx")
    assert done.code == 0
    assert "2 changed, 2 removed, 5 same" in done.out
    assert "%n1 = conv(" in done.out
    told = json.loads(cli("debug", "diff", model, "o.onnx", "--json", "--all").out)
    assert set(told) == {"counts", "rows", "ok", "outputs", "text"}
    states = [r["state"] for r in told["rows"]]
    assert states.count("same") == 5


def test_diff_exits_1_where_outputs_differ(cli: Cli, model: Path) -> None:
    cli("opt", model, "--passes", BROKEN, "-o", "o.onnx")
    done = cli("debug", "diff", model, "o.onnx")
    assert done.code == 1
    assert "DIFFERS at output 'y'" in done.err


def test_diff_refuses_models_of_other_inputs(cli: Cli, model: Path) -> None:
    cli("debug", "reduce", model, "--passes", BROKEN, "-o", "r.onnx")
    done = cli("debug", "diff", model, "r.onnx")
    assert done.code == 2
    assert "different inputs" in done.err


def test_explain_tells_what_became_of_a_node(cli: Cli, model: Path) -> None:
    done = cli("debug", "explain", model, "norm1")
    assert done.code == 0
    assert "batch-norm-into-weights" in done.out
    assert '@ "conv1", "norm1"' in done.out
    told = json.loads(cli("debug", "explain", model, "norm1", "--json").out)
    assert told["remarks"][0]["applied"] is True


def test_explain_offers_the_nearest_node(cli: Cli, model: Path) -> None:
    done = cli("debug", "explain", model, "norm2")
    assert done.code == 2
    assert "did you mean 'norm1'?" in done.err
