# pyright: basic
# TVM ships no types.
"""Changes to loops that schedules can't make: a schedule marks the loops, these rewrite them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

Loops = tuple[Any, ...]
Change = Callable[[Any, Loops], Any]  # a loop, those around it -> what stands in its place


def rewritten(func: Any, change: Change) -> Any:
    """A scheduled function whose loops are passed through `change`, the inner ones first."""
    return func.with_body(_walk(func.body, (), change))


def _walk(stmt: Any, around: Loops, change: Change) -> Any:
    kind = type(stmt).__name__
    if kind == "SeqStmt":
        return tirx.SeqStmt([_walk(s, around, change) for s in stmt.seq])
    if kind == "SBlockRealize" and stmt.block.name_hint == "root":
        b = stmt.block
        block = type(b)(b.iter_vars, b.reads, b.writes, b.name_hint, _walk(b.body, around, change),
                        b.init, b.alloc_buffers, b.match_buffers, b.annotations)  # fmt: skip
        return type(stmt)(stmt.iter_values, stmt.predicate, block)
    if kind != "For":
        return stmt
    return change(loop(stmt, _walk(stmt.body, (*around, stmt), change)), around)


def loop(old: Any, body: Any, *, extent: Any = None, without: tuple[str, ...] = ()) -> Any:
    """A loop with another body, or extent, and without some annotations."""
    kept = {k: v for k, v in old.annotations.items() if k not in without}
    turns = old.extent if extent is None else extent
    return tirx.For(old.loop_var, old.min, turns, old.kind, body, old.thread_binding, kept)
