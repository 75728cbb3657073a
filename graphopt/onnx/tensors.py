"""TensorProto to constant data and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from graphopt.errors import InputError
from graphopt.ir.data import Data, Inline, from_bytes, size, to_bytes
from graphopt.ir.types import Array, DType
from graphopt.onnx.external import Sources
from graphopt.onnx.types import read_dtype

MAX_ELEMENTS = 2**40  # what a tensor's dimensions may multiply to; larger is surely damage
MAX_RANK = 64  # numpy's limit
MAX_SPARSE = 2**31  # bytes that a sparse initializer may take when made dense

# Typed fields of TensorProto by element type, where raw_data isn't used (onnx.proto).
_FIELD: dict[DType, str] = {
    DType.f32: "float_data", DType.c64: "float_data", DType.f64: "double_data",
    DType.c128: "double_data", DType.i64: "int64_data", DType.u32: "uint64_data",
    DType.u64: "uint64_data", DType.string: "string_data",
}  # fmt: skip


def read_tensor(tensor: onnx.TensorProto, sources: Sources, where: str) -> Data:
    """Give the data of a tensor, mapped where it is stored outside the message.

    Raises:
        InputError: the data is missing, doesn't match the shape, or names a file it may not.
    """
    dtype = read_dtype(tensor.data_type, where)
    shape = tuple(tensor.dims)
    count = _elements(shape, where)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return sources.data(tensor, dtype, shape, where)
    if tensor.HasField("segment"):
        raise InputError(f"{where} is stored in segments, which ONNX never defined further")
    raw = tensor.raw_data
    if raw:
        want = (count * dtype.bits + 7) // 8
        if len(raw) != want or dtype is DType.string:
            raise InputError(f"{where} holds {len(raw)} bytes, but its shape wants {want}")
        return Inline(from_bytes(raw, dtype, shape))
    return Inline(_typed(tensor, dtype, shape, count, where))


def _elements(shape: tuple[int, ...], where: str) -> int:
    count = 1
    if len(shape) > MAX_RANK:
        raise InputError(f"{where} has {len(shape)} dimensions; numpy has at most {MAX_RANK}")
    for d in shape:
        count *= d
        if d < 0 or count > MAX_ELEMENTS:
            raise InputError(f"{where} has the impossible shape {list(shape)}"[:300])
    return count


def _typed(
    tensor: onnx.TensorProto, dtype: DType, shape: tuple[int, ...], count: int, where: str
) -> Array:
    values: Any = getattr(tensor, _FIELD.get(dtype, "int32_data"))
    wide = 2 if dtype in (DType.c64, DType.c128) else 1
    want = -(-count * dtype.bits // 8) if 0 < dtype.bits < 8 else count * wide
    if len(values) != want:
        raise InputError(f"{where} holds {len(values)} numbers, but its shape wants {want}")
    if dtype is DType.string:
        texts = [v.decode("utf-8", "surrogateescape") for v in values]
        return np.array(texts, object).reshape(shape)
    try:
        return numpy_helper.to_array(tensor).reshape(shape)
    except (ValueError, TypeError, OverflowError) as why:
        raise InputError(f"{where} holds numbers that don't fit its type: {why}") from why


def read_sparse(sparse: onnx.SparseTensorProto, sources: Sources, where: str) -> Data:
    """Give a sparse tensor's data, made dense (ONNX Runtime does the same when it loads one)."""
    shape = tuple(sparse.dims)
    values = read_tensor(sparse.values, sources, where)
    indices = read_tensor(sparse.indices, sources, where).numpy()
    count = _elements(shape, where)
    if count * values.dtype.bits > 8 * MAX_SPARSE:
        raise InputError(f"{where} is sparse, and too large to be made dense")
    if indices.ndim == 2 and indices.shape[1] == len(shape):
        indices = indices @ np.cumprod((1, *shape[:0:-1]))[::-1].astype(np.int64)
    good = indices.ndim == 1 and indices.shape == values.shape and indices.dtype.kind == "i"
    if not good or (indices.size and not 0 <= indices.min() <= indices.max() < count):
        raise InputError(f"{where} is sparse, and its indices don't fit the shape {list(shape)}")
    dense = np.zeros(count, values.dtype.numpy)
    dense[indices] = values.numpy()
    return Inline(dense.reshape(shape))


def write_tensor(data: Data, name: str = "") -> onnx.TensorProto:
    """A TensorProto holding the data (strings as string_data, all else as raw_data)."""
    tensor = skeleton(data, name)
    array = data.numpy()
    if data.dtype is DType.string:
        tensor.string_data.extend(_encoded(v) for v in array.reshape(-1).tolist())
    elif size(data):
        tensor.raw_data = to_bytes(array, data.dtype)
    return tensor


def skeleton(data: Data, name: str) -> onnx.TensorProto:
    """A TensorProto with the name, type and shape, but no data."""
    return onnx.TensorProto(name=name, data_type=data.dtype.onnx, dims=data.shape)


def _encoded(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
