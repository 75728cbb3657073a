"""What an Einsum multiplies, by its equation (ONNX Einsum; numpy.einsum without `optimize`)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

_TERM = re.compile(r"([A-Za-z]*)(\.\.\.)?([A-Za-z]*)\Z")
Sizes = dict[str, int]


def einsum_macs(equation: str, shapes: Sequence[Sequence[int]]) -> int:
    """Multiply-accumulates: of two operands, one for each value of all their indices together.

    More operands are contracted from the left, two at a time; an index goes with the first pair
    after which nothing has it. One operand multiplies nothing. 0 for an equation that doesn't fit.

    Args:
        equation: as `bij,bjk->bik`; an ellipsis stands for axes that are aligned at the right.
        shapes: of the operands.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        return 0
    found = [_sizes(term, shape) for term, shape in zip(terms, shapes, strict=True)]
    operands = [f for f in found if f is not None]
    if len(operands) < len(terms):
        return 0
    result = set(right) if arrow else {c for c in left if left.count(c) == 1}
    total, made = 0, operands[0]
    for i, other in enumerate(operands[1:], 2):
        both = _joined(made, other)
        total += math.prod(both.values())
        later = result.union(*operands[i:])
        made = {k: d for k, d in both.items() if k in later or k.isdigit()}
    return total


def _sizes(term: str, shape: Sequence[int]) -> Sizes | None:
    """The sizes of a term's indices; those of its ellipsis are numbered from the right."""
    parts = _TERM.match(term)
    if not parts:
        return None
    first, dots, last = parts.groups()
    more = len(shape) - len(first) - len(last)
    if more < 0 or (more and not dots):
        return None
    names = [*first, *(str(more - 1 - i) for i in range(more)), *last]
    return dict(zip(names, shape, strict=True))


def _joined(a: Sizes, b: Sizes) -> Sizes:
    """The sizes of the indices of both; what is broadcast has the larger one."""
    return {k: max(a.get(k, 1), b.get(k, 1)) for k in {**a, **b}}
