"""PyTorch, which only `distill` needs: loaded late, and set so that the same run gives the same."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from graphopt.errors import UnsupportedError

Torch = Any  # the module torch: it needn't be installed, so nothing here knows its types
Tensor = Any

MISSING = (
    "distill needs PyTorch, which isn't installed: pip install 'graphopt[distill]' (its CPU build "
    "is enough: https://pytorch.org/get-started)"
)


def find() -> None:
    """Look for the module torch without loading it.

    Raises:
        UnsupportedError: it isn't there; the message says how to install it.
    """
    if "torch" not in sys.modules and importlib.util.find_spec("torch") is None:
        raise UnsupportedError(MISSING)


def load() -> Torch:
    """The module torch.

    Raises:
        UnsupportedError: it isn't there; the message says how to install it.
    """
    try:
        return importlib.import_module("torch")
    except ImportError as why:
        raise UnsupportedError(MISSING) from why


@contextmanager
def repeatable(torch: Torch, threads: int) -> Generator[None]:
    """Use deterministic algorithms and so many threads; afterwards what was set before.

    Sums are split between threads, so that numbers depend on how many there are.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.set_num_threads(before[1])
