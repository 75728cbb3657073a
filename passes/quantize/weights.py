"""Weights as s8 by output channel, and biases as s32 in units of the sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir.core import Op
from graphopt.ir.data import Data
from graphopt.ir.types import Array
from graphopt.ops.linalg import Gemm
from graphopt.ops.nn import Conv
from graphopt.passes.integers.sums import ROOM as ROOM

TINY = np.float32(2.0**-100)  # a scale for weights that are all 0


@dataclass(frozen=True)
class Grid:
    """Where the integers of a weight lie: w = q * scale along `axis`, |q| <= `most`."""

    axis: int
    scale: Array
    most: int

    def along(self, rank: int) -> Array:
        """The scales to broadcast against the weight."""
        return self.scale.reshape([-1 if a == self.axis else 1 for a in range(rank)])

    def nearest(self, w: Array) -> Array:
        """The s8 integers nearest to w (ties to even)."""
        q = np.rint(w / self.along(w.ndim))
        return np.clip(q, -self.most, self.most).astype(np.int8)


def channel_axis(op: Op) -> int:
    """The axis of a weight that is the output channel."""
    match op.kind:
        case Conv():
            return 0
        case Gemm(trans_b=True):
            return 0
        case _:
            return 1


def grid(op: Op, w: Data, per_channel: bool, bits: int, least: Array | float = 0.0) -> Grid:
    """The symmetric grid of an op's weight: the largest of a channel is its largest integer.

    No scale is under `least` (see `least_scales`).
    """
    axis, most = channel_axis(op), 2 ** (bits - 1) - 1
    others = tuple(a for a in range(len(w.shape)) if a != axis)
    top = np.abs(w.numpy()).max(axis=others, initial=0)
    if not per_channel:
        top, least = np.full_like(top, top.max(initial=0)), np.max(least)
    scale = np.maximum(top.astype(np.float32) / np.float32(most), TINY)
    return Grid(axis, np.maximum(scale, least).astype(np.float32), most)


def least_scales(bias: Array, x_scale: Array) -> Array:
    """The scales of weights from which on a bias fits into the sums (float32 [M]).

    A channel whose weights are tiny beside its bias gets coarser integers. What they are rounded
    by times an integer of x is at most 2^-21 of the bias.
    """
    return (np.abs(bias.reshape(-1)) / (x_scale.reshape(()) * (ROOM / 2))).astype(np.float32)


def bias_integers(bias: Array, scale: Array) -> Array | None:
    """The bias in units of `scale` (s32, of the same shape); None where it doesn't fit."""
    with np.errstate(all="ignore"):
        whole = np.rint(bias.reshape(-1).astype(np.float64) / scale)
    if not (np.abs(whole) < ROOM).all():
        return None
    return whole.astype(np.int32).reshape(bias.shape)
