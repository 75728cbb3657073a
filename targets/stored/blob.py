"""The weights of a library: which are stored in fewer bytes, and where all of them are."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.ir.types import Array
from graphopt.targets.program import ALIGN, WeightData
from graphopt.targets.stored.streams import Coder, coded, plan

Storage = Literal["auto", "coded", "plain"]
"""Which constants are coded: those where it pays, all that get smaller, none."""

PAYS = 0.75  # of a constant's bytes: what isn't smaller stays as it is, mapped and shared
LEAST = 4096  # bytes that `auto` must save on a constant
MOST = 100_000_000  # numbers that `auto` has decoded: half a second, at 200 million a second


@dataclass(frozen=True)
class Constant:
    """A constant of a program, and how it is stored.

    Attributes:
        offset: in the program's weights, in bytes.
        nbytes: as kernels read it.
        at: where its stored bytes begin in the file.
        stored: how many they are.
        coder: what they are; empty: the constant itself.
        made: where it is decoded to, in the memory for that.
        width: bytes of one of its numbers.
        sum: `checksum` of it, where it is coded.
    """

    offset: int
    nbytes: int
    at: int
    stored: int
    coder: Coder | Literal[""] = ""
    made: int = 0
    width: int = 1
    sum: int = 0


@dataclass(frozen=True)
class Stored:
    """All constants of a program, ordered by offset; `file_bytes` of the file they are in."""

    constants: tuple[Constant, ...]
    file_bytes: int

    @property
    def coded(self) -> tuple[Constant, ...]:
        """Those that are decoded when the library is loaded."""
        return tuple(c for c in self.constants if c.coder)

    @property
    def made_bytes(self) -> int:
        """Memory that they are decoded into."""
        return sum(_up(c.nbytes) for c in self.coded)

    def find(self, offset: int) -> tuple[bool, int]:
        """Whether what is at an offset of the program's weights is decoded, and where it then is.

        (In that memory; else in the file.)
        """
        i = bisect.bisect_right(self.constants, offset, key=lambda c: c.offset) - 1
        c = self.constants[i]
        return bool(c.coder), (c.made if c.coder else c.at) + offset - c.offset


def store(
    weights: Iterable[WeightData], file: BinaryIO, total: int, storage: Storage = "auto"
) -> Stored:
    """Write a program's constants into a file, one in memory at a time.

    Where none is coded, the file is the program's weights byte by byte.

    Args:
        weights: ordered by offset.
        file: open for writing, at its start.
        total: the size of the program's weights.
        storage: which constants are coded.

    Raises:
        GraphoptError: a constant's array isn't as long as the plan says.
    """
    found, made, numbers = list[Constant](), 0, 0
    for weight in weights:
        array = _load(weight)
        may = storage != "plain" and (storage == "coded" or numbers + array.size <= MOST)
        stream = _stream(array, storage) if may else None
        if stream is None:
            at = _pad(file) if made else _seek(file, weight.offset)
            file.write(array.reshape(-1).view(np.uint8).data)
            found.append(Constant(weight.offset, weight.nbytes, at, weight.nbytes))
            continue
        coder, raw = stream
        at = file.tell()
        file.write(raw)
        found.append(Constant(weight.offset, weight.nbytes, at, len(raw), coder, made,
                              array.itemsize, checksum(array)))  # fmt: skip
        made, numbers = made + _up(array.nbytes), numbers + array.size
    if not made:
        file.truncate(max(file.tell(), total))
    file.seek(0, 2)
    return Stored(tuple(found), file.tell())


def checksum(array: Array) -> int:
    """Sum of the words of 64 bits, the last filled with zeros, each times an odd number of its own.

    A change of one word always shows; modulo 2^64.
    """
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    words = np.concatenate([raw, np.zeros(-len(raw) % 8, np.uint8)]).view("<u8")
    with np.errstate(over="ignore"):
        return int((words * (2 * np.arange(len(words), dtype=np.uint64) + 1)).sum(dtype=np.uint64))


def _load(weight: WeightData) -> Array:
    array = np.ascontiguousarray(weight.load())
    if array.nbytes != weight.nbytes:
        text = f"a constant at +{weight.offset} has {array.nbytes} bytes, not {weight.nbytes}"
        raise GraphoptError(text)
    return array


def _stream(array: Array, storage: Storage) -> tuple[Coder, bytes] | None:
    """The coder and its stream; None where the constant is better stored as it is."""
    most = array.nbytes - 1
    if storage == "auto":
        most = min(array.nbytes * PAYS, array.nbytes - LEAST)
    way = plan(array)
    if way is None or way.bytes > most:
        return None
    raw = coded(way)
    return (way.coder, raw) if len(raw) <= most else None


def _up(nbytes: int) -> int:
    return -(-nbytes // ALIGN) * ALIGN


def _seek(file: BinaryIO, offset: int) -> int:
    file.seek(offset)
    return offset


def _pad(file: BinaryIO) -> int:
    return _seek(file, _up(file.tell()))
