"""Kinds that move elements and compute none."""

from graphopt.ops.parts import (
    Concat,
    Gather,
    Pad,
    Part,
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
    "Part",
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
