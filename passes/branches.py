"""Control flow whose course is known."""

from __future__ import annotations

from graphopt.ir.builtin import Opaque
from graphopt.ir.clone import clone_op
from graphopt.ir.core import Op, Value
from graphopt.rewrite import Rewriter, const, rule


@rule(Opaque)
def if_constant(rw: Rewriter, op: Op, kind: Opaque) -> tuple[Value, ...] | None:
    """if(constant) -> the ops of the branch that is taken."""
    if (kind.domain, kind.op_type) != ("", "If"):
        return None
    cond = const(op.operand(0))
    if cond is None:
        return None
    name = "then_branch" if cond.numpy().reshape(-1)[0] else "else_branch"
    branch = next(r for r in op.regions if r.name == name)
    mapped: dict[Value, Value] = {}
    for inner in branch:
        if inner.kind.name != "return":
            rw.made.append(clone_op(inner, mapped))
    return tuple(mapped.get(v, v) for v in branch.outputs)
