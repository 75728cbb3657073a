"""What goes between the processes arrives as it was, and broken frames are refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphopt.onnx import frames


def there_and_back(value: Any) -> Any:
    stream = io.BytesIO()
    frames.write(stream, value)
    stream.seek(0)
    return frames.read(stream)


@pytest.mark.parametrize("value", [None, True, 3, 0.1, "ä\udcff", b"\0\xff", [1, [2.5, None]], {"a": [1]}, {1: "x"}, Path("/a b")])
def test_plain_values(value: Any) -> None:
    assert there_and_back(value) == value


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.bool_, np.complex128, ml_dtypes.bfloat16, ml_dtypes.int4])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_arrays(dtype: Any, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    back = there_and_back([array])[0]
    assert back.dtype == array.dtype and back.shape == shape
    np.testing.assert_array_equal(back.astype(np.complex64), array.astype(np.complex64))
    back[...] = 0  # it can be written to


def test_strings_and_scalars() -> None:
    back = there_and_back(np.array([["a", "bc"]], object))
    assert back.tolist() == [["a", "bc"]]
    assert there_and_back(np.float32(2)) == 2


def test_broken_frames() -> None:
    stream = io.BytesIO()
    frames.write(stream, [np.zeros(100)])
    whole = stream.getvalue()
    with pytest.raises(EOFError):
        frames.read(io.BytesIO())
    for cut in (3, 9, len(whole) - 1):
        with pytest.raises(frames.FrameError):
            frames.read(io.BytesIO(whole[:cut]))
    with pytest.raises(frames.FrameError):
        frames.read(io.BytesIO(b"\2\0\0\0\0\0\0\0{}"))
