# pyright: basic
# TVM ships no types.
"""Results that are parts of a larger tensor in memory: others' parts lie between their images.

A template doesn't know: its function is made as if the result were dense, and then given a buffer
with the strides of the whole.
"""

from __future__ import annotations

import math
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from graphopt.ir.builtin import Return
from graphopt.ir.clone import clone_graph
from graphopt.ir.core import Graph, Op, Value
from graphopt.ir.layout import physical_shape
from graphopt.ops.movement import Part
from graphopt.targets.tvm.region import shape_of, static


def taken(graph: Graph) -> tuple[Graph, Value | None]:
    """A region that makes a dense result, and the larger tensor that it is a part of, if any."""
    last = graph.outputs[0].op if len(graph.outputs) == 1 else None
    if last is None or not isinstance(last.kind, Part):
        return graph, None
    copy = clone_graph(graph, {})
    end = copy.terminator
    (part,) = (v.op for v in end.operands if v)
    assert part
    copy.erase(end)
    copy.insert(Op(Return(), [part.operand(0)]))
    copy.erase(part)
    return copy, last.result


def spaced(func: Any, larger: Value) -> Any:
    """A function of a dense region, with its result in the memory of a larger tensor."""
    old = func.params[-1]
    sizes = physical_shape(shape_of(larger), static(larger).layout)
    strides = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    new = tirx.decl_buffer(list(old.shape), old.dtype, old.name, strides=strides)
    return tvm_ffi.structural_map(func, (tvm.ir.Var, lambda v: new if v.same_as(old) else v))
