"""Converters of ONNX reductions and softmax."""

from __future__ import annotations

from typing import Any

from graphopt.onnx.node import Modelled, NodeView, Step, converts, normal
from graphopt.ops import nn, reduce
from graphopt.ops.elementwise import Identity

_REDUCTIONS: dict[str, Any] = {
    "ReduceSum": reduce.ReduceSum, "ReduceMean": reduce.ReduceMean,
    "ReduceMax": reduce.ReduceMax, "ReduceMin": reduce.ReduceMin,
    "ReduceProd": reduce.ReduceProd, "ReduceL1": reduce.ReduceL1,
    "ReduceL2": reduce.ReduceL2, "ReduceSumSquare": reduce.ReduceSumSquare,
    "ReduceLogSumExp": reduce.ReduceLogSumExp,
}  # fmt: skip
_COPIED = {"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"}  # f of one is itself

_ROUNDED = {"ReduceL2", "ReduceLogSumExp"}  # of integers, runtimes round each in their own way


@converts(*_REDUCTIONS)
def _reduce(n: NodeView) -> Modelled | None:
    """Axes are an operand from opset 13 (ReduceSum) or 18 (the others) on."""
    rank, axes = n.rank(0), n.list("axes", 1, 13 if n.op_type == "ReduceSum" else 18)
    if rank is None or axes is None:
        return None
    if not axes and n.attr("noop_with_empty_axes", 0):
        return Step(Identity(), n.operands[:1]) if n.op_type in _COPIED else None
    dtype = n.dtype(0)
    if n.op_type in _ROUNDED and not (dtype and dtype.is_float):
        return None
    axes = normal(axes or tuple(range(rank)), rank)
    if axes is None:
        return None
    kind = _REDUCTIONS[n.op_type](tuple(sorted(axes)), bool(n.attr("keepdims", 1)))
    return Step(kind, n.operands[:1])


@converts("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(n: NodeView) -> Modelled | None:
    rank = n.rank(0)
    if rank is None or rank < 3:
        return None
    kind = reduce.ReduceMean if n.op_type == "GlobalAveragePool" else reduce.ReduceMax
    return Step(kind(tuple(range(2, rank))), n.operands)


@converts("ArgMax", "ArgMin")
def _arg_reduce(n: NodeView) -> Modelled | None:
    rank = n.rank(0)
    axes = None if rank is None else normal((n.attr("axis", 0),), rank)
    if axes is None:
        return None
    kind = reduce.ArgMax if n.op_type == "ArgMax" else reduce.ArgMin
    keep, last = bool(n.attr("keepdims", 1)), bool(n.attr("select_last_index", 0))
    return Step(kind(axes[0], keep, last), n.operands)


_SOFTMAX: dict[str, Any] = {"Softmax": nn.Softmax, "LogSoftmax": nn.LogSoftmax}


@converts(*_SOFTMAX)
def _softmax(n: NodeView) -> Modelled | None:
    """Before opset 13 it ran over all axes from `axis` on: ours if all but one have size 1."""
    kind, rank = _SOFTMAX[n.op_type], n.rank(0)
    axis = n.attr("axis", 1 if n.version < 13 else -1)
    if rank is None:
        modern = n.version >= 13 and axis < 0
        return Step(kind(axis), n.operands) if modern else None
    axes = normal((axis,), rank)
    if axes is None:
        return None
    found = axes[0] if n.version >= 13 else _only_axis(n, axes[0])
    return None if found is None else Step(kind(found - rank), n.operands)


def _only_axis(n: NodeView, start: int) -> int | None:
    """The one axis from `start` on whose size isn't 1 (`start` itself where all are)."""
    shape = n.shape(0) or ()
    real = [i for i in range(start, len(shape)) if shape[i] != 1] or [start]
    return real[0] if len(real) == 1 else None
