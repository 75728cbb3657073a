"""Copies of modules and graphs. Constant data is shared, never copied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from graphopt.ir.builtin import Return
from graphopt.ir.core import Graph, Loc, Module, Op, Value


def clone_module(module: Module) -> Module:
    """A module equal in every respect, with ops and values of its own."""
    main = clone_graph(module.main, {})
    return Module(main, module.name, dict(module.opsets), dict(module.metadata))


def clone_graph(graph: Graph, seen: Mapping[Value, Value]) -> Graph:
    """A copy of a graph; values from around it are looked up in `seen` (else kept)."""
    types, hints = [a.type for a in graph.args], [a.hint for a in graph.args]
    new = Graph(types, graph.name, hints)
    mapped = dict(seen)
    mapped.update(zip(graph.args, new.args, strict=True))
    for op in graph:
        new.insert(clone_op(op, mapped))
    return new


def clone_op(op: Op, mapped: dict[Value, Value]) -> Op:
    """A detached copy of an op; its operands are looked up in `mapped`, its results entered."""
    copy = Op(
        op.kind,
        [mapped.get(v, v) if v else None for v in op.operands],
        [r.type for r in op.results],
        loc=op.loc,
        regions=[clone_graph(region, mapped) for region in op.regions],
        hints=[r.hint for r in op.results],
    )
    mapped.update(zip(op.results, copy.results, strict=True))
    return copy


def captured(op: Op) -> list[Value]:
    """The outer values that an op's regions use, in order of first use."""
    inside: set[Value] = set()
    found: dict[Value, None] = {}
    for region in op.regions:
        inside.update(region.args)
        for inner in region.walk():
            inside.update(inner.results)
            for nested in inner.regions:
                inside.update(nested.args)
    for region in op.regions:
        for inner in region.walk():
            found.update((v, None) for v in inner.operands if v and v not in inside)
    return list(found)


def returning(module: Module, values: Sequence[Value]) -> Module:
    """A copy that returns these values of the main graph, as `value/0`, `value/1` ...

    Only the ops that they depend on are in it; its inputs are the same.
    """
    needed: set[Op] = set()
    todo = [v.op for v in values if v.op]
    while todo:
        op = todo.pop()
        if op not in needed:
            needed.add(op)
            todo += [v.op for v in (*op.operands, *captured(op)) if v and v.op]
    graph = module.main
    new = Graph([a.type for a in graph.args], graph.name, [a.hint for a in graph.args])
    mapped = dict(zip(graph.args, new.args, strict=True))
    for op in graph:
        if op in needed:
            new.insert(clone_op(op, mapped))
    names = tuple(f"value/{i}" for i, _ in enumerate(values))
    new.insert(Op(Return(names), [mapped[v] for v in values], loc=Loc()))
    return Module(new, module.name, dict(module.opsets), dict(module.metadata))


def extract(ops: Iterable[Op], name: str) -> tuple[Graph, list[Value], list[Value]]:
    """Copy some ops of a graph, in order, into a graph of their own.

    Constants that they use are copied too. Returns the graph, the outer values that its arguments
    stand for, and the ops' results that are used outside, which it returns.
    """
    ops = list(ops)
    inside = {r for op in ops for r in op.results}
    used = [v for op in ops for v in (*op.operands, *captured(op)) if v and v not in inside]
    graph, mapped, inputs = Graph(name=name), dict[Value, Value](), list[Value]()
    for v in dict.fromkeys(used):
        if v.op and v.op.kind.name == "const":
            graph.insert(clone_op(v.op, mapped))
        else:
            inputs.append(v)
            mapped[v] = graph.add_arg(v.type, v.hint)
    for op in ops:
        graph.insert(clone_op(op, mapped))
    members = set(ops)
    outputs = [r for op in ops for r in op.results if _escapes(r, members)]
    names = tuple(v.hint for v in outputs)
    graph.insert(Op(Return(names), [mapped[v] for v in outputs], loc=Loc()))
    return graph, inputs, outputs


def _escapes(value: Value, members: set[Op]) -> bool:
    return any(not _within(use.op, members) for use in value.uses)


def _within(op: Op, members: set[Op]) -> bool:
    """Whether an op is one of `members` or stands in a region of one."""
    at: Op | None = op
    while at is not None:
        if at in members:
            return True
        at = at.graph.parent if at.graph else None
    return False
