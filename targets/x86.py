"""The x86-64 target: TVM kernels for AVX2 or AVX-512, ONNX Runtime for what they don't cover."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import ClassVar

from graphopt.errors import UnsupportedError
from graphopt.targets import machine
from graphopt.targets.compiled import Compiled


@dataclass(frozen=True)
class X86(Compiled, name="x86"):
    """`x86` is this computer's own CPU; `x86:avx2`, `x86:avx512`, `x86:x86-64-v2` name a level."""

    arch: ClassVar[str] = "x86_64"
    summary: ClassVar[str] = "64-bit x86 on Linux; kernels by TVM, the rest in ONNX Runtime"

    def machine(self) -> machine.Machine:
        """The machine compiled for.

        Raises:
            UnsupportedError: no level is named and this computer is no x86.
        """
        if self.cpu:
            return machine.load(self.cpu)
        if platform.machine() not in ("x86_64", "AMD64"):
            raise UnsupportedError(
                f"this computer is {platform.machine()}, so name the CPU: --target x86:avx2"
            )
        return machine.detect()
