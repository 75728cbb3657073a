"""The 64-bit ARM target: libraries for Linux boards that need nothing but libc."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from graphopt.errors import UnsupportedError
from graphopt.ir.core import Module
from graphopt.ir.types import TensorType
from graphopt.targets import machine
from graphopt.targets.base import Estimate, Runner
from graphopt.targets.bundle import ARCHIVE, LIBRARY
from graphopt.targets.compiled import Compiled
from graphopt.targets.driver import toolchain
from graphopt.targets.emulator.artifact import Emulated, artifact
from graphopt.targets.emulator.estimate import estimate
from graphopt.targets.emulator.instructions import proved
from graphopt.targets.emulator.qemu import find
from graphopt.targets.program import Program


@dataclass(frozen=True)
class Arm(Compiled, name="arm"):
    """`arm` is a Cortex-A72; `arm:cortex-a53`, `arm:neoverse-n1`, ... name the CPU."""

    arch: ClassVar[str] = "aarch64"
    static: ClassVar[bool] = True
    default_cpu: ClassVar[str] = "cortex-a72"
    summary: ClassVar[str] = "64-bit ARM on Linux; all of a model compiled, nothing at run time"

    def machine(self) -> machine.Machine:
        """The machine compiled for."""
        return machine.load(self.cpu or self.default_cpu)

    def toolchain(self) -> toolchain.Toolchain:
        """A compiler for it.

        Raises:
            UnsupportedError: there is none.
        """
        return toolchain.find(self.machine().triple)

    def runner(self) -> Runner:
        """This computer, if it is one, else qemu as exactly this CPU."""
        return Emulated(self.toolchain(), find(self.machine()))

    def examine(self, bundle: Path) -> str:
        """Hold every instruction of the libraries against what the CPU has.

        Raises:
            MismatchError: it lacks one.
            UnsupportedError: there is no disassembler.
        """
        return proved([bundle / LIBRARY, bundle / ARCHIVE], self.machine(), self.toolchain())

    def estimate(self, bundle: Path, feed: Mapping[str, Any]) -> Estimate | None:
        """From the instructions that it executes under qemu.

        Raises:
            UnsupportedError: there is no qemu, or it takes no plugins.
        """
        m = self.machine()
        emulator = find(m)
        if not emulator.cpu:
            return None
        with artifact(bundle, self.toolchain(), emulator) as program:
            return estimate(program, feed, m)

    def accept(self, program: Program, module: Module) -> None:
        """Refuse what would need ONNX Runtime on the device.

        Raises:
            UnsupportedError: with the ops, and why they aren't compiled.
        """
        whole(program, module)


def whole(program: Program, module: Module) -> None:
    """Refuse a program of a module unless every step is compiled.

    Raises:
        UnsupportedError: with the inputs whose shapes are open, else the ops and why.
    """
    why = {kind: reason for call in program.fallbacks() for kind, reason in call.reasons}
    if not why:
        return
    named = (r if r.startswith(kind) else f"{kind}: {r}" for kind, r in sorted(why.items()))
    told = f"a library without ONNX Runtime can't hold all of this model: {'; '.join(named)}"
    dims = {a.hint: a.type.shape for a in module.main.args if isinstance(a.type, TensorType)}
    open_ = [f"--input-shape {name}={'x'.join(str(d) for d in shape)}"
             for name, shape in dims.items()
             if shape and not all(isinstance(d, int) for d in shape)]  # fmt: skip
    if open_:
        told = (f"a library without ONNX Runtime needs the size of every input; say it, with "
                f"numbers for the letters: {' '.join(open_)}")  # fmt: skip
    raise UnsupportedError(told)
