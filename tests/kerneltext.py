"""A kernel as `compile_kernels` takes it. Without TVM, which that never imports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class K:
    """A `graphopt.targets.tvm.compile.KernelText`."""

    symbol: str
    key: str
    text: str
    knobs: str = ""
