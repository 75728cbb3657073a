# pyright: basic
# TVM ships no types.
"""The parameters of a kernel whose loops are written out: buffers in their physical shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm.script.ir_builder import tirx as ir

from graphopt.ir.core import Value
from graphopt.ir.layout import physical_shape
from graphopt.targets.tvm import bfloat
from graphopt.targets.tvm.region import Region, shape_of, static


def declare(region: Region, words: Mapping[Value, tuple[int, ...]] | None = None) -> None:
    """Declare a buffer for each argument, read at logical indices, and one for the result.

    Those of `words` are buffers of int32 of a shape, which nothing reads at logical indices.
    """
    for i, value in enumerate(region.graph.args):
        if words and value in words:
            region.tensors[value] = ir.arg(f"p{i}", ir.Buffer(words[value], "int32"))
            continue
        made = bfloat.readable(ir.arg(f"p{i}", _buffer(value)), static(value).dtype)
        region.hold(value, made)
        _bind(region, value, made)
    (output,) = region.graph.outputs
    region.result = ir.arg("out0", _buffer(output))


def _buffer(value: Value) -> Any:
    stored = physical_shape(shape_of(value), static(value).layout) or (1,)
    return ir.Buffer(stored, bfloat.stored_dtype(static(value).dtype))


def _bind(region: Region, value: Value, made: Any) -> None:
    tag, own = static(value).layout, shape_of(value)
    region.bind(value, lambda index: made[tuple(region.place(made, tag, index)) if own else (0,)])
