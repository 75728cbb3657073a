"""What ops that move elements do to units: the same move."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphopt.ir.core import Op
from graphopt.ir.types import Array
from graphopt.ops import movement as mv
from graphopt.passes.prune.units import first, spread, thin

MOVES = (mv.Reshape, mv.Transpose, mv.Squeeze, mv.Unsqueeze, mv.Slice, mv.Split, mv.Expand,
         mv.Tile, mv.DepthToSpace, mv.SpaceToDepth, mv.Reorder)  # fmt: skip


def moved(op: Op, x: Array) -> list[Array]:
    """The units of a move's results, views where that is possible.

    Args:
        op: of one of MOVES; its results' shapes are static.
        x: the units of its operand.
    """
    kind, shape = op.kind, op.results[0].tensor.static
    assert shape is not None
    match kind:
        case mv.Reshape() | mv.Squeeze() | mv.Unsqueeze():
            return [x.reshape(shape)]
        case mv.Transpose(perm):
            return [x.transpose(perm)]
        case mv.Expand():
            return [np.broadcast_to(x, shape)]
        case mv.Reorder():
            return [x]
        case mv.Tile(repeats):
            (t,) = thin(x)
            counts = [1 if d == 1 else r for d, r in zip(t.shape, repeats, strict=True)]
            return [np.broadcast_to(np.tile(t, counts), shape)]
        case _:
            return list(kind.evaluate(x))


def concatenated(parts: Sequence[Array], axis: int, shape: tuple[int, ...]) -> Array:
    """Units one after the other."""
    axis %= len(shape)
    keep = [i == axis or any(p.strides[i] for p in parts) for i in range(len(shape))]
    at = tuple(slice(None) if k else slice(0, 1) for k in keep)
    return np.broadcast_to(np.concatenate([p[at] for p in parts], axis), shape)


def gathered(x: Array, indices: Array, axis: int, shape: tuple[int, ...]) -> Array:
    """Units at indices along an axis."""
    axis %= x.ndim
    at = tuple(slice(None) if i == axis or s else slice(0, 1) for i, s in enumerate(x.strides))
    found: Array = np.asarray(np.take(x[at], indices, axis))
    return np.broadcast_to(found, shape)


def padded(kind: mv.Pad, x: Array, fresh: Callable[[int], Array]) -> Array | None:
    """Units with new ones around; None where padding copies or crops elements that differ."""
    n = x.ndim
    for i in range(n):
        widths = kind.pads[i], kind.pads[n + i]
        shape = (*x.shape[:i], x.shape[i] + sum(widths), *x.shape[i + 1 :])
        if x.strides[i] == 0:
            x = np.broadcast_to(first(x, (i,)), shape)
        elif any(widths):
            if kind.mode != "constant" or min(widths) < 0:
                return None
            around = [spread(fresh(w), (*x.shape[:i], w, *x.shape[i + 1 :]), i) for w in widths]
            x = concatenated([around[0], x, around[1]], i, shape)
    return x
