"""The 64-bit ARM target: libraries for Linux boards that need nothing but libc."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from graphopt.errors import UnsupportedError
from graphopt.targets import machine
from graphopt.targets.base import Estimate, Runner
from graphopt.targets.compiled import Compiled
from graphopt.targets.driver import toolchain
from graphopt.targets.emulator.artifact import Emulated, artifact
from graphopt.targets.emulator.estimate import estimate
from graphopt.targets.emulator.qemu import find
from graphopt.targets.program import Dynamic, Program


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

    def accept(self, program: Program) -> None:
        """Refuse what would need ONNX Runtime on the device.

        Raises:
            UnsupportedError: with the ops, and why they aren't compiled.
        """
        whole(program)


def whole(program: Program) -> None:
    """Raise UnsupportedError unless every step of a program is compiled, naming ops and reasons."""
    why = {kind: reason for call in program.fallbacks() for kind, reason in call.reasons}
    if not why:
        return
    told = "; ".join(f"{kind}: {reason}" for kind, reason in sorted(why.items()))
    open_ = [program.buffers[i].name for i in program.inputs
             if isinstance(program.buffers[i].place, Dynamic)]  # fmt: skip
    hint = f" (an open shape of an input? --input-shape {open_[0]}=...)" if open_ else ""
    raise UnsupportedError(
        f"a library without ONNX Runtime can't hold {len(why)} kinds of ops: {told}{hint}"
    )
