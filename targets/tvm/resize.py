# pyright: basic
# TVM ships no types.
"""Resize as index arithmetic: the coordinates in float64, exactly as the kind computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import tirx

from graphopt.ir.core import Op
from graphopt.ops.resize import Resize

if TYPE_CHECKING:
    from graphopt.targets.tvm.region import Region

Expr = Any


def f64(value: float) -> Expr:
    """A float64 constant."""
    return tirx.const(value, "float64")


def i32(value: int) -> Expr:
    """An int32 constant."""
    return tirx.const(value, "int32")


def resize(r: Region, op: Op, index: Sequence[Expr]) -> Expr:
    """The expression of a resize at a logical index [n, c, h, w]."""
    x, kind = op.operand(0), op.kind
    shape = x.tensor.static
    assert isinstance(kind, Resize) and shape is not None
    n, c, h, w = index
    if kind.mode == "nearest":
        row, column = (nearest(kind, shape[2 + a], a, i) for a, i in enumerate((h, w)))
        return r.at(x, [n, c, row, column])
    (y0, y1, wy), (x0, x1, wx) = (linear(kind, shape[2 + a], a, i) for a, i in enumerate((h, w)))

    def blend(column: Expr) -> Expr:
        low, high = r.at(x, [n, c, y0, column]), r.at(x, [n, c, y1, column])
        return low * (tirx.const(1.0, "float32") - wy) + high * wy

    return blend(x0) * (tirx.const(1.0, "float32") - wx) + blend(x1) * wx


def position(kind: Resize, size: int, axis: int, i: Expr) -> Expr:
    """The float64 source coordinate of result index i (Resize.positions)."""
    out, scale = kind.sizes[axis], kind.scales[axis]
    at = tirx.Cast("float64", i)
    match kind.coordinates:
        case "asymmetric":
            return at / f64(scale)
        case "align_corners":
            return at * f64(size - 1) / f64(out - 1) if out > 1 else f64(0)
        case "pytorch_half_pixel" if out == 1:
            return f64(-0.5)
        case _:
            return (at + f64(0.5)) / f64(scale) - f64(0.5)


def nearest(kind: Resize, size: int, axis: int, i: Expr) -> Expr:
    """The source index; by integer arithmetic where a simple form gives the same table."""
    want, at = kind.nearest(size, axis), np.arange(kind.sizes[axis])
    for multiply, divide in ((1, 1), (1, 2), (1, 3), (1, 4), (1, 8), (2, 1)):
        if np.array_equal(want, at * multiply // divide):
            return tirx.floordiv(i * i32(multiply), i32(divide))
    where = position(kind, size, axis, i)
    match kind.rounding:
        case "round_prefer_floor":
            rounded = tirx.ceil(where - f64(0.5))
        case "round_prefer_ceil":
            rounded = tirx.floor(where + f64(0.5))
        case "floor":
            rounded = tirx.floor(where)
        case "ceil":
            rounded = tirx.ceil(where)
    return tirx.max(tirx.min(tirx.Cast("int32", rounded), i32(size - 1)), i32(0))


def linear(kind: Resize, size: int, axis: int, i: Expr) -> tuple[Expr, Expr, Expr]:
    """Lower index, upper index, weight of the upper."""
    at: Any = tirx.max(tirx.min(position(kind, size, axis, i), f64(size - 1)), f64(0))
    low = tirx.Cast("int32", tirx.floor(at))
    weight = tirx.Cast("float32", at - tirx.Cast("float64", low))
    bounded = tirx.max(tirx.min(low, i32(size - 1)), i32(0))
    return bounded, tirx.min(bounded + i32(1), i32(size - 1)), weight
