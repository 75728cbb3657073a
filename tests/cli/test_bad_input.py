"""Bad usage and bad input: the exit code, one sentence on stderr, nothing left behind."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt.cli.opt as opt_command

Cli = Callable[..., Any]
FOLD = ("--passes", "fold")
X86 = ("--target", "x86")


def files() -> set[str]:
    return {str(p) for p in Path().rglob("*")}


# A line each: arguments, exit code, what the sentence says. `small.onnx` is a good model,
# `cut.onnx` half of it, `bundle` a folder that isn't a bundle, `x.npz` has another input.
USAGE = [
    (("bogus",), 2, "No such command 'bogus'"),
    (("debug",), 2, "Missing command"),
    (("opt", "small.onnx"), 2, "Missing option '--passes'"),
    (("opt", "small.onnx", *FOLD, "--bogus"), 2, "No such option: --bogus"),
    (("optimize", "small.onnx"), 2, "Missing option '--target'"),
    (("optimize",), 2, "Missing"),
    (("opt", "small.onnx", *FOLD, "--bisect-limit", "-1"), 2, "--bisect-limit"),
    (("opt", "small.onnx", *FOLD, "--bisect-limit", "x"), 2, "--bisect-limit"),
    (("optimize", "small.onnx", *X86, "--threads", "0"), 2, "--threads"),
    (("bench", "small.onnx", "--seconds", "nan"), 2, "--seconds"),
    (("bench", "small.onnx", "--vs", "tensorrt"), 2, "no peer named 'tensorrt'"),
    (("profile", "bundle", "--runs", "0"), 2, "--runs"),
]
INPUT = [
    (("opt", "none.onnx", *FOLD), 2, "none.onnx: there is no such file"),
    (("opt", "bundle", *FOLD), 2, "bundle is a folder, not a model"),
    (("opt", "cut.onnx", *FOLD), 2, "cut.onnx"),
    (("opt", "empty.onnx", *FOLD), 2, "empty.onnx"),
    (("opt", "text.gir", *FOLD), 2, "text.gir:1:"),
    (("opt", "small.onnx", *FOLD, "-o", "small.onnx/o.onnx"), 2, "is not a folder"),
    (("opt", "small.onnx", *FOLD, "-o", "out.txt"), 2, "must end in .onnx or .gir"),
    (("opt", "small.onnx", *FOLD, "-o", "dir.onnx"), 2, "-o dir.onnx is a folder"),
    (("opt", "small.onnx", *FOLD, "--dump-dir", "small.onnx/d"), 2, "can't make the folder"),
    (("opt", "small.onnx", *FOLD, "--stop-after", "cse"), 2, "no pass 'cse'"),
    (("opt", "small.onnx", *FOLD, "--print-after", "cse"), 2, "no pass 'cse'"),
    (("opt", "small.onnx", *FOLD, "--input-shape", "x"), 2, "not of the form NAME=1x3x224x224"),
    (("opt", "small.onnx", *FOLD, "--input-shape", "x=1x-3"), 2, "not of the form"),
    (("opt", "small.onnx", *FOLD, "--input-shape", "z=1"), 2, "names 'z', but"),
    (("opt", "small.onnx", *FOLD, "--input-shape", "x=1x3"), 2, "the model says"),
    (("opt", "small.onnx", *FOLD, "--input-shape", "x=2x3x8x8"), 2, "contradicts the model"),
    (("opt", "small.onnx", *FOLD, "--input-shape", "x=1", "--input-shape", "x=1"), 2, "twice"),
    (("opt", "small.onnx", *FOLD, "--check-each", "--data", "no.npz"), 2, "no such file"),
    (("opt", "small.onnx", *FOLD, "--check-each", "--data", "x.npz"), 2, "no data for input 'x'"),
    (("opt", "small.onnx", *FOLD, "--check-each", "--data", "shape.npz"), 2, "shape"),
    (("opt", "small.onnx", *FOLD, "--check-each", "--data", "cut.onnx"), 2, "cut.onnx"),
    (("opt", "small.onnx", *FOLD, "--check-each", "--data", "bundle"), 2, "no .npz files"),
    (("opt", "small.onnx", "--passes", "group"), 3, "group needs a target"),
    (("optimize", "small.onnx", "--target", "arn"), 2, "no target named 'arn'"),
    (("optimize", "small.onnx", "--target", "x86:avx3"), 2, "no cpu named 'avx3'"),
    (("optimize", "none.onnx", *X86), 2, "no such file"),
    (("optimize", "small.onnx", *X86, "-o", "bundle"), 2, "is not a graphopt bundle"),
    (("optimize", "small.onnx", *X86, "-o", "small.onnx"), 2, "is not a graphopt bundle"),
    (("optimize", "small.onnx", *X86, "-o", "small.onnx/b"), 2, "is not a folder"),
    (("optimize", "small.onnx", *X86, "--data", "x.npz"), 2, "no data for input 'x'"),
    (("optimize", "small.onnx", *X86, "--debug", "small.onnx/d"), 2, "can't make the folder"),
    (("opt", "small.onnx", "--passes", "prune{ratio=0.3}"), 2, "needs samples of what the model"),
    (("opt", "small.onnx", "--passes", "prune{ratio=1.5,criterion=l1}"), 2, "isn't at least 0"),
    (("opt", "small.onnx", "--passes", "prune{ratio=nan,criterion=l1}"), 2, "isn't at least 0"),
    (("opt", "small.onnx", "--passes", "prune{ratio=0.3,aim=speed}"), 2, "one of time, macs, size"),
    (("opt", "small.onnx", "--passes", "prune{ratio=0.3,heads=half}"), 2, "one of whole, inside"),
    (("opt", "small.onnx", "--passes", "lowrank{ratio=inf}"), 2, "isn't at least 0 and below 1"),
    (("opt", "small.onnx", "--passes", "lowrank{ratio=0.3,skip=[nobody]}"), 2, "no layer's name"),
    (("opt", "small.onnx", "--passes", "factorize{terms=0}"), 2, "terms=0 isn't 1 or more"),
    (("opt", "small.onnx", "--passes", "prune{ratio=0.3,criterion=l1},reconstruct"), 2, "--data"),
    (("optimize", "small.onnx", *X86, "--passes", "default,lowrank"), 2, "needs ratio=... or a"),
    (("optimize", "small.onnx", *X86, "--debug", "d", "--passes", "default,prune{ratio=0.3}"), 2,
     "pass 8 (prune{ratio=0.3}): criterion=reconstruct needs samples"),
    (("opt", "small.onnx", "--dump-dir", "d", "-o", "o.onnx", "--passes", "fold,lowrank{ratio=9}"), 2,
     "pass 2 (lowrank{ratio=9.0}): ratio=9 isn't"),
    (("opt", "small.onnx", "--passes", "fold,prune{ratio=0.5,criterion=l1,skip=[conv3]}"), 2,
     "no layer's name has 'conv3' in it; did you mean 'conv"),
    (("opt", "small.onnx", "--passes", "fold,quantize"), 2, "put `calibrate` before `quantize`"),
    (("opt", "small.onnx", "--timing", "--passes", "fold,group"), 3, "group needs a target"),
    (("inspect", "none.onnx"), 2, "no such file"),
    (("inspect", "bundle"), 2, "bundle is not a bundle"),
    (("run", "bundle", "--input", "x.npz", "--output", "y.npz"), 2, "is not a bundle"),
    (("run", "small.onnx", "--input", "x.npz", "--output", "y.npz"), 2, "is not a bundle"),
    (("run", "bundle", "--input", "no.npz", "--output", "y.npz"), 2, "no such file"),
    (("run", "bundle", "--input", "x.npz", "--output", "cut.onnx/y.npz"), 2, "is not a folder"),
    (("verify", "bundle", "small.onnx"), 2, "is not a bundle"),
    (("profile", "none"), 2, "no such file"),
    (("bench", "bundle"), 2, "is not a bundle"),
    (("debug", "reduce", "small.onnx", "-o", "r.txt"), 2, "must end in .onnx or .gir"),
    (("debug", "explain", "small.onnx", "nobody"), 2, "no node named 'nobody'"),
]


@pytest.fixture
def folder(model: Path) -> None:
    whole = model.read_bytes()
    Path("cut.onnx").write_bytes(whole[: len(whole) // 2])
    Path("empty.onnx").write_bytes(b"")
    Path("text.gir").write_text("modul")
    Path("bundle").mkdir()
    Path("bundle/mine.txt").write_text("mine")
    Path("dir.onnx").mkdir()
    np.savez("x.npz", other=np.zeros((1, 3, 8, 8), np.float32))
    np.savez("shape.npz", x=np.zeros((1, 3, 9, 8), np.float32))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("args", "code", "text"), USAGE + INPUT)
def test_one_sentence_and_nothing_left(
    cli: Cli, args: tuple[str, ...], code: int, text: str
) -> None:
    before = files()
    done = cli(*args)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("graphopt: ")
    assert text in done.err
    assert "Traceback" not in done.err
    lines = done.err.splitlines()
    assert len(lines) == 1 or (len(lines) == 3 and lines[2].strip() == "^")
    assert files() == before


@pytest.mark.parametrize(
    ("passes", "column", "text"),
    [
        ("fold,fues", 6, "no pass named 'fues'; did you mean 'fuse'?"),
        ("fold,cse{x=1}", 10, "'cse' has no option 'x'"),
        ("fold cse", 6, "expected ',' between passes"),
        ("fold,;", 6, "unexpected character ';'"),
        ("fold{", 6, "expected the name of an option"),
        ("default,imt8", 9, "no pass named 'imt8'; did you mean 'int8'?"),
        ("int8{bits=7}", 5, "'int8' is a pipeline and takes no options; write out its passes, 'smooth,"),
    ],
)
@pytest.mark.parametrize("command", [("opt",), ("optimize", *X86), ("debug", "bisect")])
def test_bad_pipeline_text_shows_a_caret(
    cli: Cli, model: Path, command: tuple[str, ...], passes: str, column: int, text: str
) -> None:
    done = cli(*command, model, "--passes", passes)
    assert done.code == 2
    first, source, caret = done.err.splitlines()
    assert first.startswith(f"graphopt: --passes:1:{column}: ")
    assert text in first
    assert source == f"  {passes}"
    assert caret.index("^") == column + 1


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bits_never_end_in_a_traceback(cli: Cli, model: Path, seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(model.read_bytes())
    for _ in range(rng.choice([1, 4, 32])):
        # The structure, more often than the weights, which any bytes are.
        at = rng.randrange(len(data)) if seed % 2 else -rng.randrange(1, 900)
        data[at] ^= 1 << rng.randrange(8)
    if seed % 3 == 0:
        data = data[: rng.randrange(len(data))]
    Path("bad.onnx").write_bytes(data)
    before = files()
    done = cli("opt", "bad.onnx", "--passes", "default", "-o", "o.onnx")
    assert done.code in (0, 2, 3), done.err
    if done.code:
        assert len(done.err.splitlines()) == 1, done.err
        assert files() == before


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 3, "out of memory"),
        (OSError(28, "No space left on device", "/x/y"), 2, "/x/y: No space left on device"),
        (OSError(28, "No space left on device"), 2, "can't write: No space left on device; make"),
        (RuntimeError("two\nlines"), 70, "this is a bug in graphopt: RuntimeError: two lines in"),
    ],
)
def test_whatever_is_raised_ends_in_one_sentence(
    cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int,
    text: str,
) -> None:  # fmt: skip
    def fail(*args: object) -> None:
        raise raised

    monkeypatch.setattr(opt_command, "_run", fail)
    done = cli("opt", model, *FOLD)
    assert done.code == code
    assert done.err.count("\n") == 1
    assert text in done.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(cli: Cli, model: Path) -> None:
    Path("locked").mkdir(mode=0o500)
    done = cli("opt", model, *FOLD, "-o", "locked/o.onnx")
    assert (done.code, "no permission" in done.err) == (2, True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no such device")
def test_a_screen_on_a_full_disk() -> None:
    words = [sys.executable, "-m", "graphopt.cli", "passes"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("graphopt: can't write: No space left on device; make room")


def test_errors_leave_stdout_to_json(cli: Cli, model: Path) -> None:
    done = cli("opt", model, "--passes", "fold,test-wrong-relu", "--check-each", "--json")
    assert (done.code, done.out) == (1, "")
    assert json.loads(cli("inspect", model, "--json").out)["kind"] == "model"
