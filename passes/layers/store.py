"""Arrays that wait in a file: many alternatives are computed, few of them are ever used."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from graphopt.ir.data import Data, Mapped, MappedFile
from graphopt.ir.types import Array, DType


def store(array: Array) -> Data:
    """Write numbers to a file of their own, as float32, and map it.

    The file is unlinked at once: its space is free when nobody has the data any more. Pages of a
    mapped file can be dropped from memory and read again, so that a model's worth of alternatives
    takes none of it.
    """
    with tempfile.NamedTemporaryFile(prefix="graphopt-", suffix=".f32") as file:
        np.ascontiguousarray(array, np.dtype("<f4")).tofile(file)
        file.flush()
        mapped = MappedFile(Path(file.name))
        mapped.bytes(0, mapped.size)
    return Mapped(mapped, 0, DType.f32, tuple(array.shape))
