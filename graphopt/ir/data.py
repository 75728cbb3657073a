"""The data of constants: read late, never copied without need."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from graphopt.errors import InputError
from graphopt.ir.types import Array, DType


class Data(Protocol):
    """What a constant holds: its type is known at once, its numbers when asked for."""

    @property
    def dtype(self) -> DType:
        """Element type."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape."""
        ...

    def numpy(self) -> Array:
        """The numbers, dense, not to be written to."""
        ...


@dataclass(frozen=True, eq=False)
class Inline:
    """Numbers held in memory."""

    array: Array

    @property
    def dtype(self) -> DType:
        """Element type."""
        return DType.of(self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape."""
        return self.array.shape

    def numpy(self) -> Array:
        """The array itself."""
        return self.array


@dataclass(frozen=True)
class Splat:
    """One number everywhere; never materialised until asked for."""

    dtype: DType
    shape: tuple[int, ...]
    value: Any

    def numpy(self) -> Array:
        """A broadcast view of one element."""
        return np.broadcast_to(np.asarray(self.value, self.dtype.numpy), self.shape)


@dataclass(frozen=True)
class Rand:
    """Seeded numbers, so that a test's text needs no data: normal floats, integers in [-8, 8)."""

    dtype: DType
    shape: tuple[int, ...]
    seed: int

    def numpy(self) -> Array:
        """The numbers, the same for the same seed."""
        rng = np.random.default_rng(self.seed)
        if self.dtype.is_float:
            return rng.normal(size=self.shape).astype(self.dtype.numpy)
        return rng.integers(-8, 8, self.shape).astype(self.dtype.numpy)


class MappedFile:
    """A file mapped read-only on first use; tensors are views of it."""

    def __init__(self, path: Path) -> None:
        """Remember the path and its size; nothing is opened yet."""
        self.path = path
        try:
            self.size = path.stat().st_size
        except OSError as why:
            raise InputError(f"{path}: can't read the file: {why.strerror}") from why
        self._map: mmap.mmap | None = None

    def bytes(self, offset: int, length: int) -> memoryview:
        """A view of `length` bytes; raises InputError where the file is too short."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise InputError(
                f"{self.path}: a tensor wants bytes {offset}..{offset + length} "
                f"but the file has {self.size}"
            )
        if length == 0:
            return memoryview(b"")
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return memoryview(self._map)[offset : offset + length]


@dataclass(frozen=True)
class Mapped:
    """Numbers in a file, as ONNX lays them out: dense, little-endian, row-major."""

    file: MappedFile
    offset: int
    dtype: DType
    shape: tuple[int, ...]

    @property
    def raw(self) -> memoryview:
        """The bytes, mapped."""
        return self.file.bytes(self.offset, nbytes(self))

    def numpy(self) -> Array:
        """A view of the file; sub-byte types are unpacked into a new array."""
        return from_bytes(self.raw, self.dtype, self.shape)


@dataclass(frozen=True, eq=False)
class Computed:
    """Numbers computed on first use (a folded weight, say) and kept."""

    dtype: DType
    shape: tuple[int, ...]
    compute: Callable[[], Array]
    _kept: list[Array] = field(default_factory=list[Array], repr=False)

    def numpy(self) -> Array:
        """The numbers."""
        if not self._kept:
            array = np.ascontiguousarray(self.compute(), self.dtype.numpy).reshape(self.shape)
            self._kept.append(array)
        return self._kept[0]


def size(data: Data) -> int:
    """The number of elements."""
    total = 1
    for d in data.shape:
        total *= d
    return total


def nbytes(data: Data) -> int:
    """Bytes in ONNX's packed form (0 for strings)."""
    return (size(data) * data.dtype.bits + 7) // 8


def from_bytes(raw: bytes | memoryview, dtype: DType, shape: tuple[int, ...]) -> Array:
    """Read ONNX's raw tensor bytes: little-endian, sub-byte elements packed low bits first.

    Raises:
        ValueError: the length isn't that of the shape.
    """
    count = 1
    for d in shape:
        count *= d
    want = (count * dtype.bits + 7) // 8
    if len(raw) != want:
        raise ValueError(f"{len(raw)} bytes of data where the shape wants {want}")
    if dtype.bits >= 8:
        return np.frombuffer(raw, dtype.numpy.newbyteorder("<")).reshape(shape)
    packed = np.frombuffer(raw, np.uint8)
    shifts = np.arange(0, 8, dtype.bits, dtype=np.uint8)
    codes = ((packed[:, None] >> shifts) & ((1 << dtype.bits) - 1)).reshape(-1)[:count]
    if dtype in (DType.i4, DType.i2):  # sign-extend
        codes = (codes.astype(np.int8) << (8 - dtype.bits)) >> (8 - dtype.bits)
        return codes.astype(dtype.numpy).reshape(shape)
    if dtype.is_float:
        return codes.view(dtype.numpy).reshape(shape)
    return codes.astype(dtype.numpy).reshape(shape)


def to_bytes(array: Array, dtype: DType) -> bytes:
    """The inverse of `from_bytes`."""
    if dtype.bits >= 8:
        return np.ascontiguousarray(array, dtype.numpy.newbyteorder("<")).tobytes()
    flat = np.ascontiguousarray(array).reshape(-1)
    codes = flat.view(np.uint8) if dtype.is_float else flat.astype(np.int8).view(np.uint8)
    codes = codes & ((1 << dtype.bits) - 1)
    per = 8 // dtype.bits
    codes = np.concatenate([codes, np.zeros(-len(codes) % per, np.uint8)]).reshape(-1, per)
    shifts = np.arange(0, 8, dtype.bits, dtype=np.uint8)
    return np.bitwise_or.reduce(codes << shifts, axis=1).astype(np.uint8).tobytes()
