"""Which rows of a batch of sequences are padding: what an attention mask leaves out.

    [CLS] a short sentence [SEP] 0 0 0        mask 1 1 1 1 1 0 0 0

Sequences of different lengths are padded to one, and a mask given as an input tells attention which
positions are there. What a model makes at the others nobody reads. They are often most of the rows,
and nearly alike, so that means and covariances would be about them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from graphopt.ir.core import Graph, Op, Value
from graphopt.ir.types import Array, DType, TensorType
from graphopt.ops.elementwise import Add
from graphopt.ops.linalg import Attention, Gemm, MatMul
from graphopt.ops.movement import Shape
from graphopt.ops.nn import Conv, LayerNorm, Softmax

WHOLE = (DType.i32, DType.i64)  # of bool masks, some mean by True what isn't there
ENDS = (MatMul, Gemm, Attention, LayerNorm, Conv, Shape)  # what masks aren't made by


def padding_mask(graph: Graph) -> str | None:
    """The input that says which positions attention sees: whole numbers [N,T], 0 where none is.

    None where no input or several come into what is added to the scores of softmax.
    """
    found: set[Value] = set()
    for op in graph:
        for start in _added_to_scores(op):
            found |= _inputs(start)
    return found.pop().hint if len(found) == 1 else None


def _added_to_scores(op: Op) -> Iterator[Value]:
    if isinstance(op.kind, Attention) and len(op.operands) > 3 and op.operands[3]:
        yield op.operand(3)
    if isinstance(op.kind, Softmax):
        add = op.operand(0).op
        if add and isinstance(add.kind, Add):
            yield from (v for v in add.operands if v)


def _inputs(start: Value) -> set[Value]:
    """The inputs of whole numbers [N,T] that a value is made of without products."""
    found, seen, todo = set[Value](), set[Value](), [start]
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        if value.op is None and _could_mask(value):
            found.add(value)
        elif value.op and not isinstance(value.op.kind, ENDS):
            todo += [v for v in value.op.operands if v]
    return found


def _could_mask(value: Value) -> bool:
    type_ = value.type
    return isinstance(type_, TensorType) and type_.dtype in WHOLE and type_.rank == 2


def padded(value: Value, mask: Sequence[object]) -> bool:
    """Whether a value is [N,T,...] where a mask is [N,T].

    What a convolution makes or reads isn't: its second axis is channels.
    """
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    if shape is None or len(shape) < 3 or tuple(shape[:2]) != tuple(mask):
        return False
    near = [use.op for use in value.uses] + ([value.op] if value.op else [])
    return not any(isinstance(op.kind, Conv) for op in near)


def kept(value: Value, array: Array, mask: Array | None) -> Array:
    """A value without its padded rows: [N,T,...] becomes [1, rows, ...]; others as they are.

    Args:
        value: what the array is of.
        array: of one run.
        mask: of the same run, [N,T]; anything but zeros and ones is no mask.
    """
    if mask is None or array.shape[:2] != mask.shape or not padded(value, mask.shape):
        return array
    there = mask != 0
    if there.all() or not there.any() or not np.isin(mask, (0, 1)).all():
        return array
    return array[there][None]
