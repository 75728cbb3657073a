"""Converters of Resize and Upsample, all versions."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.onnx.node import Modelled, NodeView, Step, converts
from graphopt.ops.resize import Resize

_COORDINATES = {"half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"}
_ROUNDINGS = {"round_prefer_floor", "round_prefer_ceil", "floor", "ceil"}
Scales = tuple[float, ...]
Values = tuple[Any, ...]


@converts("Upsample")
def _upsample(n: NodeView) -> Modelled | None:
    """Opsets 7 (scales as an attribute) and 9 (as an operand)."""
    scales = n.attr("scales") if n.version < 9 else _floats(n, 1)
    return _old(n, scales)


@converts("Resize")
def _resize(n: NodeView) -> Modelled | None:
    """Opset 10 (only scales), and 11 and later."""
    if n.version < 11:
        return _old(n, _floats(n, 1))
    coordinates = n.attr("coordinate_transformation_mode", "half_pixel")
    exotic = n.attr("antialias", 0) or n.attr("keep_aspect_ratio_policy", "stretch") != "stretch"
    if exotic or coordinates not in _COORDINATES:
        return None
    scales = _floats(n, 2) if n.has(2) else None
    sizes = n.ints(3) if n.has(3) else None
    rounding = n.attr("nearest_mode", "round_prefer_floor")
    return _modelled(n, scales or None, sizes, coordinates, rounding)


def _old(n: NodeView, scales: Scales | None) -> Modelled | None:
    """Before opset 11: positions are index / scale, nearest takes the floor."""
    return _modelled(n, scales, None, "asymmetric", "floor") if scales else None


def _floats(n: NodeView, index: int) -> Scales | None:
    array = n.const(index)
    if array is None or array.dtype.kind != "f" or array.ndim != 1:
        return None
    return tuple(float(v) for v in array)


def _modelled(
    n: NodeView,
    scales: Scales | None,
    sizes: tuple[int, ...] | None,
    coordinates: Any,
    rounding: Any,
) -> Modelled | None:
    """Rank 4, the last two axes, of known sizes."""
    shape, mode = n.shape(0), n.attr("mode", "nearest")
    if shape is None or len(shape) != 4 or mode not in ("nearest", "linear"):
        return None
    if rounding not in _ROUNDINGS:
        return None
    dtype = n.dtype(0)
    if mode == "linear" and not (dtype and dtype.is_float):
        return None
    h, w = shape[2:]
    if not isinstance(h, int) or not isinstance(w, int) or not h or not w:
        return None
    listed = n.attr("axes") or (0, 1, 2, 3)
    axes = tuple(a % 4 for a in listed)
    if scales is not None:
        full = _spread(scales, axes, (1.0,) * 4)
        if full is None or full[:2] != (1.0, 1.0) or min(full) <= 0:
            return None
        # ONNX Runtime multiplies in float32, so that 0.6 * 5 is 3.
        spatial = zip(full[2:], (h, w), strict=True)
        out = tuple(int(np.float32(s) * np.float32(d)) for s, d in spatial)
    else:
        want = _spread(sizes or (), axes, shape)
        if want is None or want[:2] != shape[:2]:
            return None
        out = want[2:]
        spatial = zip(out, (h, w), strict=True)
        full = (1.0, 1.0, *(float(np.float32(o) / np.float32(d)) for o, d in spatial))
    if min(out) < 1:
        return None
    rounding = rounding if mode == "nearest" else "round_prefer_floor"
    kind = Resize((out[0], out[1]), (full[2], full[3]), mode, coordinates, rounding)
    return Step(kind, n.operands[:1])


def _spread(values: Values, axes: tuple[int, ...], default: Values) -> Values | None:
    """The values of the listed axes among the defaults of the others."""
    if len(values) != len(axes) or len(set(axes)) != len(axes):
        return None
    full = list(default)
    for axis, value in zip(axes, values, strict=True):
        full[axis] = value
    return tuple(full)
