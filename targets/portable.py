"""The C target: a model as one C file, and libraries of it for a machine with any C compiler."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from typing import ClassVar

from graphopt.analysis.price import Costs
from graphopt.errors import UnsupportedError
from graphopt.ir.core import Module
from graphopt.targets import machine
from graphopt.targets.arm import whole
from graphopt.targets.base import Estimate, Runner
from graphopt.targets.compiled import Compiled, Native
from graphopt.targets.costs import ModelCosts, reference_model
from graphopt.targets.driver import toolchain
from graphopt.targets.emulator.artifact import Emulated
from graphopt.targets.emulator.qemu import find
from graphopt.targets.program import Program

TRIPLES = {  # of machines whose lowest byte comes first: `uname -m`, qemu's plain CPUs
    "aarch64-linux-gnu": ("aarch64", ("cortex-a53",)),
    "arm-linux-gnueabihf": ("armv7l", ("cortex-a7",)),
    "armv7-linux-gnueabihf": ("armv7l", ("cortex-a7",)),
    "riscv64-linux-gnu": ("riscv64", ("rv64",)),
    "x86_64-linux-gnu": ("x86_64", ("qemu64",)),
}


@dataclass(frozen=True)
class C(Compiled, name="c"):
    """`c` is for this computer, `c:riscv64-linux-gnu`, `c:armv7-linux-gnueabihf`... for others."""

    arch: ClassVar[str] = "c"
    static: ClassVar[bool] = True
    summary: ClassVar[str] = "C for any machine on Linux; slower than kernels for one CPU"

    @classmethod
    def cpus(cls) -> list[str]:
        """The machines that may be named."""
        return sorted(TRIPLES)

    def machine(self) -> machine.Machine:
        """Kernels are the same for all."""
        return machine.load("portable")

    def describe(self) -> str:
        """The machine on one line."""
        return f"{self.cpu}: C11, pthreads" if self.cpu else "this computer: C11, pthreads"

    @property
    def built_for(self) -> str:
        """The architecture of the libraries."""
        return TRIPLES[self.cpu][0] if self.cpu else platform.machine()

    def toolchain(self) -> toolchain.Toolchain:
        """A compiler for it.

        Raises:
            UnsupportedError: there is none.
        """
        here = not self.cpu or self.built_for == platform.machine()
        return toolchain.find(None if here else self.cpu)

    def runner(self) -> Runner:
        """This computer, or qemu."""
        if self.built_for == platform.machine():
            return Native()
        arch, cpus = TRIPLES[self.cpu]
        own = replace(self.machine(), name=self.cpu, arch=arch, triple=self.cpu, qemu=cpus)
        return Emulated(self.toolchain(), find(own))

    def estimate(self, bundle: object, feed: object) -> Estimate | None:
        """None is made: what a C compiler does isn't known here.

        Raises:
            UnsupportedError: this computer can't time it.
        """
        if self.built_for != platform.machine():
            raise UnsupportedError("times are estimated for --target arm only")
        return None

    def costs(self, threads: int) -> Costs | None:
        """Prices of the machine as described."""
        return ModelCosts(self, lambda: reference_model(self.machine()))

    def accept(self, program: Program, module: Module) -> None:
        """Refuse what would need ONNX Runtime.

        Raises:
            UnsupportedError: with the ops, and why they aren't compiled.
        """
        whole(program, module)
