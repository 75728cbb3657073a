"""The hottest loop of each kernel in llvm-mca, beside the estimate of graphopt's own model.

A loop is what lies between a branch backwards and its target, with no such loop inside. How often its
instructions ran is known from qemu's blocks. llvm-mca takes all loads for hits and all branches for
foreseen, as the estimate does, but knows latencies, too. *Peak* is a multiply-add in every lane of
every vector pipe of the machine file.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from arm_bench.ours import Ours
from arm_bench.system import MissingError
from graphopt.targets.emulator import code
from graphopt.targets.emulator.count import Block, Text, kernels
from graphopt.targets.machine import Machine

ITERATIONS = 100
_BRANCH = re.compile(r"^(b\.?\w*|cbn?z|tbn?z|bl)\t(.*?)(0x[0-9a-f]+)( <.*>)?$")
_NAME = re.compile(r" <.*>$")
_FMA = re.compile(r"^fml[as]\tv\d+\.(\d)s")
_SCALAR = re.compile(r"^fn?m(?:add|sub)\ts")
_SPILL = re.compile(r"^(?:ld|st)\w+\t.*\[sp[\],]")


@dataclass(frozen=True)
class Loop:
    """A loop of a kernel.

    Attributes:
        kernel: its symbol.
        family: the template it was made from.
        share: of the instructions of its run of the model, from 0 to 1.
        length: instructions.
        lanes: multiply-adds of a float32 in it.
        spills: loads and stores on the stack.
        cycles: of a turn, by llvm-mca.
        estimate: the same by `graphopt.targets.emulator.code`.
        best: cycles that the multiply-adds take when every vector pipe always has one.
    """

    kernel: str
    family: str
    share: float
    length: int
    lanes: int
    spills: int
    cycles: float
    estimate: float
    best: float


def loops(ours: Ours, machine: Machine, least: float = 0.01) -> list[Loop]:
    """The hottest loop of every kernel that has `least` of the run's instructions.

    Raises:
        MissingError: LLVM's tools aren't here.
    """
    families = {layer.kernel: layer.family for layer in ours.program.manifest.layers}
    places = kernels(ours.program.path.read_bytes())
    ends = [at for at, _ in places[1:]]
    found: list[Loop] = []
    for (at, name), end in zip(places, ends, strict=False):
        count = ours.counts.get(name)
        if not name or count is None or count.instructions < least * ours.total:
            continue
        lines = disassembled(ours.program.path, at, end)
        hot = max(_inner(lines), key=lambda p: _ran(ours.blocks, *p), default=None)
        if hot:
            text = [lines[i] for i in range(hot[0], hot[1] + 4, 4)]
            share = _ran(ours.blocks, *hot) / ours.total
            found.append(_loop(name, families.get(name, ""), share, text, ours, hot, machine))
    return sorted(found, key=lambda loop: -loop.share)


def _loop(
    kernel: str, family: str, share: float, text: Sequence[str], ours: Ours,
    place: tuple[int, int], machine: Machine,
) -> Loop:  # fmt: skip
    lanes = sum(int(m[1]) for m in map(_FMA.match, text) if m)
    lanes += sum(bool(_SCALAR.match(line)) for line in text)
    cycles = analysed(text, machine)
    block = Block(place[0], len(text), 1)
    return Loop(
        kernel, family, share, len(text), lanes, sum(bool(_SPILL.match(line)) for line in text),
        cycles, code.cycles(Text(ours.program.path.read_bytes()).words(block), machine),
        lanes / machine.lanes / machine.pipes["vector"],
    )  # fmt: skip


def _inner(lines: dict[int, str]) -> Iterator[tuple[int, int]]:
    """Loops without loops in them: addresses of the first and of the last instruction."""
    backwards = sorted((to, at) for at, to in _jumps(lines) if to <= at)
    for first, last in backwards:
        inside = any(first <= a and b <= last and (a, b) != (first, last) for a, b in backwards)
        if not inside and all(i in lines for i in range(first, last + 4, 4)):
            yield first, last


def _jumps(lines: dict[int, str]) -> Iterator[tuple[int, int]]:
    for at, line in lines.items():
        match = _BRANCH.match(line)
        if match and match[1] != "bl":
            yield at, int(match[3], 16)


def _ran(blocks: Sequence[Block], first: int, last: int) -> int:
    """Instructions executed from `first` to `last`."""
    overlaps = ((min(b.at + 4 * b.length, last + 4) - max(b.at, first), b.runs) for b in blocks)
    return sum(max(0, size) // 4 * runs for size, runs in overlaps)


def disassembled(program: Path, first: int, end: int) -> dict[int, str]:
    """The instructions of a part of a program, by address.

    Raises:
        MissingError: there is no llvm-objdump.
    """
    command = [tool("llvm-objdump"), "-d", "--no-show-raw-insn", f"--start-address={first:#x}",
               f"--stop-address={end:#x}", str(program)]  # fmt: skip
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    pairs = (line.split(":", 1) for line in told.splitlines() if re.match(r"\s+[0-9a-f]+: ", line))
    return {int(at, 16): text.strip() for at, text in pairs}


def analysed(text: Sequence[str], machine: Machine) -> float:
    """Cycles of a turn of a loop.

    Raises:
        MissingError: there is no llvm-mca, or it doesn't take the code.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        source = Path(name) / "loop.s"
        lines = (_NAME.sub("", _BRANCH.sub(r"\1\t\2#0", line)) for line in text)
        source.write_text("\n".join(lines) + "\n")
        command = [tool("llvm-mca"), f"-mtriple={machine.triple}", f"-mcpu={machine.mcpu}",
                   f"--iterations={ITERATIONS}", "--json", str(source)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingError(f"llvm-mca: {done.stderr.strip().splitlines()[0][:200]}")
    summary = json.loads(done.stdout)["CodeRegions"][0]["SummaryView"]
    return summary["TotalCycles"] / summary["Iterations"]


def tool(name: str) -> str:
    """A tool of LLVM's, as Debian names it or plain.

    Raises:
        MissingError: it isn't here.
    """
    for version in range(25, 18, -1):
        if found := shutil.which(f"{name}-{version}"):
            return found
    if found := shutil.which(name):
        return found
    raise MissingError(f"no {name} here: `apt-get install llvm-19`")
