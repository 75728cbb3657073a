"""Whether compiled integers are the right ones: a quantized model's kernels against numpy.

int8 has one definition (`graphopt.ops.quant`), so the numpy meaning of a module whose sums are
integers says what each kernel must give, to the bit. Floats between them are exact, too, where each
is one correctly rounded operation of exact ones; what adds up or approximates (a mean, an
exponential, a product and a sum that may become one instruction) is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graphopt.analysis.cost import total_macs
from graphopt.analysis.interpret import interpret, output_names
from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Graph, Module, Op, Value
from graphopt.ir.types import TensorType
from graphopt.ops.elementwise import Add, Mul, Sub
from graphopt.ops.quant import ConvInteger, MatMulInteger
from graphopt.verify import Check, compare, tolerance

MOST_MACS = 1 << 30  # multiply-adds that numpy does for the check: a second or two
MOST_WINDOWS = 1 << 26  # numbers that numpy copies at once to do a convolution: half a gigabyte
ROUNDED = {
    "quantize", "dynamic_quantize", "dequantize", "requantize", "max_pool", "reduce_max",
    "reduce_min", "relu", "clip", "min", "max", "neg", "abs", "identity", "add", "sub", "mul",
    "div", "sqrt", "reciprocal", "floor", "ceil", "round", "sign", "where", "cast", "leaky_relu",
    "reshape", "transpose", "concat", "split", "slice", "gather", "pad", "expand", "squeeze",
    "unsqueeze", "tile", "depth_to_space", "space_to_depth", "reorder", "const", "return",
}  # fmt: skip
STEPS = {"quantize", "floor", "ceil", "round", "sign"}  # of floats, and jump where these move


def check_integers(module: Module, feed: Mapping[str, Any], got: Mapping[str, Any],
                   data: str) -> Check | None:  # fmt: skip
    """Compare a bundle's outputs with numpy's of the module that its kernels were made from.

    Args:
        module: after the pass `integers`.
        feed: inputs.
        got: the bundle's outputs.
        data: what the inputs are.

    Returns:
        The check: equal bits for outputs that are exact, the float tolerance for those that follow
        from exact values by float ops alone. None for a model without integer sums, one that rounds
        inexact floats to few bits, or one that takes numpy too long (see MOST_MACS).
    """
    graph = module.main
    inexact = _inexact(graph)
    if inexact is None or not _affordable(graph):
        return None
    names = output_names(graph)
    exact = {n for n, v in zip(names, graph.outputs, strict=True) if v not in inexact}
    value = 0.0 if len(exact) == len(names) else tolerance(graph).value
    limit = replace(tolerance(graph), value=value, exact=frozenset(exact))
    return compare("the compiled bundle, against numpy in integers,", data, limit,
                   [interpret(module, feed)], [got])  # fmt: skip


def _affordable(graph: Graph) -> bool:
    """Whether there are integer sums, and numpy can do them in a moment."""
    sums = [op for op in graph if isinstance(op.kind, ConvInteger | MatMulInteger)]
    types = [r.type for op in graph for r in op.results]
    if not sums or any(not isinstance(t, TensorType) or t.static is None for t in types):
        return False
    windows = (_windows(op) for op in sums if isinstance(op.kind, ConvInteger))
    return total_macs(graph) <= MOST_MACS and max(windows, default=0) <= MOST_WINDOWS


def _windows(op: Op) -> int:
    """Elements of the windows of a group of a convolution."""
    y, w = op.result.tensor.static or (0, 1), op.operand(1).tensor.static or ()
    return math.prod(y) // y[1] * math.prod(w[1:])


def _inexact(graph: Graph) -> set[Value] | None:
    """The values that may differ in their last bits; None where one of them is rounded to few."""
    found: set[Value] = set()
    for op in graph:
        near = any(v in found for v in op.operands if v)
        if near and _jumps(op):
            return None
        if near or not _is_exact(op):
            found.update(op.results)
    return found


def _jumps(op: Op) -> bool:
    """Whether a result may change by more than its operands did."""
    return bool(op.regions) or op.kind.name in STEPS or not all(map(_is_float, op.results))


def _is_exact(op: Op) -> bool:
    """Whether exact operands give an exact result."""
    if op.regions or isinstance(op.kind, Opaque):
        return False
    values = [*(v for v in op.operands if v), *op.results]
    if not any(map(_is_float, values)):
        return True
    return op.kind.name in ROUNDED and not _contracts(op)


def _contracts(op: Op) -> bool:
    """Whether a kernel may do a sum and a product before it with one rounding."""
    products = (v.op for v in op.operands if v and v.op and isinstance(v.op.kind, Mul))
    return isinstance(op.kind, Add | Sub) and any(map(_any_float, products))


def _any_float(op: Op) -> bool:
    return any(map(_is_float, op.results))


def _is_float(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.dtype.is_float
