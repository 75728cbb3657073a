"""Instructions by what they occupy, cycles of blocks, and finding qemu."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.errors import GraphoptError, UnsupportedError
from graphopt.targets import machine
from graphopt.targets.emulator import code, qemu
from graphopt.targets.emulator.count import Block, tally

# As GNU as encodes them, and objdump reads them.
VECTOR, LOAD, STORE, NONE = code.Use(vector=1), code.Use(load=1), code.Use(store=1), code.Use()
WORDS = {
    "fmla v0.4s, v1.4s, v2.s[0]": (0x4F821020, VECTOR),
    "fmul v0.4s, v1.4s, v2.4s": (0x6E22DC20, VECTOR),
    "smlal v0.4s, v1.4h, v2.4h": (0x0E628020, VECTOR),
    "sdot v0.4s, v1.16b, v2.4b[0]": (0x4F82E020, VECTOR),
    "fcvtzs v0.4s, v1.4s": (0x4EA1B820, VECTOR),
    "dup v0.4s, w0": (0x4E040C00, VECTOR),
    "fmov w0, s0": (0x1E260000, VECTOR),
    "fdiv v0.4s, v1.4s, v2.4s": (0x6E22FC20, code.Use(vector=code.SLOW)),
    "fsqrt v0.4s, v1.4s": (0x6EA1F820, code.Use(vector=code.SLOW)),
    "fdiv s0, s1, s2": (0x1E221820, code.Use(vector=code.SLOW)),
    "fsqrt d0, d1": (0x1E61C020, code.Use(vector=code.SLOW)),
    "add x0, x1, x2": (0x8B020020, NONE),
    "mul x0, x1, x2": (0x9B027C20, NONE),
    "b.ne": (0x54000001, NONE),
    "bl": (0x94000000, NONE),
    "ldr q0, [x1, #16]": (0x3DC00420, LOAD),
    "ldr x0, [x1, x2]": (0xF8626820, LOAD),
    "ldrsw x0, [x1]": (0xB9800020, LOAD),
    "ldr q0, literal": (0x9C000000, LOAD),
    "ldar w0, [x1]": (0x88DFFC20, LOAD),
    "ldp x0, x1, [sp]": (0xA94007E0, LOAD),
    "ldp q0, q1, [x2], #32": (0xACC10440, code.Use(load=2)),
    "ld1 {v0.4s-v3.4s}, [x0]": (0x4C402800, code.Use(load=4)),
    "ld4 {v0.4s-v3.4s}, [x0]": (0x4C400800, code.Use(load=4)),
    "ld1r {v0.4s}, [x0]": (0x4D40C800, LOAD),
    "ld1 {v0.s}[1], [x0]": (0x0D409000, LOAD),
    "str s0, [x1]": (0xBD000020, STORE),
    "strb w0, [x1]": (0x39000020, STORE),
    "stp q0, q1, [x2]": (0xAD000440, code.Use(store=2)),
    "st1 {v0.16b, v1.16b}, [x0]": (0x4C00A000, code.Use(store=2)),
}


@pytest.mark.parametrize("text", WORDS)
def test_what_an_instruction_occupies(text: str) -> None:
    word, want = WORDS[text]
    assert code.use(word) == want


def test_cycles_are_of_the_busiest() -> None:
    a72, n1 = machine.load("cortex-a72"), machine.load("neoverse-n1")
    fmla, load, add = (WORDS[t][0] for t in ("fmla v0.4s, v1.4s, v2.s[0]", "ldr q0, [x1, #16]", "add x0, x1, x2"))
    block = [fmla] * 8 + [load] * 2 + [add]
    assert code.cycles(block, a72) == 8 / a72.pipes["vector"]
    assert code.cycles(block, n1) == max(8 / n1.pipes["vector"], 11 / n1.pipes["issue"])
    assert code.cycles([load] * 6, a72) == 6 / a72.pipes["load"]
    assert code.cycles([add] * 9, a72) == 9 / a72.pipes["issue"]
    assert code.cycles([], a72) == 0


def fake(folder: Path, cpus: str) -> None:
    """A qemu that knows some CPUs."""
    qemu.cpus.cache_clear()
    path = folder / "qemu-aarch64"
    path.write_text(f"#!/bin/sh\necho '{cpus}'\n")
    path.chmod(0o755)


def test_a_cpu_that_qemu_knows_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    fake(tmp_path, "cortex-a53 cortex-a72 max")
    found = qemu.find(machine.load("cortex-a72"))
    assert found.command == (str(tmp_path / "qemu-aarch64"), "-cpu", "cortex-a72")
    assert found.exact and found.how == "as cortex-a72 under qemu"
    fake(tmp_path, "max")
    found = qemu.find(machine.load("cortex-a72"))
    assert not found.exact
    assert found.how == "as max,sve=off, which has cortex-a72's instructions and more, under qemu"


def test_no_qemu_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(UnsupportedError, match=r"no qemu-aarch64 was found.*apt-get install qemu-user"):
        qemu.find(machine.load("cortex-a53"))


def test_counts_need_the_symbol_where_kernels_end() -> None:
    with pytest.raises(GraphoptError, match="not a 64-bit little-endian ELF"):
        tally(b"MZ" + bytes(100), [Block(0, 1, 1)], machine.load("cortex-a72"))
