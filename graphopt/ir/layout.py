"""Storage layouts of tensors, written as oneDNN writes its format tags.

A letter is a logical axis (a = axis 0). Letters in order are the physical axes from outermost to
innermost; a capital marks an axis that is split, and its inner part follows as `<size><letter>`:
`abcd` is NCHW, `acdb` NHWC, `aBcd16b` NCHW16c, `ABcd16b16a` OIHW16i16o. A split axis is padded with
zeros up to a multiple of its block. The empty tag is the dense row-major layout.
"""

from __future__ import annotations

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

    def physical(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The stored shape of a logical shape."""
        block = dict(self.blocks)
        outer = tuple(-(-shape[a] // block.get(a, 1)) for a in self.order)
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
    named = [a for a, _ in blocks]
    if (
        not plain
        or split != set(named)
        or len(split) != len(named)
        or any(s < 2 for _, s in blocks)
    ):
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
    block = dict(layout.blocks)
    pads = [(0, -d % block.get(a, 1)) for a, d in enumerate(array.shape)]
    padded = np.pad(array, pads) if any(p for _, p in pads) else array
    shape: list[int] = []
    outer, inner = dict[int, int](), dict[int, int]()
    for axis, size in enumerate(padded.shape):
        outer[axis] = len(shape)
        shape.append(size // block.get(axis, 1))
        if axis in block:
            inner[axis] = len(shape)
            shape.append(block[axis])
    perm = [outer[a] for a in layout.order] + [inner[a] for a, _ in layout.blocks]
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
