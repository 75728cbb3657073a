# pyright: basic
# Mutations put anything anywhere: the point is that types do not hold.
"""Damage to parameters: attributes, and the small tensors that serve as parameters."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, helper, numpy_helper

from tests.fuzz.edit import Edit, any_graph, any_name, any_node, nasty, tensors

SORTS = ("FLOAT", "INT", "STRING", "TENSOR", "GRAPH", "FLOATS", "INTS", "STRINGS", "UNDEFINED",
         "TYPE_PROTO", "SPARSE_TENSOR", "GRAPHS", "TENSORS")  # fmt: skip
FLOATS = (0.0, -0.0, -1.0, 1e-45, 1e38, -1e38, float("inf"), float("-inf"), float("nan"), 0.5, 1e9)
TEXTS = ("", "NOTSET", "VALID", "SAME_UPPER", "reflect", "linear", "cubic", "half_pixel", "\0",
         "x" * 5000, "é", "abc,cd->abd", "...->", "asymmetric", "tf_crop_and_resize")  # fmt: skip


def _attributed(rng: random.Random, model: onnx.ModelProto) -> onnx.NodeProto:
    for _ in range(200):
        node = any_node(rng, model)
        if node.attribute:
            return node
    raise ValueError("no node has attributes")


def change_number(rng: random.Random, model: onnx.ModelProto) -> str:
    """Another number: one of a list, or the only one."""
    node = _attributed(rng, model)
    a = rng.choice(node.attribute)
    if a.type == AttributeProto.INT:
        a.i = nasty(rng)
    elif a.type == AttributeProto.FLOAT:
        a.f = rng.choice(FLOATS)
    elif a.type == AttributeProto.STRING:
        a.s = rng.choice(TEXTS).encode()
    elif a.type == AttributeProto.FLOATS:
        a.floats[rng.randrange(len(a.floats))] = rng.choice(FLOATS)
    elif a.type == AttributeProto.INTS:
        every = rng.random() < 0.3
        number = nasty(rng)
        for i in range(len(a.ints)) if every else [rng.randrange(len(a.ints))]:
            a.ints[i] = number
    return f"{node.op_type}.{a.name}"


def change_length(rng: random.Random, model: onnx.ModelProto) -> str:
    """A list that is empty, shorter, longer, or very long."""
    node = _attributed(rng, model)
    lists = [a for a in node.attribute if a.ints or a.floats]
    a = rng.choice(lists)
    which = a.ints or a.floats
    match rng.randrange(4):
        case 0:
            del which[:]
        case 1:
            which.pop()
        case 2:
            which.append(rng.choice([1, 0, -1]))
        case _:
            which.extend([1] * rng.choice([5, 100, 100_000]))
    return f"{node.op_type}.{a.name}"


def change_sort(rng: random.Random, model: onnx.ModelProto) -> str:
    """Say that it is of another sort, with or without a value of that sort."""
    node = _attributed(rng, model)
    a = rng.choice(node.attribute)
    if rng.random() < 0.4:
        value = rng.choice([1, 1.5, "text", [1, 2], [0.5], ["a"], np.zeros(3, np.float32)])
        value = numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        a.CopyFrom(helper.make_attribute(a.name, value))
    else:
        a.type = AttributeProto.AttributeType.Value(rng.choice(SORTS))  # pyright: ignore
    return f"{node.op_type}.{a.name}"


def drop_attribute(rng: random.Random, model: onnx.ModelProto) -> str:
    """Leave one out."""
    node = _attributed(rng, model)
    return f"{node.op_type}.{node.attribute.pop(rng.randrange(len(node.attribute))).name}"


def add_attribute(rng: random.Random, model: onnx.ModelProto) -> str:
    """One that the op doesn't know, or knows from elsewhere, or has already."""
    node = any_node(rng, model)
    name = rng.choice(["axis", "axes", "perm", "group", "pads", "strides", "kernel_shape", "to",
                       "dilations", "auto_pad", "keepdims", "output_shape", "ceil_mode", "nonsense",
                       "", "hidden_size", "value", "storage_order", "allowzero"])  # fmt: skip
    value = rng.choice([nasty(rng), [nasty(rng)] * rng.randrange(1, 5), "SAME_LOWER", 1.5, [1, 1]])
    node.attribute.append(helper.make_attribute(name, value))
    if rng.random() < 0.2:
        node.attribute[-1].ref_attr_name = "eps"
    return f"{node.op_type}.{name}"


