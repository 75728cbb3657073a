"""Resize of the two last axes (ONNX Resize and Upsample), nearest and linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from graphopt.ir.core import OpKind
from graphopt.ir.types import Array, TensorType, ValueType
from graphopt.ops.shapes import tensors


@dataclass(frozen=True)
class Resize(OpKind, name="resize"):
    """Interpolate to the given sizes. x: [N, C, H, W]; sizes: (H', W'); scales: per axis.

    `scales` are the exact factors that coordinates are computed with (they may differ from
    sizes / size, which ONNX rounds down). Coordinates as the ONNX specification of Resize-19 says.
    """

    sizes: tuple[int, int]
    scales: tuple[float, float]
    mode: Literal["nearest", "linear"] = "nearest"
    coordinates: Literal["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"] = (
        "half_pixel"
    )
    rounding: Literal["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"] = (
        "round_prefer_floor"
    )
    operands = ("x",)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """[N, C, H', W']."""
        (x,) = tensors(*types)
        if x.shape is None or len(x.shape) != 4:
            raise ValueError(f"resize wants rank 4, not {x}")
        return (TensorType(x.dtype, (*x.shape[:2], *self.sizes)),)

    def positions(self, size: int, axis: int) -> Array:
        """The source coordinate (float64) of each result index along spatial axis 0 or 1."""
        out, scale = self.sizes[axis], self.scales[axis]
        at = np.arange(out, dtype=np.float64)
        match self.coordinates:
            case "asymmetric":
                return at / scale
            case "align_corners":
                return at * (size - 1) / (out - 1) if out > 1 else at * 0
            case "pytorch_half_pixel" if out == 1:
                return at * 0 - 0.5
            case _:
                return (at + 0.5) / scale - 0.5

    def nearest(self, size: int, axis: int) -> Array:
        """The source index (int64) of each result index, for mode nearest."""
        at = self.positions(size, axis)
        match self.rounding:
            case "round_prefer_floor":
                index = np.ceil(at - 0.5)
            case "round_prefer_ceil":
                index = np.floor(at + 0.5)
            case "floor":
                index = np.floor(at)
            case "ceil":
                index = np.ceil(at)
        return np.clip(index, 0, size - 1).astype(np.int64)

    def linear(self, size: int, axis: int) -> tuple[Array, Array, Array]:
        """Lower index, upper index (int64) and weight of the upper (float32), for mode linear."""
        at = np.clip(self.positions(size, axis), 0, size - 1)
        low = np.floor(at).astype(np.int64)
        return low, np.minimum(low + 1, size - 1), (at - low).astype(np.float32)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """Gather, or two gathers and a blend an axis."""
        (x,) = arrays
        assert x is not None
        if self.mode == "nearest":
            rows, columns = self.nearest(x.shape[2], 0), self.nearest(x.shape[3], 1)
            return (x[:, :, rows][:, :, :, columns],)
        low, high, w = self.linear(x.shape[2], 0)
        y = x[:, :, low] * (1 - w)[:, None] + x[:, :, high] * w[:, None]
        low, high, w = self.linear(x.shape[3], 1)
        return ((y[..., low] * (1 - w) + y[..., high] * w).astype(x.dtype),)
