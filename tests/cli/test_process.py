"""Through real processes: how fast the help is, pipes, interrupts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "graphopt.cli"]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def graphopt(*args: object) -> subprocess.CompletedProcess[str]:
    words = [*COMMAND, *map(str, args)]
    return subprocess.run(words, capture_output=True, text=True, env=ENV, timeout=120)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from graphopt.cli import main; main(['--help'])\n"
        "print([m for m in ('tvm', 'onnxruntime', 'onnx', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENV)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["optimize", "opt", "inspect", "run", "bench", "verify",
                                     "profile", "passes", "targets", "debug bisect",
                                     "debug reduce", "debug diff", "debug explain"])  # fmt: skip
def test_every_command_has_help(command: str) -> None:
    done = graphopt(*command.split(), "--help")
    assert done.returncode == 0
    assert f"Usage: graphopt {command}" in done.stdout


def test_no_arguments_is_bad_usage_with_help() -> None:
    done = graphopt()
    assert done.returncode == 2
    assert "Usage: graphopt" in done.stdout
    assert done.stderr == ""


def test_version() -> None:
    done = graphopt("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("graphopt")


def test_silence_in_a_pipe(model: Path) -> None:
    done = graphopt("opt", model, "--passes", "default", "-o", "o.onnx")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_colours_in_a_pipe(model: Path) -> None:
    assert "\x1b" not in graphopt("inspect", model, "--layers").stdout


def test_json_is_one_document(model: Path) -> None:
    done = graphopt("inspect", model, "--json")
    assert json.loads(done.stdout)["operators"] == 9
    assert done.stderr == ""


def test_a_closed_pipe_is_quiet(model: Path) -> None:
    line = " ".join(map(str, [*COMMAND, "opt", model, "--passes", "''", "| true"]))
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=ENV, timeout=60)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "interrupted by SIGTERM")],
)
@pytest.mark.parametrize("tune", [(), ("--tune", "60")])
def test_an_interrupt_is_one_sentence_and_leaves_nothing(
    number: signal.Signals, said: str, tune: tuple[str, ...], model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """No file, no temporary folder, no process, and without waiting for the compilers."""
    cache, temporary = tmp_path_factory.mktemp("cache") / "cold", tmp_path_factory.mktemp("tmp")
    words = [*COMMAND, "optimize", str(model), "--target", "x86", *tune]
    cold = {**ENV, "XDG_CACHE_HOME": str(cache), "TMPDIR": str(temporary)}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=cold)
    while process.poll() is None and not _children(process.pid, "tvm.worker"):
        time.sleep(0.02)
    workers = _children(process.pid, "tvm.worker")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("it was done before the interrupt")
    assert process.returncode == 128 + number
    assert err == f"graphopt: {said}\n"
    assert [p.name for p in Path().iterdir()] == ["small.onnx"]
    assert list(temporary.iterdir()) == []
    until = time.monotonic() + 1.0  # a process that was killed isn't gone at once
    while any(map(_words, workers)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(_words, workers))


def _children(parent: int, command: str) -> list[int]:
    """The processes that a process has started with such a command line."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(state[1]) == parent and command in _words(int(folder.name)):
            found.append(int(folder.name))
    return found


def _words(process: int) -> str:
    """The command line of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""
