"""Static libraries: one object, nothing to be seen but the interface, two of them in one program."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from graphopt.errors import GraphoptError, UnsupportedError
from graphopt.targets import machine
from graphopt.targets.driver import toolchain
from graphopt.targets.driver.archive import archive, sections, symbols
from graphopt.targets.driver.generate import PUBLIC, generate
from graphopt.targets.driver.toolchain import Toolchain
from graphopt.targets.program import Workspace
from tests.crosscheck import emulated
from tests.targets.test_driver import KERNELS, chain

MAIN = """
#include "one.h"
#include "two.h"
#include <stdlib.h>
int main(void) {
  float *x = aligned_alloc(64, 4032), *y = aligned_alloc(64, 4032);
  const void *in[] = {x}; void *mid[] = {y}, *out[] = {x}; const void *in2[] = {y};
  for (int i = 0; i < 1000; i++) x[i] = 1;
  one_ctx *one = one_new(1); two_ctx *two = two_new(1);
  if (one_run(one, in, mid) || two_run(two, in2, out)) return 2;
  one_free(one); two_free(two);
  return x[999] != 16;
}
"""


def build(folder: Path, compiler: Toolchain) -> Path:
    """A program that holds two models as static libraries; they need the same kernels."""
    args = ["-O2", "-fPIC", "-c", str(KERNELS), "-o", "kernels.o"]
    toolchain.run(compiler, args, folder)
    programs = {"one": chain("twice", "scratch"), "two": chain("seven_tasks", "twice")}
    for prefix, program in programs.items():
        sources = generate(program, prefix=prefix, workspace=Workspace(4032, 4032))
        toolchain.link(
            [folder / "kernels.o"], sources, (), folder / f"lib{prefix}.so",
            toolchain=compiler, static=folder / f"lib{prefix}.a", prefix=prefix,
        )  # fmt: skip
        (folder / f"{prefix}.h").write_text(sources["model.h"])
    (folder / "main.c").write_text(MAIN)
    flags = [*toolchain.STATIC_FLAGS, "main.c", "libone.a", "libtwo.a", "-o", "main"]
    toolchain.run(compiler.static(), [*flags, *toolchain.LIBRARIES], folder)
    return folder / "main"


def test_two_models_in_one_program(tmp_path: Path) -> None:
    program = build(tmp_path, toolchain.find())
    assert subprocess.run([program], check=False).returncode == 0
    assert (tmp_path / "libone.a").read_bytes() != (tmp_path / "libtwo.a").read_bytes()


def test_two_models_in_one_program_on_arm(tmp_path: Path) -> None:
    compiler, runner = emulated(machine.load("cortex-a53"))
    program = build(tmp_path, compiler)
    done = subprocess.run([*runner.emulator.command, program], check=False)
    assert done.returncode == 0


@pytest.mark.slow
def test_two_models_in_one_program_by_zig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang")
    emulator = emulated(machine.load("cortex-a53"))[1].emulator
    monkeypatch.setenv("PATH", "/nowhere")
    compiler = toolchain.find("aarch64-linux-gnu")
    assert "ziglang" in compiler.text and "aarch64-linux-musl" in compiler.static().text
    program = build(tmp_path, compiler)
    assert subprocess.run([*emulator.command, program], check=False).returncode == 0


def test_nothing_of_libgcc_is_needed(tmp_path: Path) -> None:
    # gcc makes calls of atomics on AArch64 (__aarch64_cas4_acq_rel, ...), which libgcc.a has.
    compiler, _ = emulated(machine.load("cortex-a53"))
    build(tmp_path, compiler)
    library = (tmp_path / "libone.a").read_bytes()
    assert b"__aarch64_" not in library
    assert b"pthread_create" in library


def test_the_members_and_the_index(tmp_path: Path) -> None:
    build(tmp_path, toolchain.find())
    data = (tmp_path / "libone.a").read_bytes()
    assert data.startswith(b"!<arch>\n/               0")
    public = sorted(f"one_{name}" for name in PUBLIC)
    assert b"\0".join(n.encode() for n in public) in data[:400]
    at = data.index(b"\x7fELF")
    assert {s.name for s in symbols(data[at:])} >= {*public, "__tvm_ffi_twice"}
    assert int.from_bytes(data[72:76], "big") == at - 60  # where the index says that the object is


def test_an_odd_size_is_padded() -> None:
    made = archive(b"\x7fELF!", ["go_run"])
    assert len(made) % 2 == 0 and made.endswith(b"\x7fELF!\n")


def test_what_is_no_elf() -> None:
    with pytest.raises(GraphoptError, match="not a 64-bit little-endian ELF file"):
        sections(b"\x7fELF\x01\x01" + bytes(60))


def test_find_without_a_cross_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    def none(name: str) -> None: ...

    monkeypatch.setattr("importlib.util.find_spec", none)
    with pytest.raises(UnsupportedError, match=r"for aarch64-linux-gnu .*`pip install 'graphopt\[arm\]'`"):
        toolchain.find("aarch64-linux-gnu")
