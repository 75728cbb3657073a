"""Recurrent layers: what ONNX takes for granted need not be computed."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Op, Value
from graphopt.passes.fold import UNIFORM
from graphopt.passes.simplify.identities import uniform
from graphopt.rewrite import Rewriter, Rule, made_by, rule

STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}  # initial_h, initial_c


@rule(Opaque)
def zero_state(rw: Rewriter, op: Op, kind: Opaque) -> tuple[Value, ...] | None:
    """lstm(x, ..., initial state of zeros) -> lstm(x, ...), whose state starts at zero."""
    if kind.domain or kind.op_type not in STATES:
        return None
    operands = list(op.operands)
    zero = [i for i in STATES[kind.op_type] if i < len(operands) and _zeros(operands[i])]
    if not zero:
        return None
    for i in zero:
        operands[i] = None
    while operands[-1] is None:
        operands.pop()
    return rw.op(kind, *operands, types=[r.type for r in op.results]).results


def _zeros(value: Value | None) -> bool:
    """Whether a value is zero everywhere: a constant, or zeros of a shape known later."""
    while value and value.op and isinstance(value.op.kind, UNIFORM):
        value = value.op.operand(0)
    if value is None:
        return False
    number = uniform(value)
    if number is not None:
        return bool(number == 0)
    made = made_by(value, Opaque)
    return made is not None and made[1].op_type == "ConstantOfShape" and _fills_zero(made[1])


def _fills_zero(kind: Opaque) -> bool:
    """Whether a ConstantOfShape fills with zero; its value is a serialised attribute."""
    raw = kind.attr("value")
    if raw is None:
        return True
    from graphopt.onnx.attrs import plain

    fill: Any = plain(raw)
    return not np.any(fill.numpy())


RULES: tuple[Rule[Any], ...] = (zero_state,)
