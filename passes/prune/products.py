"""Products of activations: heads go as wholes, or of each the same; sums lose both sides."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphopt.ir.core import Op
from graphopt.ir.types import Array
from graphopt.passes.prune.units import Units, first, nothing, varying

Joined = Callable[[Units, Sequence[Array | None], tuple[int, ...]], Array]


def multiplied(units: Units, joined: Joined, a: Array, b: Array, shape: tuple[int, ...]) -> Array:
    """Units of a b, of shapes [..., M, K] and [..., K, N].

    Where batches (heads) differ, each goes as a whole, or (`Units.inside`) all lose the same. Then
    what is summed goes from both, and rows of a and columns of b are those of the result.
    """
    if min(a.ndim, b.ndim) < 2:
        for x in (a, b):
            units.fix(x, "a product with a vector reads it")
        return nothing(shape)
    if units.inside:
        a, b = alike(units, a), alike(units, b)
    elif batched(a) or batched(b):
        return np.broadcast_to(heads(units, joined, [a, b], shape), shape)
    a, b = summed(units, a, -1, b, -2), summed(units, b, -2, a, -1)
    rows, columns = -2 % a.ndim in varying(a), -1 % b.ndim in varying(b)
    if rows and columns:
        units.fix(a, "rows and columns of a product would go")
    if columns:
        return np.broadcast_to(first(b, range(b.ndim - 1)).reshape(-1), shape)
    if rows:
        line = first(a, [i for i in range(a.ndim) if i != a.ndim - 2]).reshape(-1, 1)
        return np.broadcast_to(line, shape)
    return nothing(shape)


def batched(x: Array) -> bool:
    """Whether batches of matrices differ."""
    return any(i < x.ndim - 2 for i in varying(x))


def alike(units: Units, x: Array) -> Array:
    """The same units in all batches of matrices."""
    return units.merge_over(x, [i for i in varying(x) if i < x.ndim - 2])


def heads(units: Units, joined: Joined, parts: Sequence[Array], shape: tuple[int, ...]) -> Array:
    """One unit for each batch of matrices, [..., 1, 1]."""
    whole = [first(units.merge_over(x, (-2, -1)), (-2, -1)) for x in parts]
    return joined(units, whole, (*shape[:-2], 1, 1))


def summed(units: Units, a: Array, axis: int, b: Array, other: int) -> Array:
    """`a`, whose elements along an axis are summed with those of `b` along another."""
    axis, other = axis % a.ndim, other % b.ndim
    if axis not in varying(a):
        return a
    a = units.merge_over(a, [i for i in range(a.ndim) if i != axis])
    line = np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1)[:, 0]
    if other in varying(b):
        b = units.merge_over(b, [i for i in range(b.ndim) if i != other])
        units.merge(line, np.moveaxis(b, other, 0).reshape(b.shape[other], -1)[:, 0])
    else:
        units.fix(line, "a product sums over it, and the other factor stays whole")
    return a


def attended(units: Units, joined: Joined, op: Op, given: Sequence[Array | None]) -> Array:
    """softmax(q k^T) v, with a mask that has rows and columns of the scores."""
    q, k, v = (g for g in given[:3] if g is not None)
    shape = op.result.tensor.static
    assert shape is not None
    mask = given[3] if len(given) > 3 else None
    if mask is not None and mask.ndim < 3:
        units.fix(mask, "a mask for all heads")
    if units.inside:
        units.fix(mask, "a mask of scores")
    elif any(map(batched, (q, k, v))) or (mask is not None and mask.any()):
        parts = [q, k, v] if mask is None or mask.ndim < 3 else [q, k, v, mask]
        return np.broadcast_to(heads(units, joined, parts, shape), shape)
    turned = np.swapaxes(k, -1, -2)
    scores = multiplied(units, joined, q, turned, (*shape[:-1], v.shape[-2]))
    units.fix(scores, "a softmax is over it")
    return multiplied(units, joined, nothing(scores.shape), v, shape)
