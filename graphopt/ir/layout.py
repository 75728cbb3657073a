"""Storage layouts of tensors, written as oneDNN writes its format tags.

A letter is a logical axis (a = axis 0). Letters in order are the physical axes from outermost to
innermost; a capital marks an axis that is split, and its inner part follows as `<size><letter>`:
`abcd` is NCHW, `acdb` NHWC, `aBcd16b` NCHW16c, `ABcd16b16a` OIHW16i16o. An axis may be split twice:
in `ABcd4b16a4b` its block has 4 x 4 elements. A split axis is padded with zeros up to a multiple of
its block. The empty tag is the dense row-major layout.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from graphopt.ir.types import Array

_TAG = re.compile(r"([a-zA-Z]+)((?:\d+[a-z])*)\Z")


@dataclass(frozen=True)
class Layout:
    """A parsed tag: the order of the outer axes, and the inner blocks (axis, size) in order."""

    order: tuple[int, ...]
    blocks: tuple[tuple[int, int], ...]

    def block(self, axis: int) -> int:
        """The elements of an axis's block; 1 where it isn't split."""
        return math.prod(size for a, size in self.blocks if a == axis)

    def step(self, i: int) -> int:
        """How far apart along its axis the elements of inner block `i` are."""
        axis = self.blocks[i][0]
        return math.prod(size for a, size in self.blocks[i + 1 :] if a == axis)

    def physical(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The stored shape of a logical shape."""
        outer = tuple(-(-shape[a] // self.block(a)) for a in self.order)
        return outer + tuple(size for _, size in self.blocks)


@lru_cache(maxsize=256)
def parse_layout(tag: str) -> Layout:
    """Read a tag.

    Raises:
        ValueError: it is none.
    """
    m = _TAG.match(tag)
    if not m:
        raise ValueError(f"{tag!r} is not a layout tag such as aBcd16b")
    order = tuple(ord(c.lower()) - ord("a") for c in m[1])
    blocks = tuple((ord(b[-1]) - ord("a"), int(b[:-1])) for b in re.findall(r"\d+[a-z]", m[2]))
    split = {a for a, c in zip(order, m[1], strict=True) if c.isupper()}
    plain = sorted(order) == list(range(len(order)))
    if not plain or split != {a for a, _ in blocks} or any(s < 2 for _, s in blocks):
        raise ValueError(f"layout tag {tag!r} contradicts itself")
    return Layout(order, blocks)


def physical_shape(shape: tuple[int, ...], tag: str) -> tuple[int, ...]:
    """The stored shape of a logical shape under a tag."""
    return parse_layout(tag).physical(shape) if tag else shape


def pack(array: Array, tag: str) -> Array:
    """Lay a logical array out: the result has the physical shape, padding is zero."""
    if not tag:
        return array
    layout = parse_layout(tag)
    pads = [(0, -d % layout.block(a)) for a, d in enumerate(array.shape)]
    padded = np.pad(array, pads) if any(p for _, p in pads) else array
    shape: list[int] = []
    outer, inner = dict[int, int](), dict[int, int]()
    for axis, size in enumerate(padded.shape):
        outer[axis] = len(shape)
        shape.append(size // layout.block(axis))
        for i in (i for i, (a, _) in enumerate(layout.blocks) if a == axis):
            inner[i] = len(shape)
            shape.append(layout.blocks[i][1])
    perm = [outer[a] for a in layout.order] + [inner[i] for i, _ in enumerate(layout.blocks)]
    return np.ascontiguousarray(padded.reshape(shape).transpose(perm))


def unpack(array: Array, tag: str, shape: tuple[int, ...]) -> Array:
    """The inverse of `pack` for a logical shape."""
    if not tag:
        return array.reshape(shape)
    index = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape) + 1
    where = pack(index, tag).reshape(-1)
    out = np.empty(index.size, array.dtype)
    kept = where > 0
    out[where[kept] - 1] = array.reshape(-1)[kept]
    return out.reshape(shape)
