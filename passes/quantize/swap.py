"""Replacing operands, and what made the old ones with them."""

from __future__ import annotations

from graphopt.ir.core import Op, Value


def swap(op: Op, index: int, new: Value) -> None:
    """Let an op read another value; the ops that only served the old one go."""
    old = op.operands[index]
    op.set_operand(index, new)
    todo = [old.op] if old else []
    while todo:
        maker = todo.pop()
        if maker and maker.graph and maker.dead():
            todo += [v.op for v in maker.operands if v]
            maker.graph.erase(maker)
