"""Work beside other work, packages imported late, and files that are put in their place."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from graphopt.later import Later
from graphopt.targets.bundle import place_file


def test_work_goes_on_beside_and_is_waited_for() -> None:
    gate = threading.Event()
    work = Later(lambda: gate.wait(10) and threading.get_ident())
    gate.set()
    assert work.wait() not in (False, threading.get_ident())
    assert work.wait() == work.wait()


def test_an_error_is_raised_where_it_is_waited_for() -> None:
    def fail() -> int:
        raise ValueError("no")

    work = Later(fail)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            work.wait()


def test_a_file_is_shared_with_one_place_at_most(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    for name in ("first", "second"):
        place_file(source, tmp_path / name)
    assert (tmp_path / "first").samefile(source)
    assert not (tmp_path / "second").samefile(source)
    assert (tmp_path / "second").read_bytes() == b"weights"


def test_the_front_door_imports_no_scipy_and_no_networkx() -> None:
    code = "import sys, graphopt.api; print(sorted({'scipy', 'networkx', 'tvm'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
