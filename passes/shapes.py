"""Questions about shapes, and views, that several passes share."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.core import Value
from graphopt.ir.types import Dim, TensorType, same
from graphopt.ops.movement import Reshape
from graphopt.rewrite import Miss, Rewriter


def same_shape(a: Value, b: Value) -> bool:
    """Whether two tensors are known to have one shape."""
    left, right = _shape(a), _shape(b)
    if left is None or right is None or len(left) != len(right):
        return False
    return all(same(x, y) for x, y in zip(left, right, strict=True))


def _shape(value: Value) -> tuple[Dim, ...] | None:
    return value.type.shape if isinstance(value.type, TensorType) else None


def rank(value: Value) -> int:
    """The rank, which must be known (else Miss)."""
    found = value.tensor.rank
    if found is None:
        raise Miss(f"the rank of %{value.hint} isn't known")
    return found


def static(value: Value) -> tuple[int, ...]:
    """The shape, which must be static (else Miss)."""
    found = value.tensor.static
    if found is None:
        raise Miss(f"the shape {value.type} isn't static")
    return found


def view(rw: Rewriter, x: Value, want: Sequence[Dim] | None) -> Value:
    """x reshaped to `want`; x itself where that changes nothing.

    Raises:
        Miss: more than one size is neither a number nor kept from x.
    """
    have = x.tensor.shape
    if have is None or want is None:
        raise Miss("a rank isn't known")
    if len(have) == len(want) and sum(not same(a, b) for a, b in zip(have, want, strict=True)) <= 1:
        numbers = [d for d in (*have, *want) if isinstance(d, int)]
        if 0 not in numbers:  # all sizes but one agree, so the last one does too
            return x
    return rw.make(Reshape(view_sizes(tuple(have), tuple(want))), x)


def view_sizes(have: tuple[Dim, ...], want: tuple[Dim, ...]) -> tuple[int, ...]:
    """The sizes of a `reshape` from `have` to `want`: 0 where a symbol stays, at most one -1.

    Raises:
        Miss: they can't be said.
    """
    if 0 in want:
        raise Miss("a size of 0 means another thing in a reshape")
    sizes: list[int] = []
    for i, d in enumerate(want):
        kept = i < len(have) and same(d, have[i])
        sizes.append(d if isinstance(d, int) else 0 if kept else -1)
    if sizes.count(-1) > 1:
        raise Miss(f"more than one size of [{', '.join(map(str, want))}] isn't known")
    return tuple(sizes)
