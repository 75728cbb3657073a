"""Weights that we write into a linked library: the same numbers and bytes as any linker's."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import GraphoptError
from graphopt.runtime.native import Context, Library, addresses
from graphopt.runtime.tensors import aligned
from graphopt.targets import machine
from graphopt.targets.driver import placed, toolchain
from graphopt.targets.driver.archive import sections
from graphopt.targets.driver.generate import generate
from graphopt.targets.driver.toolchain import Toolchain
from graphopt.targets.program import Program, WeightData
from tests.crosscheck import emulated
from tests.targets.test_driver import KERNELS, weighted

N = 300_000  # floats: more bytes than pay

MAIN = """
#include "model.h"
#include <stdlib.h>
int main(void) {
  float *x = aligned_alloc(64, 1200000), *y = aligned_alloc(64, 1200000);
  const void *in[] = {x}; void *out[] = {y};
  for (int i = 0; i < 300000; i++) x[i] = 1;
  go_ctx *one = go_new(1);
  if (!one || go_run(one, in, out)) return 2;
  for (int i = 0; i < 300000; i++) if (y[i] != 1 + i % 1000) return 1;
  go_free(one);
  return 0;
}
"""


def large() -> Program:
    """Y = x + w, as `weighted`, with weights that are worth it and one output."""
    w = np.arange(N, dtype=np.float32) % 1000
    p = weighted()
    buffers = tuple(dataclasses.replace(b, shape=(N,)) for b in p.buffers)
    return dataclasses.replace(p, buffers=buffers, outputs=(2,), weight_bytes=w.nbytes,
                               weights=(WeightData(0, w.nbytes, lambda: w),))  # fmt: skip


def link(folder: Path, compiler: Toolchain, program: Program | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    toolchain.run(compiler, ["-O2", "-fPIC", "-c", str(KERNELS), "-o", "kernels.o"], folder)
    p = program or large()
    sources, objects = generate(p), [folder / "kernels.o"]
    (folder / "model.h").write_text(sources["model.h"])
    return toolchain.link(objects, sources, p.weights, folder / "libmodel.so",
                          weight_bytes=p.weight_bytes, toolchain=compiler)  # fmt: skip


def ours(library: Path) -> bool:
    """Whether the weights are a section that ends the file: linkers end it by tables."""
    elf = library.read_bytes()
    return any(s.size == 4 * N and s.offset + s.size == len(elf) for s in sections(elf))


def sums(library: Path) -> None:
    """The library adds its weights."""
    context = Context(Library(library, "go"), 1)
    x, y = (aligned((N,), np.dtype("float32")) for _ in range(2))
    x[:] = 1
    context.run(addresses([x]), addresses([y]), 0, 1)
    context.close()
    np.testing.assert_array_equal(y, 1 + np.arange(N) % 1000)


def wrapped(folder: Path, refuses: str) -> Toolchain:
    """The compiler, but that it fails when an argument contains a text."""
    cc = folder / "cc"
    script = f'#!/bin/sh\ncase "$*" in *{refuses}*) echo "error: no {refuses}" >&2; exit 1;; esac\n'
    cc.write_text(f'{script}exec {toolchain.find().text} "$@"\n')
    cc.chmod(0o755)
    return Toolchain((str(cc),))


def test_they_are_the_end_of_the_library(tmp_path: Path) -> None:
    made = link(tmp_path / "a", toolchain.find())
    assert ours(made) and made.read_bytes()[-4 * N :] == (np.arange(N, dtype="<f4") % 1000).tobytes()
    assert link(tmp_path / "b", toolchain.find()).read_bytes() == made.read_bytes()
    sums(made)


def test_a_linker_that_takes_no_script_copies_them(tmp_path: Path) -> None:
    made = link(tmp_path, wrapped(tmp_path, "weights.ld"))
    assert not ours(made)
    sums(made)


def test_a_linker_that_lays_them_out_otherwise_copies_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a part of the segment of what may be written, and before another section.
    for script in (
        "SECTIONS { .weights : { *(.weights) } } INSERT AFTER .data;",
        placed.SCRIPT + "SECTIONS { .behind : { LONG(1) } } INSERT AFTER .weights;",
    ):
        monkeypatch.setattr(placed, "SCRIPT", script)
        made = link(tmp_path, toolchain.find())
        assert not ours(made)
        sums(made)


def test_few_are_linked(tmp_path: Path) -> None:
    made = link(tmp_path, wrapped(tmp_path, "weights.ld"), weighted())
    assert made.stat().st_size < 2 * placed.PAYS


def test_what_can_not_be_linked_is_told(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="failed: error: no -shared"):
        link(tmp_path, wrapped(tmp_path, "-shared"))


def test_a_stripped_library_still_has_them(tmp_path: Path) -> None:
    made = link(tmp_path, toolchain.find())
    try:
        subprocess.run(["strip", made], check=True)
    except FileNotFoundError:
        pytest.skip("no strip")
    sums(made)


def test_on_arm(tmp_path: Path) -> None:
    compiler, runner = emulated(machine.load("cortex-a53"))
    made = link(tmp_path, compiler)
    assert ours(made)
    (tmp_path / "main.c").write_text(MAIN)
    toolchain.run(compiler, ["main.c", "libmodel.so", "-o", "main"], tmp_path)
    root = Path("/usr/aarch64-linux-gnu")  # of Debian's cross compiler
    if not root.is_dir():
        pytest.skip("no C library to run it with")
    command = [*runner.emulator.command, "-L", root, tmp_path / "main"]
    environment = {**os.environ, "QEMU_SET_ENV": f"LD_LIBRARY_PATH={tmp_path}"}
    assert subprocess.run(command, env=environment, check=False).returncode == 0


@pytest.mark.slow
def test_by_zig(tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    made = link(tmp_path, Toolchain((sys.executable, "-m", "ziglang", "cc")))
    assert ours(made)
    sums(made)
