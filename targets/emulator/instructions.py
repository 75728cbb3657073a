"""Whether a library has no instruction that its CPU lacks, told by reading all of its code.

LLVM's disassembler, given the features of a CPU and no more, says `<unknown>` of an instruction
that needs another. Which features, the machine file says as Linux does (`cpu_features`: what a
runtime checks, too), so the proof is of what the bundle demands. A disassembler isn't believed
unasked: it must tell apart a word for each feature first, as this machine needs it.

The code is the library's own. A program linked statically has a C library's functions for other
CPUs beside it, which are never called there.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphopt.errors import GraphoptError, MismatchError, UnsupportedError
from graphopt.targets.driver import toolchain
from graphopt.targets.machine import Machine

TOOL = "llvm-objdump"
REMEDY = "apt-get install llvm"
UNKNOWN = "<unknown>"
SECONDS = 120.0


@dataclass(frozen=True)
class Feature:
    """What LLVM calls a feature, and the encoding of an instruction that asks for it alone."""

    llvm: str
    word: int


# By Linux's names (Documentation/arch/arm64/elf_hwcaps.rst). Every AArch64 Linux has fp and asimd.
FEATURES = {
    "fp": Feature("fp-armv8", 0x1E222820),  # fadd s0, s1, s2
    "asimd": Feature("neon", 0x4E22CC20),  # fmla v0.4s, v1.4s, v2.4s
    "aes": Feature("aes", 0x4E284820),  # aese v0.16b, v1.16b
    "sha2": Feature("sha2", 0x5E024020),  # sha256h q0, q1, v2.4s
    "crc32": Feature("crc", 0x1AC24020),  # crc32b w0, w1, w2
    "atomics": Feature("lse", 0xB8200041),  # ldadd w0, w1, [x2]
    "asimdrdm": Feature("rdm", 0x6E828420),  # sqrdmlah v0.4s, v1.4s, v2.4s
    "asimdhp": Feature("fullfp16", 0x4E420C20),  # fmla v0.8h, v1.8h, v2.8h
    "asimddp": Feature("dotprod", 0x4F82E020),  # sdot v0.4s, v1.16b, v2.4b[0]
    "asimdfhm": Feature("fp16fml", 0x4E22EC20),  # fmlal v0.4s, v1.4h, v2.4h
    "fcma": Feature("complxnum", 0x6E82C420),  # fcmla v0.4s, v1.4s, v2.4s, #0
    "jscvt": Feature("jsconv", 0x1E7E0020),  # fjcvtzs w0, d1
    "lrcpc": Feature("rcpc", 0xB8BFC020),  # ldapr w0, [x1]
    "sha512": Feature("sha3", 0xCE628020),  # sha512h q0, q1, v2.2d
    "i8mm": Feature("i8mm", 0x4E82A420),  # smmla v0.4s, v1.16b, v2.16b
    "bf16": Feature("bf16", 0x6E42EC20),  # bfmmla v0.4s, v1.8h, v2.8h
    "sve": Feature("sve", 0x2518E3E0),  # ptrue p0.b
    "sve2": Feature("sve2", 0x44824020),  # smlalb z0.s, z1.h, z2.h
}
TWINS = {"fphp": "asimdhp"}  # one feature under two names: scalars, vectors


@dataclass(frozen=True)
class Instruction:
    """One of a library: the function it is in, its address there, and how it reads."""

    function: str
    at: str
    text: str


def proved(libraries: Sequence[Path], machine: Machine, compiler: toolchain.Toolchain) -> str:
    """Read libraries; what was proved, as a sentence.

    Args:
        libraries: ELF, shared, static or objects.
        machine: an AArch64 CPU.
        compiler: for it; assembles what disassemblers are tested with.

    Raises:
        UnsupportedError: there is no disassembler that can tell; the message says what to install.
        MismatchError: the CPU lacks an instruction of theirs.
    """
    tool = find(machine, compiler)
    counts = [f"{_count(tool, path, machine):,} of {path.name}" for path in libraries]
    return (f"{machine.name} has every instruction: {', '.join(counts)} were read with "
            f"{Path(tool).name}")  # fmt: skip


def _count(tool: str, library: Path, machine: Machine) -> int:
    """The instructions of a library, all of which the machine has."""
    found = list(read(tool, library, allowed(machine)))
    if not found:
        raise GraphoptError(f"{tool} reads no instruction in {library.name}")
    if wrong := next((i for i in found if i.text == UNKNOWN), None):
        raise MismatchError(_told(tool, library, wrong, machine))
    return len(found)


def allowed(machine: Machine) -> tuple[str, ...]:
    """A machine's features, without twins.

    Raises:
        UnsupportedError: one isn't in `FEATURES`.
    """
    names = tuple(dict.fromkeys(TWINS.get(name, name) for name in machine.cpu_features))
    if other := sorted(set(names) - set(FEATURES)):
        raise UnsupportedError(f"no instruction is known that tells whether a CPU has {other[0]}")
    return names


def _told(tool: str, library: Path, wrong: Instruction, machine: Machine) -> str:
    """The first instruction too many, read with every feature."""
    everything = read(tool, library, tuple(FEATURES))
    same = (i.text for i in everything if (i.function, i.at) == (wrong.function, wrong.at))
    text = " ".join(next(same, UNKNOWN).split())
    return (f"{library.name} has an instruction that {machine.name} lacks: {text} at 0x{wrong.at} "
            f"in {wrong.function}")  # fmt: skip


def find(machine: Machine, compiler: toolchain.Toolchain) -> str:
    """A disassembler that tells the machine's instructions from others.

    Raises:
        UnsupportedError: there is none.
    """
    features, names = allowed(machine), tools()
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        probe = _probe(Path(folder), compiler) if names else Path()
        for name in names:
            if tells(name, probe, features):
                return name
    if names:
        told = ", ".join(Path(name).name for name in names)
        raise UnsupportedError(f"{told} can't tell {machine.name}'s instructions from others: "
                               f"`{REMEDY}` of a later version")  # fmt: skip
    raise UnsupportedError(f"no {TOOL} was found to read them: `{REMEDY}`")


def tools() -> list[str]:
    """Every llvm-objdump on the PATH, that without a version first, then from the latest."""
    found: dict[int, str] = {}
    for folder in filter(None, os.environ.get("PATH", "").split(os.pathsep)):
        for path in Path(folder).glob(f"{TOOL}*"):
            name = re.fullmatch(rf"{TOOL}(?:-(\d+))?", path.name)
            if name and os.access(path, os.X_OK):
                found.setdefault(int(name[1] or 1_000_000), str(path))
    return [found[version] for version in sorted(found, reverse=True)]


def _probe(folder: Path, compiler: toolchain.Toolchain) -> Path:
    """An object with an instruction for each feature, in their order."""
    lines = (f".inst {feature.word:#010x}\n" for feature in FEATURES.values())
    (folder / "probe.S").write_text("".join((".text\nprobe:\n", *lines)))
    toolchain.run(compiler, ["-g0", "-c", "probe.S", "-o", "probe.o"], folder)
    return folder / "probe.o"


def tells(tool: str, probe: Path, features: tuple[str, ...]) -> bool:
    """Whether it reads exactly those instructions of the probe that the features allow."""
    try:
        found = [i.text != UNKNOWN for i in read(tool, probe, features)]
    except GraphoptError:
        return False
    return found == [name in features for name in FEATURES]


def read(tool: str, library: Path, features: tuple[str, ...]) -> Iterator[Instruction]:
    """The instructions of a library's code; `<unknown>` those that need another feature.

    Raises:
        GraphoptError: the disassembler fails.
    """
    # "generic", because without a CPU some versions add every feature by themselves.
    names = ",".join(f"+{FEATURES[name].llvm}" for name in features)
    options = ["-d", "--no-show-raw-insn", "--triple=aarch64", "--mcpu=generic", f"--mattr={names}"]
    try:
        done = subprocess.run(
            [tool, *options, str(library)], capture_output=True, text=True, errors="replace",
            check=False, timeout=SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as why:
        raise GraphoptError(f"{tool} fails: {why}") from why
    if done.returncode:
        raise GraphoptError(f"{tool} fails: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return _instructions(done.stdout)


def _instructions(listing: str) -> Iterator[Instruction]:
    """Those of a listing; data between them read `.word`, and their labels begin with `$`."""
    function = ""
    for line in listing.splitlines():
        if label := re.fullmatch(r"[0-9a-f]+ <([^$].*)>:", line):
            function = label[1]
        row = re.fullmatch(r"\s*([0-9a-f]+):[^\t]*\t(.*)", line)
        if row and not re.search(r"(^|\t)\.", row[2]):
            yield Instruction(function, row[1], row[2].strip())
