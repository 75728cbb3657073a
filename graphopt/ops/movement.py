"""Kinds that move elements and compute none."""

from graphopt.ops.parts import (
    Concat,
    Gather,
    Pad,
    Slice,
    Split,
    Tile,
)
from graphopt.ops.views import (
    DepthToSpace,
    Expand,
    Reorder,
    Reshape,
    Shape,
    SpaceToDepth,
    Squeeze,
    Transpose,
    Unsqueeze,
)

__all__ = [
    "Concat",
    "DepthToSpace",
    "Expand",
    "Gather",
    "Pad",
    "Reorder",
    "Reshape",
    "Shape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
]
