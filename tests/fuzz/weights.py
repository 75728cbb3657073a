# pyright: basic
# Mutations put anything anywhere: the point is that types do not hold.
"""Damage to tensors: shapes, types and data that don't belong together."""

from __future__ import annotations

import random

import numpy as np
import onnx
from onnx import numpy_helper

from tests.fuzz.edit import Edit, nasty, tensors


def change_dims(rng: random.Random, model: onnx.ModelProto) -> str:
    """One dimension that is wrong, huge or negative; more or fewer of them."""
    t = rng.choice(tensors(model))
    match rng.randrange(4):
        case 0:
            t.dims.append(nasty(rng))
        case 1:
            t.dims.pop()
        case 2:
            t.dims.extend([1] * rng.choice([1, 5, 70]))
        case _:
            t.dims[rng.randrange(len(t.dims))] = nasty(rng)
    return f"{t.name} {list(t.dims)[:6]}"


def overflow_dims(rng: random.Random, model: onnx.ModelProto) -> str:
    """Dimensions whose product wraps around to 0 or to something small."""
    t = rng.choice(tensors(model))
    del t.dims[:]
    t.dims.extend(rng.choice([[2**32, 2**32], [2**62, 4], [2**21, 2**21, 2**22], [0, 2**62],
                              [2**31, 2**33, 1], [-1, -4]]))  # fmt: skip
    return f"{t.name} {list(t.dims)}"


def reshape_whole(rng: random.Random, model: onnx.ModelProto) -> str:
    """The same numbers in another, valid shape, or more or fewer of them."""
    t = rng.choice(tensors(model))
    array = numpy_helper.to_array(t)
    match rng.randrange(4):
        case 0:
            array = array.reshape(-1)
        case 1:
            array = array[..., :0]
        case 2:
            array = np.concatenate([array, array], -1)
        case _:
            array = array[None]
    t.CopyFrom(numpy_helper.from_array(array, t.name))
    return f"{t.name} {list(t.dims)}"


def change_data(rng: random.Random, model: onnx.ModelProto) -> str:
    """Too little data, or too much; in the wrong field, or in two."""
    t = rng.choice(tensors(model))
    match rng.randrange(5):
        case 0:
            t.raw_data = t.raw_data[: rng.choice([0, 1, len(t.raw_data) // 2])]
        case 1:
            t.raw_data += b"\0" * rng.choice([1, 4, 4000])
        case 2:
            t.float_data.extend([1.0, 2.0])
        case 3:
            t.ClearField("raw_data")
            t.string_data.append(b"\xff")
        case _:
            t.ClearField("raw_data")
    return t.name


def poison(rng: random.Random, model: onnx.ModelProto) -> str:
    """NaN, infinity, huge and denormal numbers."""
    t = rng.choice([t for t in tensors(model) if t.data_type == 1 and t.dims])
    array = numpy_helper.to_array(t).copy()
    number = rng.choice([np.nan, np.inf, -np.inf, 3e38, 1e-45, -0.0])
    if rng.random() < 0.3:
        array[...] = number
    else:
        array.reshape(-1)[rng.randrange(array.size)] = number
    t.CopyFrom(numpy_helper.from_array(array, t.name))
    return f"{t.name} {number}"


def change_type(rng: random.Random, model: onnx.ModelProto) -> str:
    """Another element type, with or without data that fits."""
    t = rng.choice(tensors(model))
    if rng.random() < 0.5:
        t.data_type = rng.choice([0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 14, 16, 17, 22, 25, 26, 27, 99])
    else:
        dtype = rng.choice(["float64", "float16", "int64", "int32", "uint8", "bool", "int8"])
        with np.errstate(all="ignore"):
            array = numpy_helper.to_array(t).astype(dtype)
        t.CopyFrom(numpy_helper.from_array(array, t.name))
    return f"{t.name} {t.data_type}"


def drop_tensor(rng: random.Random, model: onnx.ModelProto) -> str:
    """An initializer that is missing, doubled or nameless."""
    every = model.graph.initializer
    t = rng.choice(every)
    name = t.name
    match rng.randrange(4):
        case 0:
            every.remove(t)
        case 1:
            every.add().CopyFrom(t)
        case 2:
            t.name = ""
        case _:
            t.name = rng.choice(every).name
    return name


def make_sparse(rng: random.Random, model: onnx.ModelProto) -> str:
    """A sparse initializer in its place, right or wrong."""
    every = model.graph.initializer
    t = rng.choice([t for t in every if t.data_type == 1 and t.dims])
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(2, np.float32), t.name))
    at = rng.choice([[0, 1], [0, nasty(rng)], [-1, 0], [1, 0], [[0, 0], [0, 1]]])
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array(at, np.int64), "at"))
    sparse.dims.extend(
        t.dims if rng.random() < 0.5 else [rng.choice([2**31, 10**12, 2**62, 3])] * 2
    )
    every.remove(t)
    return sparse.values.name


EDITS: tuple[Edit, ...] = (
    change_dims, change_dims, overflow_dims, reshape_whole, reshape_whole, change_data, poison,
    change_type, change_type, drop_tensor, make_sparse,
)  # fmt: skip
