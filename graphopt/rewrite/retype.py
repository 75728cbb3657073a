"""Types after a rewrite: a value may become better known, and so do those computed from it."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.errors import GraphoptError
from graphopt.ir.core import Op, Value
from graphopt.ir.types import UNKNOWN, Dim, TensorType, ValueType


def less_known(old: ValueType, new: ValueType) -> bool:
    """Whether a value of type `new` in place of one of type `old` would lose a known size.

    Raises:
        GraphoptError: the types contradict each other, which is a bug of the rule.
    """
    if old == new:
        return False
    if not isinstance(old, TensorType) or not isinstance(new, TensorType):
        return isinstance(old, TensorType)
    if old.dtype is not new.dtype:
        raise GraphoptError(f"a rule would replace a value of type {old} by one of type {new}")
    if old.shape is None or new.shape is None:
        return old.shape is not None
    if len(old.shape) != len(new.shape):
        raise GraphoptError(f"a rule would replace a value of type {old} by one of type {new}")
    return any(_lost(a, b) for a, b in zip(old.shape, new.shape, strict=True))


def _lost(old: Dim, new: Dim) -> bool:
    """Whether a number, or a symbol that a person chose, gives way to less."""
    if isinstance(old, int):
        return old != new
    return new == UNKNOWN and old != UNKNOWN and not old.name.startswith("unk__")  # ONNX made it up


def retype(values: Iterable[Value]) -> list[Op]:
    """Infer again everything computed from `values`, whose types changed; give the ops that did.

    Raises:
        GraphoptError: an op does not fit what is now known of its operands.
    """
    changed: list[Op] = []
    work = [u.op for v in values for u in v.uses]
    while work:
        op = work.pop()
        try:
            types = op.kind.infer(*(v and v.type for v in op.operands))
        except ValueError as why:
            raise GraphoptError(f"{op.kind.name} at {op.loc}: {why}") from why
        if types is None:
            continue
        for result, type_ in zip(op.results, types, strict=True):
            if _relayout(type_, result.type) == result.type:
                continue
            result.type = _relayout(type_, result.type)
            changed.append(op)
            work += [u.op for u in result.uses]
    return changed


def _relayout(type_: ValueType, old: ValueType) -> ValueType:
    """`type_`, stored as `old` is: layouts are the maker's choice, inference knows none."""
    if isinstance(type_, TensorType) and isinstance(old, TensorType) and old.layout:
        return TensorType(type_.dtype, type_.shape, old.layout)
    return type_
