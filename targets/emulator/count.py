"""Instructions that a bundle's kernels execute, counted under qemu, and the cycles they take.

Counts are exact and the same in every run. Cycles are an estimate: of each block of code that ran,
the busiest of what a core has (see `graphopt.targets.emulator.code`); no cache is modelled.
"""

from __future__ import annotations

import bisect
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError, UnsupportedError
from graphopt.targets.driver import toolchain
from graphopt.targets.driver.archive import sections, symbols
from graphopt.targets.emulator import code
from graphopt.targets.emulator.artifact import Artifact
from graphopt.targets.machine import Machine

KERNEL = "__tvm_ffi_"
END = "_kernels_end_"  # of a symbol, see weights.S
_OTHERS = 1e-3  # of the blocks: what a thread in the background may run when it wakes
_FUNCTION = 2  # type of an ELF symbol


@dataclass(frozen=True)
class Count:
    """What a kernel executed in one run of the model: instructions, and estimated cycles."""

    instructions: int = 0
    cycles: float = 0.0

    def __add__(self, other: Count) -> Count:
        """Of both."""
        return Count(self.instructions + other.instructions, self.cycles + other.cycles)


@dataclass(frozen=True)
class Block:
    """Code that qemu translated at once: address, instructions, how often it ran."""

    at: int
    length: int
    runs: int


def count(
    program: Artifact, feed: Mapping[str, Any], machine: Machine, window: int | None = None
) -> dict[str, Count]:
    """What each kernel (by its symbol) executes in one run, on one thread; "" is all else.

    `window` is for programs that mark what counts, see `listed`.

    Raises:
        UnsupportedError: there is no C compiler for the plugin, or qemu takes none.
    """
    if not program.emulator.cpu:
        raise UnsupportedError("instructions are counted under qemu only")
    found = listed(
        program.emulator.command[0],
        lambda options: program.run(feed, 1, options),
        program.path.parent,
        window,
    )
    return tally(program.path.read_bytes(), found, machine)


def listed(
    qemu: str, run: Callable[[Sequence[str]], object], folder: Path, window: int | None = None
) -> list[Block]:
    """The blocks that a program runs.

    Args:
        qemu: the emulator.
        run: runs the program with these options of qemu's.
        folder: for a while, of files.
        window: a system call's number; only what runs between its first two calls counts.

    Raises:
        UnsupportedError: there is no C compiler for the plugin, or qemu takes none.
        GraphoptError: what is counted runs on several threads.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        lines = Path(name) / "blocks"
        marked = "" if window is None else f",window={window}"
        run(("-plugin", f"{build(Path(name), qemu)},out={lines}{marked}"))
        if not lines.exists():
            raise UnsupportedError("this qemu runs no plugins, so nothing was counted")
        blocks = [_block(line) for line in lines.read_text().splitlines()]
    others = sum(block.runs for block in blocks if not block.at)
    if others > _OTHERS * sum(block.runs for block in blocks):
        raise GraphoptError("several threads ran: their instructions can't be counted")
    return [block for block in blocks if block.at]


def build(folder: Path, qemu: str) -> Path:
    """Compile the plugin for this computer's qemu."""
    source = folder / "count.c"
    source.write_bytes(Path(__file__).with_name("count.c").read_bytes())
    flags = ["-O2", "-fPIC", "-shared", f"-DVERSION={_interface(qemu)}"]
    args = [*flags, source.name, "-o", "count.so"]
    toolchain.run(toolchain.find(), args, folder)
    return folder / "count.so"


def _interface(qemu: str) -> int:
    """The version of the plugin interface that a qemu wants: 2 from 9.0 on."""
    told = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=False).stdout
    words = told.split()
    major = words[words.index("version") + 1].split(".")[0] if "version" in words else "0"
    return 2 if int(major) >= 9 else 1


def _block(line: str) -> Block:
    at, length, runs = line.split()
    return Block(int(at, 16), int(length), int(runs))


def tally(elf: bytes, blocks: Sequence[Block], machine: Machine) -> dict[str, Count]:
    """The blocks' counts by kernel."""
    entries, text = kernels(elf), Text(elf)
    starts = [at for at, _ in entries]
    found: dict[str, Count] = {"": Count()}
    for block in blocks:
        place = bisect.bisect_right(starts, block.at) - 1
        name = entries[place][1] if place >= 0 else ""
        cycles = code.cycles(text.words(block), machine) if name else 0.0
        mine = Count(block.length * block.runs, cycles * block.runs)
        found[name] = found.get(name, Count()) + mine
    return found


def kernels(elf: bytes) -> list[tuple[int, str]]:
    """Where kernels' code begins, by address; "" from where none follows.

    A kernel's entry is the first function of its object, which the linker keeps together.
    """
    found = [(s.value, s.name.removeprefix(KERNEL)) for s in symbols(elf)
             if s.type == _FUNCTION and s.name.startswith(KERNEL) and s.name != f"{KERNEL}main"]
    ends = [(s.value, "") for s in symbols(elf) if s.name.endswith(END)]
    if not ends:
        raise GraphoptError("the program has no symbol where its kernels end")
    return sorted({*found, *ends})


class Text:
    """The code of a program that isn't moved when it is loaded."""

    def __init__(self, elf: bytes) -> None:
        self.elf = elf
        self.parts = [s for s in sections(elf) if s.address]

    def words(self, block: Block) -> Iterator[int]:
        """The instructions of a block."""
        part = next(s for s in self.parts if s.address <= block.at < s.address + s.size)
        at = part.offset + block.at - part.address
        for i in range(block.length):
            yield int.from_bytes(self.elf[at + 4 * i : at + 4 * i + 4], "little")


