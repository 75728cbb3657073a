"""The verifier: what must hold of every Module between two passes."""

from __future__ import annotations

from graphopt.errors import GraphoptError, VerifyError
from graphopt.ir.core import Graph, Module, Op, Value
from graphopt.ir.types import TensorType, ValueType


def verify(module: Module) -> None:
    """Check SSA, use lists, arity, types and terminators; linear in the number of ops.

    Raises:
        VerifyError: with the op and its source nodes.
    """
    _graph(module.main, set())


def _graph(graph: Graph, scope: set[Value]) -> None:
    added = set(graph.args)
    scope |= added
    for op in graph:
        _op(op, graph, scope)
        for region in op.regions:
            if region.parent is not op:
                raise _bad(op, "a region does not know its op")
            _graph(region, scope)
        scope.update(op.results)
        added.update(op.results)
    if graph.last is None or graph.last.kind.name != "return":
        raise VerifyError(f"graph @{graph.name} does not end in return")
    scope -= added  # values of a region are not seen outside it


def _op(op: Op, graph: Graph, scope: set[Value]) -> None:
    if op.graph is not graph:
        raise _bad(op, "it does not know its graph")
    if op.kind.name == "return" and op.next:
        raise _bad(op, "return is not the last op")
    least, most = op.kind.arity()
    if len(op.operands) < least or (most is not None and len(op.operands) > most):
        raise _bad(op, f"it has {len(op.operands)} operands")
    for i, v in enumerate(op.operands):
        if v is None:
            if i < least:
                raise _bad(op, f"operand {i} ({op.kind.operands[i]}) is absent")
            continue
        if v not in scope:
            raise _bad(op, f"operand {i} (%{v.hint}) is used before it is defined")
        if not v.has_use(op, i):
            raise _bad(op, f"operand {i} (%{v.hint}) lacks its use record")
    _types(op)


def _types(op: Op) -> None:
    try:
        want = op.kind.infer(*(v and v.type for v in op.operands))
    except (ValueError, GraphoptError) as why:
        raise _bad(op, str(why)) from why
    got = tuple(r.type for r in op.results)
    if want is not None and tuple(map(_logical, want)) != tuple(map(_logical, got)):
        infers, says = (", ".join(map(str, t)) for t in (want, got))
        raise _bad(op, f"it infers {infers} but says {says}")


def _logical(type_: ValueType) -> ValueType:
    """Layouts are the maker's choice, not a matter of inference."""
    return type_.logical if isinstance(type_, TensorType) else type_


def _bad(op: Op, why: str) -> VerifyError:
    return VerifyError(f"{op.kind.name} at {op.loc}: {why}")
