"""How a command's process ends: nothing that was to happen is lost, memory isn't freed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ENV = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
OWNED = """
class Slow:
    def __del__(self): print("freed")
kept = Slow()
"""


def ended(code: str, out: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    script = f"from graphopt.cli.leave import leave\n{code}"
    return subprocess.run([sys.executable, "-c", script], stdout=out, stderr=subprocess.PIPE,
                          text=True, cwd=ROOT, env=ENV, timeout=60)  # fmt: skip


def test_what_is_registered_runs_and_nothing_is_freed() -> None:
    code = "import atexit; atexit.register(lambda: print('last words', end=''))"
    done = ended(f"{OWNED}\n{code}\nprint('first', end=', ')\nleave(3)")
    assert (done.returncode, done.stdout, done.stderr) == (3, "first, last words", "")


def test_temporary_folders_go() -> None:
    code = "import tempfile; t = tempfile.TemporaryDirectory(); print(t.name, end=''); leave(0)"
    done = ended(code)
    assert done.returncode == 0 and done.stdout
    assert not Path(done.stdout).exists()


def test_a_thread_that_python_waits_for_ends_first() -> None:
    code = """
import threading, time
def work():
    time.sleep(0.2)
    print("done")
threading.Thread(target=work).start()
leave(4)
"""
    done = ended(code)
    assert (done.returncode, done.stdout) == (4, "done\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_can_not_be_written_is_told() -> None:
    with open("/dev/full", "w") as full:
        done = ended("print('much'); leave(0)", full.fileno())
    assert done.returncode == 120 and "No space left on device" in done.stderr


def test_the_command_ends_so() -> None:
    code = f"{OWNED}\nimport sys; sys.argv = ['graphopt', '--version']\nimport graphopt.cli as c\n"
    done = ended(f"{code}c.command()")
    assert done.returncode == 0
    assert done.stdout.startswith("graphopt") and "freed" not in done.stdout
