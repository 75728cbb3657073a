"""Arrays at the border: checked against their specs, and placed where kernels can read them."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.errors import InputError, want
from graphopt.runtime.manifest import TensorSpec

Array = NDArray[Any]

ALIGN = 64  # bytes; kernels use aligned loads and stores


def dtype_of(name: str) -> np.dtype[Any]:
    """The numpy dtype of a name in a manifest; ml_dtypes is loaded for those that numpy lacks."""
    try:
        return np.dtype(name)
    except TypeError:
        pass
    try:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    except (ImportError, AttributeError) as error:
        raise InputError(f"this bundle's {name} needs the package ml_dtypes") from error


def address(array: Array) -> int:
    """Where a dense array begins. Through ctypes where that can be: it is three times as fast."""
    memory: Any = array
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(memory))
    except (TypeError, ValueError, BufferError):  # read-only, empty, or of a type numpy lacks
        return array.ctypes.data


def placed(shape: Sequence[int], dtype: np.dtype[Any], nbytes: int) -> tuple[Array, int]:
    """A new dense array, not filled, that starts at a multiple of ALIGN; and its address."""
    raw = np.empty(nbytes + ALIGN, np.uint8)
    begin = address(raw)
    start = -begin % ALIGN
    return np.ndarray(shape, dtype, raw, start), begin + start


def aligned(shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """A new dense array, not filled, that starts at a multiple of ALIGN."""
    return placed(shape, dtype, math.prod(shape) * dtype.itemsize)[0]


def is_placed(array: Array) -> bool:
    """Whether kernels can read the array where it is."""
    return array.flags.c_contiguous and not address(array) % ALIGN


def check_names(specs: Sequence[TensorSpec], values: Mapping[str, object]) -> None:
    """Raise InputError unless there is a value for each input and none for anything else."""
    names = [s.name for s in specs]
    want("inputs", isinstance(values, Mapping), "arrays by input name, in a dict", values)  # pyright: ignore[reportUnnecessaryIsInstance]
    wrong = [f"no input {n!r} was given" for n in names if n not in values]
    wrong += [f"there is no input {n!r}" for n in values if n not in names]
    if wrong:
        raise InputError(f"{wrong[0]}: the model takes {', '.join(map(repr, names)) or 'none'}")


def check_array(spec: TensorSpec, dtype: np.dtype[Any], value: object) -> Array:
    """The value as an array of the type that the spec says; InputError if it is of another."""
    try:
        array = np.asarray(value)
    except ValueError as why:  # lists of different lengths
        raise InputError(f"input {spec.name!r} is no array: {why}") from why
    if array.dtype.newbyteorder("=") != dtype:
        what = f"input {spec.name!r} is {array.dtype}, and the model takes {dtype}"
        raise InputError(f"{what}: convert it with astype")
    if spec.shape is not None and not _fits(array.shape, spec.shape):
        text = f"has shape {_dims(array.shape)}, and the model takes {_dims(spec.shape)}"
        raise InputError(f"input {spec.name!r} {text}")
    return array if array.dtype.isnative else array.astype(dtype)


def _fits(shape: tuple[int, ...], dims: Sequence[int | str | None]) -> bool:
    """Whether the shape has these sizes; a named or unknown one may be any."""
    sizes = zip(shape, dims, strict=False)
    return len(shape) == len(dims) and all(not isinstance(d, int) or n == d for n, d in sizes)


def _dims(shape: Sequence[int | str | None]) -> str:
    return "x".join("?" if d is None else str(d) for d in shape) or "a scalar"
