"""The table of what kinds are in PyTorch: a function by kind, which operands are trained.

A function gets the module torch, the kind and the operands (tensors, None where one is absent), and
gives the result, or a tuple of results. Shapes are those of one run of the model: runs are batched
by `torch.func.vmap`, so that a batch of 1 in a reshape, or a batch merged with attention heads,
stays right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from graphopt.errors import UnsupportedError
from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Op, OpKind
from graphopt.passes.distill.library import Tensor, Torch

Function = Callable[..., Any]
F = TypeVar("F", bound=Function)

FUNCTIONS: dict[type[OpKind], Function] = {}
TRAINED: dict[type[OpKind], tuple[int, ...]] = {}


def torch_of(*kinds: type[OpKind], trains: tuple[int, ...] = ()) -> Callable[[F], F]:
    """Enter a function into the table; constants that are operands `trains` become parameters."""

    def enter(function: F) -> F:
        for kind in kinds:
            FUNCTIONS[kind] = function
            TRAINED[kind] = trains
        return function

    return enter


def function_of(op: Op) -> Function:
    """The function that computes an op.

    Raises:
        UnsupportedError: there is none, or the op has a region.
    """
    found = FUNCTIONS.get(type(op.kind))
    if found is None or op.regions:
        what = op.kind.op_type if isinstance(op.kind, Opaque) else op.kind.name
        raise UnsupportedError(f"distill can't train through {what} ({op.loc})")
    return found


def call(torch: Torch, op: Op, operands: list[Tensor]) -> tuple[Tensor, ...]:
    """An op's results."""
    found = function_of(op)(torch, op.kind, *operands)
    return cast("tuple[Tensor, ...]", found) if isinstance(found, tuple) else (found,)
