"""Values of a model on many samples at once, made piece by piece: each op runs once a sample.

A layer that is repaired changes everything after it. Running the model from its inputs for every
layer would be quadratic in its depth; here the values that later ops still read are kept for all
samples, and only the ops between one question and the next are run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphopt import onnx as onnx_io
from graphopt.ir.builtin import Const, Return
from graphopt.ir.clone import captured, clone_op
from graphopt.ir.core import Graph, Module, Op, Value
from graphopt.ir.types import Array
from graphopt.rewrite import const

Runs = list[Array]
"""A value's arrays, run after run."""


@dataclass(frozen=True)
class Piece:
    """Ops that run together: what they read of earlier pieces, what of theirs is read later."""

    ops: tuple[Op, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    dropped: tuple[Value, ...]  # after the step: nobody reads them any more


@dataclass
class Plan:
    """The pieces that answer one question after another."""

    pieces: list[Piece]
    asked: list[tuple[Value, ...]]

    def peak(self, bytes_of: Mapping[Value, int]) -> int:
        """The most bytes that are kept at once, for values of known sizes."""
        kept = {v for piece in self.pieces for v in piece.inputs if v.op is None}
        kept |= {v for asked in self.asked for v in asked if v.op is None}
        most = 0
        for piece in self.pieces:
            kept |= set(piece.outputs)
            most = max(most, sum(bytes_of.get(v, 0) for v in kept))
            kept -= set(piece.dropped)
        return most


def plan(graph: Graph, asked: Sequence[Sequence[Value]]) -> Plan:
    """Cut a graph where questions about values are asked, in the order in which they are asked.

    Args:
        graph: the weights of its ops may change while the pieces run, its ops may not.
        asked: values of the graph, by step.
    """
    order = {op: i for i, op in enumerate(graph)}
    done: set[Op] = set()
    parts: list[list[Op]] = []
    for values in asked:
        needed = _unmade(values, done)
        done |= needed
        parts.append(sorted(needed, key=order.__getitem__))
    last: dict[Value, int] = {}
    for step, (values, ops) in enumerate(zip(asked, parts, strict=True)):
        for v in (*(v for op in ops for v in _reads(op)), *values):
            last[v] = step
    pieces = [_piece(k, ops, asked[k], last) for k, ops in enumerate(parts)]
    return Plan(pieces, [tuple(values) for values in asked])


def _unmade(values: Sequence[Value], done: set[Op]) -> set[Op]:
    """The ops that values depend on and that haven't run."""
    found: set[Op] = set()
    todo = [v.op for v in values]
    while todo:
        op = todo.pop()
        if op and op not in found and op not in done and not isinstance(op.kind, Const):
            found.add(op)
            todo += [v.op for v in _reads(op)]
    return found


def _reads(op: Op) -> list[Value]:
    return [v for v in (*op.operands, *captured(op)) if v]


def _piece(
    step: int, ops: Sequence[Op], asked: Sequence[Value], last: Mapping[Value, int]
) -> Piece:
    made = {r for op in ops for r in op.results}
    read = dict.fromkeys(v for op in ops for v in _reads(op) if v not in made)
    inputs = tuple(v for v in read if not (v.op and isinstance(v.op.kind, Const)))
    now = set(asked)
    outputs = (r for op in ops for r in op.results if last.get(r, -1) > step or r in now)
    dropped = (v for v, at in last.items() if at == step)
    return Piece(tuple(ops), inputs, tuple(outputs), tuple(dropped))


def _module(piece: Piece, like: Module) -> Module:
    """A piece as a module of its own; constants that it reads are copied as they are now."""
    graph, mapped = Graph(name="piece"), dict[Value, Value]()
    for i, v in enumerate(piece.inputs):
        mapped[v] = graph.add_arg(v.type, f"in/{i}")
    for op in piece.ops:
        for v in _reads(op):
            if v not in mapped and v.op and isinstance(v.op.kind, Const):
                graph.insert(clone_op(v.op, mapped))
        graph.insert(clone_op(op, mapped))
    names = tuple(f"out/{i}" for i, _ in enumerate(piece.outputs))
    graph.insert(Op(Return(names), [mapped[v] for v in piece.outputs]))
    return Module(graph, like.name, dict(like.opsets))


@dataclass
class Live:
    """Runs a plan on samples and holds what later steps read.

    `feeds`: the arrays of the module's inputs, run after run, by name.
    """

    module: Module
    plan: Plan
    feeds: Sequence[Mapping[str, Array]]
    at: int = -1
    values: dict[Value, Runs] = field(default_factory=dict[Value, Runs])

    def __post_init__(self) -> None:
        """Enter the inputs."""
        for arg in self.module.main.args:
            self.values[arg] = [feed[arg.hint] for feed in self.feeds]

    def step(self) -> list[Runs]:
        """Run the next piece; the arrays of the values that are asked for there."""
        if self.at >= 0:
            for v in self.plan.pieces[self.at].dropped:
                self.values.pop(v, None)
        self.at += 1
        piece = self.plan.pieces[self.at]
        if piece.outputs:
            self._run(piece)
        return [self._runs(v) for v in self.plan.asked[self.at]]

    def _runs(self, value: Value) -> Runs:
        data = const(value)
        return self.values[value] if data is None else [data.numpy()] * len(self.feeds)

    def _run(self, piece: Piece) -> None:
        reference = onnx_io.Reference(_module(piece, self.module))
        for v in piece.outputs:
            self.values[v] = []
        for i, _ in enumerate(self.feeds):
            feed = {f"in/{n}": self.values[v][i] for n, v in enumerate(piece.inputs)}
            for v, array in zip(piece.outputs, reference.run(feed).values(), strict=True):
                self.values[v].append(array)
