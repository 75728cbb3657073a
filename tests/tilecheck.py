# pyright: basic
# TVM ships no types.
"""Kernels for AMX on any CPU with AVX-512: their instructions are calls of an emulation in C."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tvm import tirx
from tvm.script.ir_builder import tirx as ir

from graphopt.targets import machine
from graphopt.targets.driver import toolchain
from graphopt.targets.tvm import build, tiles

AMX = machine.load("amx")


@cache
def emulation() -> ctypes.CDLL:
    """The emulation, where code compiled in this process finds it: loaded once, since names that
    two libraries have are those of the first."""
    source = Path(__file__).parent / "targets" / "amx.c"
    flags = ["-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    with tempfile.TemporaryDirectory() as folder:
        args = [*flags, str(source), "-o", "amx.so", "-lm"]
        toolchain.run(toolchain.find(), args, Path(folder))
        return ctypes.CDLL(f"{folder}/amx.so", mode=ctypes.RTLD_GLOBAL)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    """Kernels for AMX whose instructions are calls of the emulation: nothing else differs."""

    def instruction(name: str, *operands: Any) -> None:
        ir.evaluate(tirx.call_extern("int32", f"amx_{name}", *operands))

    library, made = emulation(), build.primfunc
    monkeypatch.setattr(tiles, "instruction", instruction)
    monkeypatch.setattr(build, "primfunc", lambda graph, m, symbol: made(graph, AMX, symbol))
    library.amx_faults()
    library.amx_products()
    yield library
    assert library.amx_faults() == 0
