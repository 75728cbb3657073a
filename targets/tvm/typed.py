"""What a function of `intmath` is: types, a body in LLVM IR, and the widths that it exists in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphopt.targets.machine import Machine
from graphopt.targets.tvm.vecmath import WIDTHS, Body


def declare_nothing(width: int, machine: Machine) -> str:
    """For a function that calls no intrinsics."""
    return ""


@dataclass(frozen=True)
class Function:
    """A function: the scalar types of its result and operands (as LLVM names them), its body.

    A `ptr` is the same for all lanes.
    """

    result: str
    operands: tuple[str, ...]
    body: Callable[[Body, Machine], str]
    declare: Callable[[int, Machine], str] = declare_nothing
    widths: tuple[int, ...] = WIDTHS
