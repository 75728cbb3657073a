# pyright: basic
# TVM ships no types.
"""Walking lowered statements: those inside one replaced, the statement kept otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

Stmt = Any


def inside(stmt: Stmt, change: Callable[[Stmt], Stmt]) -> Stmt:
    """A statement with `change` of each that stands directly in it; others are given back."""
    kind = type(stmt).__name__
    if kind == "SeqStmt":
        return tirx.SeqStmt([change(s) for s in stmt.seq])
    if kind == "For":
        return tirx.For(stmt.loop_var, stmt.min, stmt.extent, stmt.kind, change(stmt.body),
                        stmt.thread_binding, stmt.annotations)  # fmt: skip
    if kind == "AttrStmt":
        return tirx.AttrStmt(stmt.node, stmt.attr_key, stmt.value, change(stmt.body))
    if kind == "IfThenElse":
        other = None if stmt.else_case is None else change(stmt.else_case)
        return tirx.IfThenElse(stmt.condition, change(stmt.then_case), other)
    return stmt
