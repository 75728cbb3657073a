"""Tags of layouts, and the bytes that tensors take and that a change of layout moves."""

from __future__ import annotations

import math
from functools import lru_cache

from graphopt.ir.core import Value
from graphopt.ir.layout import physical_shape
from graphopt.ir.types import DType, TensorType

LETTERS = "abcdef"
RANKS = range(3, 6)  # of activations with a batch, channels and one to three spatial axes
TYPES = {DType.f32, DType.f16, DType.bf16, DType.i32, DType.u8, DType.i8}
VIEW = 64  # bytes that a change of layout costs which moves nothing: no kernel goes on across it


def blocked(rank: int, block: int) -> str:
    """Activations in blocks of channels: aBcd16b for rank 4."""
    return f"aB{LETTERS[2:rank]}{block}b"


def shape_of(value: Value | None) -> tuple[int, ...] | None:
    """The static shape of a tensor of a type that kernels read in blocks; None for others."""
    t = value.type if value else None
    return t.static if isinstance(t, TensorType) and t.dtype in TYPES else None


def dims(value: Value) -> tuple[int, ...]:
    """The shape of a value whose type is static."""
    shape = value.tensor.static
    assert shape is not None
    return shape


def may_be_blocked(value: Value | None) -> bool:
    """Whether a value has channels that can be stored in blocks."""
    shape = shape_of(value)
    return shape is not None and len(shape) in RANKS


def nbytes(value: Value, tag: str = "") -> int:
    """Bytes of a static tensor stored in a layout."""
    return _elements(dims(value), tag) * value.tensor.dtype.bits // 8


@lru_cache(maxsize=1024)
def _elements(shape: tuple[int, ...], tag: str) -> int:
    return math.prod(physical_shape(shape, tag))


def padding(value: Value, block: int) -> int:
    """Bytes that blocks add to a value."""
    return nbytes(value, blocked(len(dims(value)), block)) - nbytes(value)


def moved(value: Value, block: int) -> int:
    """Bytes that a reorder between dense and blocked reads and writes."""
    shape = dims(value)
    if shape[1] % block == 0 and all(d == 1 for d in shape[2:]):
        return VIEW
    return nbytes(value) + nbytes(value, blocked(len(shape), block))