def change_parameter(rng: random.Random, model: onnx.ModelProto) -> str:
    """Other numbers in a small integer tensor: a shape, axes, pads, repeats, a trip count."""
    small = [t for t in tensors(model) if t.data_type in (6, 7) and np.prod(t.dims) < 20]
    t = rng.choice(small)
    array = numpy_helper.to_array(t).copy()
    number = np.int64(nasty(rng)).astype(array.dtype)
    if array.ndim and rng.random() < 0.7:
        array.reshape(-1)[rng.randrange(array.size)] = number
    else:
        array[...] = number
    t.CopyFrom(numpy_helper.from_array(array, t.name))
    return f"{t.name}={array.tolist()}"


def change_scales(rng: random.Random, model: onnx.ModelProto) -> str:
    """Other numbers in a small float tensor: scales, limits, zero points."""
    small = [t for t in tensors(model) if t.data_type == 1 and np.prod(t.dims) < 10]
    t = rng.choice(small)
    array = numpy_helper.to_array(t).copy()
    array.reshape(-1)[rng.randrange(array.size)] = rng.choice(FLOATS)
    t.CopyFrom(numpy_helper.from_array(array, t.name))
    return f"{t.name}={array.tolist()}"


def add_bomb(rng: random.Random, model: onnx.ModelProto) -> str:
    """A node whose result would take more memory or time than there is."""
    graph = any_graph(rng, model)
    big = rng.choice([10**6, 10**9, 10**12, 10**15, 2**62, 10**5])
    x, op = any_name(rng, model), rng.choice([*BOMBS])
    inputs, attributes = BOMBS[op]
    names: list[str] = []
    for i, what in enumerate(inputs):
        name = x if what == "x" else f"bomb{i}"
        names.append(name)
        if what != "x":
            array = (
                np.array([big if v == "big" else v for v in what])
                if isinstance(what, list)
                else (np.array(big if what == "big" else what))
            )
            graph.initializer.append(numpy_helper.from_array(array, name))
    made = {k: big if v == "big" else v for k, v in attributes.items()}
    node = helper.make_node(op, names, ["bomb"], "bomb", **made)  # pyright: ignore
    graph.node.append(node)
    graph.node.append(helper.make_node("Shape", ["bomb"], ["bombshape"], "bombshape"))
    model.graph.output.append(onnx.ValueInfoProto(name=rng.choice(["bomb", "bombshape"])))
    return f"{op}({x}) {big}"


Input = str | int | float | list[str | int | float]
BOMBS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "Expand": (["x", ["big", 1, 1, 1, 1]], {}),
    "ConstantOfShape": ([["big", 1000]], {}),
    "Tile": (["x", ["big"]], {}),
    "Range": ([0, "big", 1], {}),
    "Pad": (["x", [0, "big"]], {}),
    "OneHot": ([[1, 2, 3], "big", [0, 1]], {}),
    "EyeLike": (["x"], {"dtype": 1}),
    "Resize": (["x", "", "", ["big", "big"]], {}),
    "MaxPool": (["x"], {"kernel_shape": [100000, 100000], "pads": [99999] * 4}),
    "RandomNormal": ([], {"shape": [10**9, 10**3]}),
    "GatherND": (["x", [[0]]], {}),
    "Reshape": (["x", ["big", 0, -1]], {}),
    "BlackmanWindow": (["big"], {}),
    "Trilu": (["x", "big"], {}),
    "SpaceToDepth": (["x"], {"blocksize": "big"}),
    "CumSum": (["x", "big"], {}),
    "Einsum": (["x", "x"], {"equation": "abcd,efgh->abcdefgh"}),
    "NonMaxSuppression": ([[[[0.0, 0.0, 1.0, 1.0]]], "x", "big"], {}),
    "Split": (["x"], {"num_outputs": "big"}),
}  # fmt: skip
EDITS: tuple[Edit, ...] = (
    change_number, change_number, change_number, change_length, change_length, change_sort,
    drop_attribute, add_attribute, change_parameter, change_parameter, change_parameter,
    change_scales, add_bomb, add_bomb,
)  # fmt: skip
