"""Converters of ONNX ops that index, sort or accumulate."""

from __future__ import annotations

from typing import Any

from graphopt.ir.types import DType
from graphopt.onnx.node import Modelled, NodeView, Step, converts, normal
from graphopt.ops import indexed, ordered

INDICES = (DType.i32, DType.i64)
COMBINED = ("add", "mul", "min", "max")


def _axis(n: NodeView, default: int) -> int | None:
    """The attribute `axis`, non-negative; None where the rank isn't known."""
    rank = n.rank(0)
    axes = None if rank is None else normal((n.attr("axis", default),), rank)
    return axes[0] if axes else None


@converts("GatherElements")
def _gather_elements(n: NodeView) -> Modelled | None:
    axis = _axis(n, 0)
    return None if axis is None else Step(indexed.GatherElements(axis), n.operands)


@converts("GatherND")
def _gather_nd(n: NodeView) -> Modelled | None:
    """The number of axes that an index names must be known."""
    shape = n.shape(1)
    if n.rank(0) is None or not shape or not isinstance(shape[-1], int):
        return None
    return Step(indexed.GatherND(n.attr("batch_dims", 0)), n.operands)


@converts("Scatter", "ScatterElements")
def _scatter_elements(n: NodeView) -> Modelled | None:
    axis, how = _axis(n, 0), _reduction(n)
    if axis is None or how is None:
        return None
    return Step(indexed.ScatterElements(axis, how), n.operands)


@converts("ScatterND")
def _scatter_nd(n: NodeView) -> Modelled | None:
    shape, how = n.shape(1), _reduction(n)
    if n.rank(0) is None or not shape or not isinstance(shape[-1], int) or how is None:
        return None
    return Step(indexed.ScatterND(how), n.operands)


def _reduction(n: NodeView) -> Any:
    """The kind's word for the reduction; None where numpy has none for the type."""
    how = n.attr("reduction", "none")
    number = n.dtype(0) not in (None, DType.bool_, DType.string)
    return "set" if how == "none" else how if how in COMBINED and number else None


@converts("OneHot")
def _one_hot(n: NodeView) -> Modelled | None:
    """Of integers, with a constant depth."""
    depth, rank = n.number(1), n.rank(0)
    if depth is None or rank is None or n.dtype(0) not in INDICES:
        return None
    axes = normal((n.attr("axis", -1),), rank + 1)
    if axes is None or depth < 1 or depth != int(depth):
        return None
    return Step(indexed.OneHot(int(depth), axes[0]), (n.operand(0), n.operand(2)))


@converts("Trilu")
def _trilu(n: NodeView) -> Modelled | None:
    k = n.number(1) if n.has(1) else 0
    if k is None or n.rank(0) is None:
        return None
    return Step(indexed.Trilu(bool(n.attr("upper", 1)), int(k)), n.operands[:1])


@converts("ReverseSequence")
def _reverse_sequence(n: NodeView) -> Modelled | None:
    time, batch = n.attr("time_axis", 0), n.attr("batch_axis", 1)
    if sorted((time, batch)) != [0, 1] or (n.rank(0) or 0) < 2:
        return None
    return Step(indexed.ReverseSequence(time, batch), n.operands)


_TOTALS: dict[str, Any] = {"CumSum": ordered.CumSum, "CumProd": ordered.CumProd}


@converts(*_TOTALS)
def _cumulate(n: NodeView) -> Modelled | None:
    """The axis is an operand, of one element."""
    axis, rank = n.number(1), n.rank(0)
    axes = None if axis is None or rank is None else normal((int(axis),), rank)
    if axes is None:
        return None
    exclusive, reverse = bool(n.attr("exclusive", 0)), bool(n.attr("reverse", 0))
    return Step(_TOTALS[n.op_type](axes[0], exclusive, reverse), n.operands[:1])


@converts("TopK")
def _top_k(n: NodeView) -> Modelled | None:
    """k is an attribute before opset 10. Sorted is one of the orders that `sorted=0` allows."""
    axis = _axis(n, -1)
    k = n.attr("k") if n.version < 10 else n.number(1)
    if axis is None or k is None or k < 1:
        return None
    return Step(ordered.TopK(int(k), axis, bool(n.attr("largest", 1))), n.operands[:1])
