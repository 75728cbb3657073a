"""From a node to the kinds that express it; and again, once operands have become constant."""

from __future__ import annotations

from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Op
from graphopt.onnx import (
    convert_dynamic,
    convert_elementwise,
    convert_indexed,
    convert_movement,
    convert_nn,
    convert_quant,
    convert_reduce,
    convert_resize,
)
from graphopt.onnx.attrs import plain
from graphopt.onnx.checks import known
from graphopt.onnx.node import CONVERTERS, Modelled, NodeView, Step

# Importing the tables has filled CONVERTERS.
TABLES = (
    convert_dynamic,
    convert_elementwise,
    convert_indexed,
    convert_movement,
    convert_nn,
    convert_quant,
    convert_reduce,
    convert_resize,
)
# Attributes that are 0 or 1; what runtimes make of other numbers differs.
_FLAGS = {
    "keepdims", "noop_with_empty_axes", "select_last_index", "transA", "transB", "ceil_mode",
    "count_include_pad", "fmod", "allowzero", "training_mode", "antialias", "is_causal",
    "exclude_outside", "spatial", "upper", "exclusive", "reverse", "largest", "sorted",
}  # fmt: skip
NEWEST = 28  # the opset up to which the converters know every version of their ops
# What kinds raise where attributes contradict one another or the operands.
MISFIT = (ValueError, IndexError, ZeroDivisionError, OverflowError, TypeError)


def convert(node: NodeView) -> Modelled | None:
    """The kinds that express a node; None where none does."""
    converter = CONVERTERS.get((node.domain, node.op_type))
    if converter is None or (node.version > NEWEST and _is_newer(node)):
        return None
    if any(node.attrs[name] not in (0, 1) for name in _FLAGS & node.attrs.keys()):
        return None
    return converter(node)


def _is_newer(node: NodeView) -> bool:
    """Whether the op was redefined after the converters were written."""
    found = known(node.op_type, node.version, node.domain)
    return found is None or found.since > NEWEST


def remodel(op: Op) -> list[Step] | None:
    """Express an opaque op by modelled kinds, now that its parameters may be constants.

    Args:
        op: any op.

    Returns:
        The steps, or None. The results of the last are the first results of `op` (nothing uses
        the others); whether they are well-typed shows when they are made.
    """
    kind = op.kind
    if not isinstance(kind, Opaque) or op.regions:
        return None
    named = tuple(i not in kind.missing for i in range(len(op.results)))
    used = tuple(r.use_count > 0 for r in op.results)
    attrs = {k: plain(v) for k, v in kind.attrs}
    view = NodeView(kind.op_type, kind.domain, kind.version, attrs, op.operands, named, used)
    try:
        found = convert(view)
    except MISFIT:
        return None
    return [found] if isinstance(found, Step) else found
