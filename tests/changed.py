"""Modules with other numbers, and seeded samples: what tests of repairing passes begin with."""

from __future__ import annotations

import numpy as np

from graphopt.activations import SampleRuns
from graphopt.analysis.interpret import random_inputs
from graphopt.ir.builtin import Const
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Module, Op
from graphopt.ir.data import Inline
from graphopt.ir.types import Array


def samples(module: Module, count: int, first: int = 0, data: str = "given") -> SampleRuns:
    """Seeded inputs."""
    feeds = [random_inputs(module, seed) for seed in range(first, first + count)]
    return SampleRuns(lambda: feeds, count, data)


def constants(module: Module) -> dict[str, Array]:
    """Numbers of constants by name."""
    return {
        op.result.hint: op.kind.data.numpy() for op in module.main if isinstance(op.kind, Const)
    }


def changed(module: Module, numbers: dict[str, Array]) -> Module:
    """A copy in which constants of some names have other numbers."""
    copy = clone_module(module)
    for op in list(copy.main):
        if isinstance(op.kind, Const) and op.result.hint in numbers:
            data = Inline(numbers[op.result.hint].astype(np.float32))
            made = Op(Const(data), hints=[op.result.hint])
            op.result.replace_all_uses_with(copy.main.insert(made, op).result)
            copy.main.erase(op)
    return copy
