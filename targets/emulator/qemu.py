"""qemu-user: find it, and the CPU of its list that has a machine's instructions."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache

from graphopt.errors import UnsupportedError
from graphopt.targets import machine
from graphopt.targets.machine import Machine

QEMU = {"armv7l": "arm"}  # what qemu calls an architecture
SUPERSET = "max"  # has every instruction that qemu knows
NO_SVE = "max,sve=off"  # the one large part that qemu can take away (SVE2 and SME go with it)
REMEDY = "apt-get install qemu-user"


@dataclass(frozen=True)
class Emulator:
    """How to run a program: `command` goes before it.

    `cpu` is qemu's; empty: this computer itself. `exact` says whether an instruction that the
    machine lacks would be noticed by running it; `instructions.proved` is for where it wouldn't.
    """

    command: tuple[str, ...]
    cpu: str
    exact: bool
    machine: str

    @property
    def how(self) -> str:
        """Say it: what ran the program."""
        if not self.cpu:
            return f"on this computer, compiled for {self.machine}"
        if self.exact and self.cpu == self.machine:
            return f"as {self.cpu} under qemu"
        if self.exact:
            return f"as {self.cpu}, which has {self.machine}'s instructions, under qemu"
        return f"as {self.cpu}, which has {self.machine}'s instructions and more, under qemu"


def find(target: Machine) -> Emulator:
    """What runs a machine's programs here.

    Raises:
        UnsupportedError: nothing; the message has the command that installs it.
    """
    if platform.machine() == target.arch and target.runs_on(machine.host_features()):
        return Emulator((), "", True, target.name)
    name = f"qemu-{QEMU.get(target.arch, target.arch)}"
    binary = shutil.which(name) or shutil.which(f"{name}-static")
    if not binary:
        raise UnsupportedError(f"no {name} was found to run it: `{REMEDY}`")
    known = cpus(binary)
    for cpu in target.qemu:
        if cpu in known:
            return Emulator((binary, "-cpu", cpu), cpu, True, target.name)
    cpu = NO_SVE if target.arch == "aarch64" and "sve" not in target.cpu_features else SUPERSET
    return Emulator((binary, "-cpu", cpu), cpu, False, target.name)


@lru_cache(maxsize=8)
def cpus(binary: str) -> frozenset[str]:
    """The CPUs that a qemu knows."""
    done = subprocess.run(
        [binary, "-cpu", "help"], capture_output=True, text=True, check=False, timeout=60
    )
    return frozenset(done.stdout.split())
