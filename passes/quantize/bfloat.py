"""A layer in bfloat16: what it may be where int8 would lose too much of it.

    f(x, w) -> f(x, cast(w')), or f(cast(cast(x)), cast(w')) where the target multiplies bfloat16

w' are the bfloat16 numbers nearest to w, as in the pass `half`; sums stay in float32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from graphopt.analysis.price import Costs, graph_of
from graphopt.ir.builtin import Const
from graphopt.ir.core import Op, Value
from graphopt.ir.types import DType
from graphopt.ops.elementwise import Cast
from graphopt.ops.nn import Conv, ConvTranspose
from graphopt.passes.half import store
from graphopt.passes.operands import FEWEST
from graphopt.passes.quantize.swap import swap

WEIGHTS = "with bfloat16 weights"
PRODUCTS = "in bfloat16"
MORE = 0.98  # of the time with bfloat16 weights alone, above which the operand stays float32


def lower(ops: Iterable[Op], products: Collection[Op] = ()) -> None:
    """Let layers read their weights as bfloat16, and some of them their operand.

    Args:
        ops: convolutions and products by constants of type f32, of one graph.
        products: those of them that read their operand rounded, too.
    """
    rounded: dict[Value, Value] = {}
    for op in ops:
        made = op.operand(1).op
        assert made and isinstance(made.kind, Const)
        swap(op, 1, store(made, made.kind.data))
        if op in products:
            x = op.operand(0)
            if x not in rounded:
                rounded[x] = _rounded(x, op)
            op.set_operand(0, rounded[x])


def _rounded(x: Value, reader: Op) -> Value:
    """cast(cast(x)), after x is made."""
    graph = reader.graph
    assert graph
    before = x.op.next if x.op else graph.first
    loc = x.op.loc if x.op else reader.loc
    half = graph.insert(Op(Cast(DType.bf16), [x], loc=loc, hints=[f"{x.hint}_half"]), before)
    wide = Op(Cast(DType.f32), [half.result], loc=loc, hints=[f"{x.hint}_wide"])
    return graph.insert(wide, half.next).result


def offer(op: Op, costs: Costs) -> tuple[str, float]:
    """The form of a layer that is fastest on a target, and the seconds that it saves."""
    plain = costs.price(graph_of([op])).seconds
    weights = _seconds(op, costs, products=False)
    both = _seconds(op, costs, products=True) if _multiplied(op) else weights
    if both < MORE * weights:
        return PRODUCTS, plain - both
    return WEIGHTS, plain - weights


def _multiplied(op: Op) -> bool:
    """Whether kernels may multiply bfloat16 for an op, as the pass `half` takes it."""
    match op.kind:
        case Conv(group=g):
            w = op.operand(1).tensor.static
            return g == 1 or (w is not None and w[1] >= FEWEST)
        case ConvTranspose():
            return False
        case _:
            return True


def _seconds(op: Op, costs: Costs, products: bool) -> float:
    graph = graph_of([op])
    twin = [one for one in graph if one.kind == op.kind]
    lower(twin, twin if products else ())
    return costs.price(graph).seconds
