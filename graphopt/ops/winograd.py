"""Convolution by minimal filtering: F(4x4, 3x3) of Lavin and Gray, arXiv 1509.09308."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir.core import OpKind
from graphopt.ir.types import Array, TensorType, ValueType
from graphopt.ops.shapes import Ints, agree, tensors, window

TILE = 4  # outputs along an axis
PART = 2048  # filters transformed at a time: what a core's cache holds
REACH = 6  # inputs along an axis that they need: TILE + 3 - 1
# The matrices of the paper (section 4.3): Y = A^T ((G g G^T) * (B^T d B)) A.
BT = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0),
      (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1))  # fmt: skip
G = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6),
     (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))  # fmt: skip
AT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def transformed(w: Array) -> Array:
    """G w G^T of 3x3 filters [M, C, 3, 3], as [36, M, C]; computed in float64, rounded once."""
    m, c = w.shape[:2]
    found = np.empty((REACH * REACH, m, c), w.dtype)
    part = max(1, PART // max(c, 1))
    for i in range(0, m, part):
        wide = np.moveaxis(w[i : i + part].astype(np.float64), (2, 3), (0, 1))
        rows = _filtered(np.ascontiguousarray(wide))  # [6, 3, M, C]
        found[:, i : i + part] = _filtered(rows.swapaxes(0, 1)).swapaxes(0, 1).reshape(
            REACH * REACH, *wide.shape[2:]
        )
    return found


def _filtered(x: Array) -> Array:
    """G x along the first axis, [3, ...] -> [6, ...]: sums in order, on every computer the same."""
    found = np.empty((REACH, *x.shape[1:]), x.dtype)
    for row, out in zip(G, found, strict=True):
        (first, at), *others = [(g, k) for k, g in enumerate(row) if g]
        np.multiply(x[at], first, out=out)
        for g, k in others:
            out += x[k] * g
    return found


@dataclass(frozen=True)
class ConvWinograd(OpKind, name="conv_winograd"):
    """3x3 convolution of stride 1 with transformed filters: 36 products for 4x4 results, not 144.

    x: [N, C, H, W]; u: [36, M, C], from `transformed`; b: [M]. `pads`: begins, then ends. Its
    rounding errors are some ten times those of the direct sum (Barabasz et al., arXiv 1803.10986).
    """

    pads: Ints
    operands = ("x", "u", "b?")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """[N, M, H', W']."""
        x, u = tensors(*types)[:2]
        if x.shape is None or u.shape is None:
            return (TensorType(x.dtype, None),)
        if len(x.shape) != 4 or len(u.shape) != 3 or len(self.pads) != 4:
            raise ValueError(f"{x} and {u} aren't an image and transformed filters")
        agree(u.shape[0], REACH * REACH, "products of a tile")
        agree(u.shape[2], x.shape[1], "channels of x and u")
        sizes = (window(x.shape[i + 2], 3, 1, self.pads[i] + self.pads[i + 2]) for i in range(2))
        return (TensorType(x.dtype, (x.shape[0], u.shape[1], *sizes)),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """The formula, tile by tile, in float64."""
        x, u, b = arrays
        assert x is not None and u is not None
        top, left, bottom, right = self.pads
        out = [x.shape[2] + top + bottom - 2, x.shape[3] + left + right - 2]
        tiles = [-(-s // TILE) for s in out]
        need = [t * TILE + 2 for t in tiles]
        ends = (need[0] - x.shape[2] - top, need[1] - x.shape[3] - left)
        padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), (top, ends[0]), (left, ends[1])])
        view = np.lib.stride_tricks.sliding_window_view(padded, (REACH, REACH), (2, 3))
        d = view[:, :, ::TILE, ::TILE]
        bt, at = np.array(BT, np.float64), np.array(AT, np.float64)
        v = np.einsum("ik,nctskl,jl->ijncts", bt, d, bt)
        wide = u.astype(np.float64).reshape(REACH, REACH, *u.shape[1:])
        m = np.einsum("ijmc,ijncts->ijnmts", wide, v)
        y = np.einsum("ai,ijnmts,bj->nmtasb", at, m, at)
        y = y.reshape(x.shape[0], u.shape[1], tiles[0] * TILE, tiles[1] * TILE)
        y = y[:, :, : out[0], : out[1]]
        y = y if b is None else y + b.reshape(-1, 1, 1)
        return (np.ascontiguousarray(y, x.dtype),)
