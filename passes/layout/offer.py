"""Offers: in which layouts an op can read its operands and write its results, and at what cost.

Costs are bytes moved, what a reorder costs being the bytes that it reads and writes. What a kernel
does instead is put in the same currency; the factors are from timings of kernels on one core with
AVX-512, and what counts is how they compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphopt.ir.core import Op, Value
from graphopt.passes.layout import tags

GATHERED = 0.75  # of a reorder: what reading a dense tensor costs a kernel that works in blocks
SCATTERED = 0.4  # what writing one costs a pool
PADDED = 0.25  # of the bytes of padding: what writing and reading zeros costs in a kernel
OPS_A_BYTE = 8  # operations in the time of a byte that a reorder moves

NO_TAGS: Mapping[int, tuple[str, str]] = {}


@dataclass(frozen=True)
class Choice:
    """A decision between dense and blocked: the bytes that each costs; None: it can't be."""

    dense: int | None = 0
    blocked: int | None = 0


DENSE = Choice(blocked=None)
BLOCKED = Choice(dense=None)


@dataclass(frozen=True)
class Offer:
    """What one op can do.

    Attributes:
        choices: the op's decisions, each made by itself.
        operands: for each operand, the choice that says how it is read; None: always dense, or a
            parameter, which `tags` packs.
        results: for each result, the choice that says how it is written.
        tags: the layouts (if the first choice is dense, if it is blocked) of operands that want
            another one than their choice's.
        loose: operands that are read as they are where their choice is blocked.
        mixed: bytes that it costs unless all choices agree.
    """

    choices: tuple[Choice, ...]
    operands: tuple[int | None, ...]
    results: tuple[int, ...]
    tags: Mapping[int, tuple[str, str]] = field(default_factory=lambda: NO_TAGS)
    loose: frozenset[int] = frozenset()
    mixed: int = 0


def dense(op: Op, packs: Mapping[int, str] | None = None) -> Offer:
    """Everything is dense, but for parameters, which are packed in layouts of their own."""
    same = {i: (tag, tag) for i, tag in (packs or {}).items()}
    return Offer((DENSE,), (None,) * len(op.operands), (0,) * len(op.results), same)


def together(op: Op, choice: Choice) -> Offer:
    """One choice for the first operand and all results; the other operands are parameters."""
    rest = (None,) * (len(op.operands) - 1)
    return Offer((choice,), (0, *rest), (0,) * len(op.results))


def padded(value: Value, block: int) -> int:
    """What the padding of a blocked value costs."""
    return int(PADDED * tags.padding(value, block))


def repacked(value: Value, block: int) -> int:
    """What a kernel that works in blocks pays for a dense operand, or for few dense results."""
    return int(GATHERED * tags.moved(value, block))


def scattered(value: Value, block: int) -> int:
    """What a pool pays for a dense result."""
    return max(int(SCATTERED * tags.moved(value, block)), tags.VIEW)
