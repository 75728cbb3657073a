"""A layer as matrix products by group: y = W x, W [g, M / g, K], x [g, K, positions].

For a convolution, x are the windows (im2col; Chellapilla et al. 2006), for chosen positions only:
all of them would be as many times the activations as a window has elements. For a transposed one, x
are the channels of a pixel, and what it spreads to all taps is y.
"""

from __future__ import annotations

import math

import numpy as np

from graphopt.ir.core import Op
from graphopt.ir.types import Array
from graphopt.ops.linalg import Gemm
from graphopt.ops.nn import Conv, ConvTranspose


def rows(op: Op, w: Array) -> Array:
    """A weight (or its integers) as [groups, M / groups, K]."""
    match op.kind:
        case Conv(group=g):
            return w.reshape(g, w.shape[0] // g, -1)
        case ConvTranspose(group=g):  # each channel and tap of what it makes is a row
            return w.reshape(g, w.shape[0] // g, -1).transpose(0, 2, 1)
        case Gemm(trans_b=True):
            return w[None]
        case _:
            return w.T[None]


def unrows(op: Op, w: Array, shape: tuple[int, ...]) -> Array:
    """The inverse of `rows`, for a weight of a shape."""
    match op.kind:
        case Conv() | Gemm(trans_b=True):
            return np.ascontiguousarray(w.reshape(shape))
        case ConvTranspose():
            return np.ascontiguousarray(w.transpose(0, 2, 1)).reshape(shape)
        case _:
            return np.ascontiguousarray(w[0].T)


def positions(op: Op, x: Array) -> int:
    """How many columns unfolding an operand gives."""
    if isinstance(op.kind, ConvTranspose):
        return x.size // x.shape[1]
    if not isinstance(op.kind, Conv):
        return x.size // x.shape[-1]
    return x.shape[0] * math.prod(_outputs(op.kind, x, op.operand(1).tensor.static or ()))


def places(there: int, wanted: int, random: np.random.Generator) -> Array:
    """Some of the columns that there are, each at most once; all where no more are wanted."""
    if there <= wanted:
        return np.arange(there)
    return np.asarray(random.choice(there, wanted, replace=False))


def _outputs(kind: Conv, x: Array, w: tuple[int, ...]) -> tuple[int, ...]:
    """The spatial sizes of a convolution's result."""
    n = len(kind.strides)
    reach = ((w[2 + i] - 1) * kind.dilations[i] + 1 for i in range(n))
    room = (x.shape[2 + i] + kind.pads[i] + kind.pads[n + i] for i in range(n))
    return tuple(
        max((have - need) // step + 1, 0)
        for have, need, step in zip(room, reach, kind.strides, strict=True)
    )


def columns(op: Op, x: Array, at: Array) -> Array:
    """Chosen columns of the unfolded operand.

    Args:
        op: the layer; its weight's shape says how large the windows are.
        x: float32 [N, C, spatial...], or [..., K] of a product.
        at: indices below `positions(op, x)`.

    Returns:
        float32 [groups, K, len(at)].
    """
    if isinstance(op.kind, ConvTranspose):
        image, place = np.divmod(at, math.prod(x.shape[2:]))
        pixels = x.reshape(*x.shape[:2], -1)[image, :, place]
        return pixels.T.reshape(op.kind.group, -1, len(at))
    if not isinstance(op.kind, Conv):
        return x.reshape(-1, x.shape[-1])[at].T[None]
    kind, w = op.kind, op.operand(1).tensor.static or ()
    n = len(kind.strides)
    image, *where = np.unravel_index(at, (x.shape[0], *_outputs(kind, x, w)))
    taps = np.indices(w[2:]).reshape(n, -1)
    index, inside = list[Array](), np.ones((len(at), taps.shape[1]), np.bool_)
    for i in range(n):  # the place of each tap of each window, [positions, taps]
        place = (where[i] * kind.strides[i] - kind.pads[i])[:, None] + taps[i] * kind.dilations[i]
        inside &= (place >= 0) & (place < x.shape[2 + i])
        index.append(np.clip(place, 0, x.shape[2 + i] - 1))
    windows = x[(image[:, None], slice(None), *index)]  # [positions, taps, C]
    windows[~inside] = 0
    p, t, c = windows.shape
    grouped = windows.reshape(p, t, kind.group, c // kind.group)
    return grouped.transpose(2, 3, 1, 0).reshape(kind.group, -1, p)
