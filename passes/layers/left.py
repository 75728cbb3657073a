"""Layers that no form is known for, and why: they are listed, so that nobody wonders."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from graphopt.choices import Choice
from graphopt.ir.builtin import Const, Opaque
from graphopt.ir.core import Graph, Op, Value
from graphopt.ir.data import Data
from graphopt.ir.types import DType
from graphopt.ops.elementwise import Cast
from graphopt.ops.excite import SqueezeExcite
from graphopt.ops.linalg import Gemm, MatMul
from graphopt.ops.nn import Conv, ConvTranspose
from graphopt.ops.quant import Dequantize
from graphopt.ops.recurrent import GRUScan, LSTMScan
from graphopt.passes.layers.sites import Site, fresh, layer_name, sites
from graphopt.rewrite import const

UNRULED = {"LSTM", "GRU", "RNN", "Einsum"}  # ONNX's ops that aren't modelled, and are layers

NOTHING = "the model has no layer that it could change so"
INSIDE = "it is in a branch, or a loop's body"

Why = Callable[[Op], str]
"""Why an op stays as it is, which a pass has no form for; "" where it is no layer for the pass."""


def left(
    name: str, graph: Graph, has_form: Callable[[Site], bool], why: Why, names: set[str]
) -> list[Choice]:
    """Refused choices of a pass for the layers of a graph that it can't propose anything for.

    Args:
        name: the pass's.
        graph: whose ops are looked at; regions stay as they are, so their layers are of these.
        has_form: whether the pass has a form for a site.
        why: of an op that is none of them.
        names: of all sites; those of the layers found here are added.
    """
    formed = {one.op for s in sites(graph) if has_form(s) for one in s.family}
    found = [(op, why(op)) for op in graph if op not in formed]
    for region in regions(graph):
        found += [(one.op, INSIDE) for s in sites(region) if has_form(s) for one in s.family]
        found += [(op, why(op)) for op in region]
    return [Choice(fresh(layer_name(op), names), op.loc, name, 0, 0, refused=reason)
            for op, reason in found if reason]  # fmt: skip


def regions(graph: Graph) -> Iterator[Graph]:
    """The branches and bodies inside a graph's ops, and those inside theirs."""
    for op in graph:
        for region in op.regions:
            yield region
            yield from regions(region)


def unruled(op: Op) -> str:
    """Why a layer with constant weights is no site; "" for what is one, or no layer."""
    kind = op.kind
    match kind:
        case Conv() | Gemm() | MatMul():
            return _product(op)
        case ConvTranspose():
            no_rule = "a transposed convolution has no rule" if _matrix(op.operand(1)) else ""
            return stored(op) or no_rule
        case Opaque(op_type) if op_type in UNRULED and not kind.domain:
            return f"{op_type} has no rule" if any(map(_matrix, op.operands)) else ""
        case SqueezeExcite() | LSTMScan() | GRUScan():
            return f"{kind.name} has no rule" if any(map(_matrix, op.operands)) else ""
        case _:
            return ""


def stored(op: Op) -> str:
    """That a layer's weights are constants of fewer bits, widened before it; "" if they aren't."""
    data = _matrix(op.operand(1))
    return f"its weights are stored as {data.dtype}" if data and not const(op.operand(1)) else ""


def _product(op: Op) -> str:
    """Of a convolution or a product."""
    a, b = map(_matrix, op.operands[:2])
    if (a is None) == (b is None) or not op.result.tensor.dtype.is_float:
        return ""
    if a:
        return "" if isinstance(op.kind, Conv) else "its constant factor is the left one"
    assert b
    if why := stored(op):
        return why
    types = {b.dtype, op.operand(0).tensor.dtype}
    if types != {DType.f32}:
        return f"it computes in {max(types - {DType.f32}, key=str)}, not in f32"
    if isinstance(op.kind, Gemm) and op.kind.trans_a:
        return "its first factor is transposed"
    if not isinstance(op.kind, Conv) and len(b.shape) > 2:
        return "its constant factor is a batch of matrices"
    rank = op.operand(0).tensor.rank
    if rank is None:
        return "its shapes aren't known before a run"
    return "it reads one vector" if rank < 2 else ""


def _matrix(value: Value | None) -> Data | None:
    """The constant of two axes or more that a factor is, or is read from; None for others.

    Weights of fewer bits are constants that are widened first.
    """
    while value and value.op and isinstance(value.op.kind, Dequantize | Cast):
        value = value.op.operands[0]
    found = value.op.kind.data if value and value.op and isinstance(value.op.kind, Const) else None
    return found if found and len(found.shape) > 1 and 0 not in found.shape else None
