"""How few bytes a constant needs when it is stored by the frequencies of its values.

Numbers are told apart by their bits. Two forms: the index of each number among few values, and
(where many are zero) which are not zero, with the others as they are. Their size is Shannon's
entropy (1948), which the coder of a target's bundles reaches to about one percent.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from graphopt.ir.data import Data, Rand, nbytes
from graphopt.ir.types import Array

VALUES = 256  # different numbers that an index of one byte can tell apart
WIDTHS = (1, 2, 4, 8)  # bytes of numbers that can be stored so
HEAD = 32  # bytes that a stored constant has besides its table and its symbols
BLOCK = 8192  # symbols that are coded together
BLOCK_HEAD = 20  # bytes of a block besides its symbols
_LOOKS = (1 << 10, 1 << 16)  # numbers that tell whether there may be few values


@dataclass(frozen=True)
class Values:
    """The different numbers of an array in ascending order of their bits, and how often each is."""

    bits: Array
    counts: Array


def bits_of(array: Array) -> Array:
    """An array's numbers as unsigned integers of the same width, [n]."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(f"u{flat.itemsize}")


def few_values(bits: Array) -> Values | None:
    """The values of an array, if they are few enough for an index of one byte."""
    for look in _LOOKS if bits.itemsize > 1 else ():
        if _different(bits[:: max(len(bits) // look, 1)]) > VALUES:
            return None
    if bits.itemsize == 1:
        counts = np.bincount(bits, minlength=VALUES)
        (found,) = np.nonzero(counts)
        return Values(found.astype(np.uint8), counts[found])
    found, counts = np.unique(bits, return_counts=True)
    return Values(found, counts) if len(found) <= VALUES else None


def _different(bits: Array) -> int:
    """How many different numbers there are: `np.unique` imports masked arrays, 30 ms, to say it."""
    ordered = np.sort(bits)
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + min(len(bits), 1)


def zero_flags(bits: Array) -> Array:
    """Which numbers aren't zero, 8 a byte, the first in the lowest bit."""
    return np.packbits(bits != 0, bitorder="little")


def symbols_bytes(counts: Array) -> float:
    """What symbols of given counts take, blocks' heads included."""
    total = int(counts.sum())
    if not total:
        return 0.0
    share = counts[counts > 0] / total
    entropy = -float(np.sum(share * np.log2(share)))
    return total * entropy / 8 + BLOCK_HEAD * -(-total // BLOCK)


def table_bytes(values: int, width: int) -> int:
    """What a table of values and their frequencies takes."""
    return values * (width + 2)


def indices_bytes(values: Values) -> float:
    """The size of an array as indices of few values."""
    return HEAD + table_bytes(len(values.bits), values.bits.itemsize) + symbols_bytes(values.counts)


def sparse_bytes(bits: Array) -> float:
    """The size of an array as flags, and the numbers that aren't zero."""
    counts = np.bincount(zero_flags(bits), minlength=256)
    others = int(np.count_nonzero(bits)) * bits.itemsize
    return HEAD + table_bytes(int(np.count_nonzero(counts)), 1) + symbols_bytes(counts) + others


def stored_bytes(array: Array) -> float:
    """The least bytes that an array is stored in: one of the two forms, or as it is."""
    if array.itemsize not in WIDTHS or array.dtype.hasobject:
        return float(array.nbytes)
    bits = bits_of(array)
    values = few_values(bits)
    forms = [float(bits.nbytes), *([indices_bytes(values)] if values else [])]
    if bits.size and np.count_nonzero(bits) < bits.size:
        forms.append(sparse_bytes(bits))
    return min(forms)


_SHARES: WeakKeyDictionary[Data, float] = WeakKeyDictionary()  # a cache of pure facts about data


def stored_share(data: Data) -> float:
    """The least share of its bytes that a constant is stored in; its numbers are read once."""
    if isinstance(data, Rand) and data.dtype.is_float:
        return 1.0  # drawn one by one: hardly two are alike
    if data not in _SHARES:
        _SHARES[data] = stored_bytes(data.numpy()) / max(nbytes(data), 1)
    return _SHARES[data]
