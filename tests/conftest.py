"""Options of the test run."""

from __future__ import annotations

import os

import pytest

# Passes multiply many small matrices. Where other work shares the cores, OpenBLAS's threads wait for
# each other longer than they compute (a test of lowrank: 98 s instead of 7 s). Read as numpy loads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--update`."""
    parser.addoption("--update", action="store_true", help="rewrite the goldens that differ")
