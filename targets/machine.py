"""Machines: what a code generator must know of a CPU, read from TOML files beside this module.

A machine is the *least* CPU its kernels run on; `cpu_features` (spelled as in /proc/cpuinfo) is
what a runtime checks before it calls them: what a compiler may use unasked, so not the random
numbers of `rdrand` and `rdseed`, which Linux hides on CPUs where they err (Zen 5). Some describe
one design (`cpus`), with what was measured on it: they are chosen by themselves on that design
alone, and give the same bytes wherever they are named.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from graphopt.errors import InputError, UnsupportedError
from graphopt.spec import nearest

FOLDER = Path(__file__).parent / "machines"


@dataclass(frozen=True)
class Machine:
    """One CPU model.

    `lanes` counts float32 elements of a vector register, `registers` the vector registers;
    caches are in bytes per core; peak_gflops (float32, one core) is 0 and `bandwidth`, pairs of a
    working set in bytes and 1e9 bytes a second (one core), is empty where nobody measured them.
    `halves` are the products of bfloat16 by vectors in the time of one of float32; 0 where float32
    is as fast, or nobody measured it.
    `broadcasts` are the registers that a register tile's columns take in turn (0: each its own).
    `band_bytes` of padded operand are what a depthwise kernel works on at a time (0: l1_bytes).
    `cpus` are designs as "vendor/family/first model-last model"; none: any CPU with the features.
    `ghz` is a usual clock and `pipes` what a core begins a cycle, as Arm's optimization guides say:
    instructions in all (`issue`), of 128 bits for vectors, loads and stores; for emulated CPUs.
    `qemu` are CPUs of qemu-user with the same instructions, the best first.
    `portable`: kernels are C, and the compiler that links them knows the machine.
    """

    name: str
    arch: str
    triple: str
    mcpu: str
    mattr: tuple[str, ...]
    cpu_features: tuple[str, ...]
    lanes: int
    registers: int
    fma: bool
    l1_bytes: int
    l2_bytes: int
    cores: int = 1
    peak_gflops: float = 0.0
    bandwidth: tuple[tuple[int, float], ...] = ()
    halves: float = 0.0
    broadcasts: int = 0
    band_bytes: int = 0
    cpus: tuple[str, ...] = ()
    ghz: float = 0.0
    pipes: Mapping[str, float] = field(default_factory=dict[str, float], hash=False)
    qemu: tuple[str, ...] = ()
    portable: bool = False

    @property
    def signed(self) -> bool:
        """Whether its dot products of bytes are of two signed operands; x86's first is unsigned."""
        return self.arch == "aarch64"

    @property
    def converts(self) -> bool:
        """Whether it rounds to bfloat16 by an instruction, which takes denormals for zero.

        Only where what multiplies bfloat16 does so, too.
        """
        return self.halves > 1 or "amx_bf16" in self.cpu_features

    def to_json(self) -> str:
        """One line of JSON, the same for equal machines."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Machine:
        """The inverse of `to_json`."""
        return _machine(json.loads(text))

    def runs_on(self, features: frozenset[str]) -> bool:
        """Whether a CPU with these features can run code made for this machine."""
        return features.issuperset(self.cpu_features)

    def describes(self, cpu: Design | None) -> bool:
        """Whether this is a description of the CPU's own design."""
        return cpu is not None and any(cpu.within(text) for text in self.cpus)


@dataclass(frozen=True)
class Design:
    """Which CPU an x86 computer has, in the numbers of /proc/cpuinfo."""

    vendor: str
    family: int
    model: int

    def within(self, text: str) -> bool:
        """Whether it is one of "vendor/family/first model-last model"."""
        vendor, family, models = text.split("/")
        first, last = map(int, models.split("-"))
        return (vendor, int(family)) == (self.vendor, self.family) and first <= self.model <= last


def _machine(fields: dict[str, Any]) -> Machine:
    lists = ("mattr", "cpu_features", "cpus", "qemu")
    values: dict[str, Any] = {k: tuple(v) if k in lists else v for k, v in fields.items()}
    values["bandwidth"] = tuple((int(n), float(g)) for n, g in fields.get("bandwidth", ()))
    return Machine(**values)


@cache
def names() -> tuple[str, ...]:
    """The known machines."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


@lru_cache(maxsize=64)
def load(name: str) -> Machine:
    """Read a machine by name.

    Raises:
        InputError: there is none; the nearest is offered.
    """
    if name not in names():
        raise InputError(f"no machine named {name!r}{nearest(name, names())}")
    fields = tomllib.loads((FOLDER / f"{name}.toml").read_text("utf-8"))
    return _machine({"name": name, **fields})


@lru_cache(maxsize=8)
def host_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The flags of this computer's CPU, as Linux spells them; empty where it doesn't say."""
    try:
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
    except OSError:
        return frozenset()
    flags = (line for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(flags, ":").split(":", 1)[1].split())


@lru_cache(maxsize=8)
def host_design(cpuinfo: Path = Path("/proc/cpuinfo")) -> Design | None:
    """This computer's design; None where Linux doesn't say, as on other than x86."""
    try:
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    found: dict[str, str] = {}
    for key, _, value in (line.partition(":") for line in lines):
        found.setdefault(key.strip(), value.strip())
    try:
        return Design(found["vendor_id"], int(found["cpu family"]), int(found["model"]))
    except (KeyError, ValueError):
        return None


def detect(features: frozenset[str] | None = None, design: Design | None = None) -> Machine:
    """The machine that describes this computer's design, else the one with the widest vectors.

    `features` asks for another CPU, of a `design` if one is given.

    Raises:
        UnsupportedError: none of them.
    """
    have = host_features() if features is None else features
    design = host_design() if features is None else design
    runs = [m for m in map(load, names()) if m.runs_on(have) and not m.portable]
    fitting = [m for m in runs if m.describes(design)] or [m for m in runs if not m.cpus]
    if not fitting:
        raise UnsupportedError(f"this CPU runs none of the known machines: {', '.join(names())}")
    return max(fitting, key=lambda m: (m.lanes, len(m.cpu_features)))
