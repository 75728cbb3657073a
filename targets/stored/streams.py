"""A constant as a stream of bytes that the driver's decoder reads; all numbers little-endian.

`indices`: a table of the different values, then the index of each number.
`sparse`: uint64 how many numbers aren't 0; those, and one 0 more; then a table of bytes, each the
flags of 8 numbers (which aren't 0), and the index of each byte.

A table: uint16 how many values (1 to 256); the values, of the width of a number (of 1 byte for
flags); their frequencies, uint16, which add up to 4096. Then blocks of symbols (`rans`), which end
with ROOM zeros, so that a decoder may read a step ahead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from graphopt.analysis.entropy import (
    WIDTHS,
    Values,
    bits_of,
    few_values,
    indices_bytes,
    sparse_bytes,
    zero_flags,
)
from graphopt.ir.types import Array
from graphopt.targets.stored.rans import LANES, encode, frequencies

ROOM = 2 * LANES  # bytes
PART = 1 << 20  # numbers that are looked up at a time
Coder = Literal["indices", "sparse"]


@dataclass(frozen=True)
class Plan:
    """How an array would be coded, and about how many bytes that takes."""

    coder: Coder
    bytes: float
    bits: Array
    values: Values | None = None


def plan(array: Array) -> Plan | None:
    """The better way to code an array; None where there is none."""
    if array.itemsize not in WIDTHS or not array.size or array.dtype.hasobject:
        return None
    bits = bits_of(array)
    ways = list[Plan]()
    if values := few_values(bits):
        ways.append(Plan("indices", indices_bytes(values), bits, values))
    if np.count_nonzero(bits) < bits.size:
        ways.append(Plan("sparse", sparse_bytes(bits), bits))
    return min(ways, key=lambda way: way.bytes, default=None)


def coded(way: Plan) -> bytes:
    """The stream."""
    if way.coder == "indices":
        assert way.values
        return _symbols(way.bits, way.values)
    flags = zero_flags(way.bits)
    values = few_values(flags)
    assert values
    others = way.bits[way.bits != 0]
    head = np.uint64(len(others)).astype("<u8").tobytes() + others.tobytes()
    return head + bytes(others.itemsize) + _symbols(flags, values)


def _symbols(bits: Array, values: Values) -> bytes:
    freq = frequencies(values.counts)
    head = np.uint16(len(freq)).astype("<u2").tobytes()
    table = values.bits.tobytes() + freq.astype("<u2").tobytes()
    return head + table + encode(_indices(bits, values), freq) + bytes(ROOM)


def _indices(bits: Array, values: Values) -> Array:
    """Which of the values each number is, uint8 [n]; a part at a time, as indices have 64 bits."""
    found = np.empty(len(bits), np.uint8)
    for i in range(0, len(bits), PART):
        found[i : i + PART] = np.searchsorted(values.bits, bits[i : i + PART])
    return found
