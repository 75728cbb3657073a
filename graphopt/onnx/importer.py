"""ModelProto (stripped of its weights) to Module."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx

from graphopt.errors import InputError, UnsupportedError
from graphopt.ir.builtin import Const, Opaque, Return
from graphopt.ir.core import Graph, Loc, Module, Op, Value
from graphopt.ir.data import Data
from graphopt.ir.types import UnknownType, ValueType
from graphopt.onnx.attrs import GRAPHS, plain, read_attribute
from graphopt.onnx.checks import check_counts, check_node, check_opsets, check_text, is_text
from graphopt.onnx.external import Sources
from graphopt.onnx.inferred import Inferred, Path, check_types
from graphopt.onnx.node import Modelled, NodeView, Step
from graphopt.onnx.order import needs, ordered, subgraphs
from graphopt.onnx.remodel import MISFIT, convert
from graphopt.onnx.tensors import read_sparse, read_tensor
from graphopt.onnx.types import read_type, write_type
from graphopt.onnx.wire import MAX_DEPTH

Attrs = dict[str, object]


@dataclass
class Scope:
    """The values that names stand for in a graph, and in those around it."""

    graph: Graph
    path: Path
    outer: Scope | None = None
    values: dict[str, Value] = field(default_factory=dict[str, Value])

    def find(self, name: str) -> Value | None:
        """The value of a name, the innermost first."""
        scope: Scope | None = self
        while scope:
            if name in scope.values:
                return scope.values[name]
            scope = scope.outer
        return None

    def define(self, name: str, value: Value, label: str) -> None:
        """Name a value (InputError where the graph has one of that name)."""
        if not is_text(name):
            raise InputError(f"{label}: the name {name!r} isn't text: the file is damaged")
        if name in self.values:
            raise InputError(f"{label}: two values are named {name!r}")
        self.values[name] = value
        value.hint = name


class Importer:
    """Builds the module of one model."""

    def __init__(self, model: onnx.ModelProto, sources: Sources) -> None:
        """Take a model without functions; `sources` has the bytes of its tensors."""
        self.model, self.sources, self.label = model, sources, sources.label
        self.opsets = read_opsets(model, self.label)
        self.inferred = Inferred(model, self.label)
        self.used: set[str] = set()

    def module(self, name: str) -> Module:
        """The whole model."""
        graph = self.model.graph
        self._collect_used(graph, 0)
        scope = Scope(Graph(name="main"), ())
        self._fill(scope, graph)
        drop_unused(scope.graph)
        metadata = {p.key: p.value for p in self.model.metadata_props}
        return Module(scope.graph, name, self.opsets, metadata)

    def _collect_used(self, graph: onnx.GraphProto, depth: int) -> None:
        """Gather every name that anything reads (regardless of scopes: a superset)."""
        if depth > MAX_DEPTH:
            raise InputError(f"{self.label}: subgraphs are nested deeper than {MAX_DEPTH} levels")
        self.used.update(o.name for o in graph.output)
        for node in graph.node:
            check_text(node, self.label)
            check_counts(node, self.label)
            self.used.update(node.input)
            for inner in subgraphs(node):
                self._collect_used(inner, depth + 1)

    def _fill(self, scope: Scope, proto: onnx.GraphProto) -> None:
        self._arguments(scope, proto)
        for i, tensor in enumerate(proto.initializer):
            where = f"{self.label}: initializer {tensor.name or i!r}"
            self._constant(scope, tensor.name, read_tensor(tensor, self.sources, where))
        for i, sparse in enumerate(proto.sparse_initializer):
            where = f"{self.label}: sparse initializer {sparse.values.name or i!r}"
            self._constant(scope, sparse.values.name, read_sparse(sparse, self.sources, where))
        for i in self._order(scope, proto):
            self._node(scope, proto.node[i], i)
        self._return(scope, [o.name for o in proto.output])

    def _arguments(self, scope: Scope, proto: onnx.GraphProto) -> None:
        """The inputs; those with an initializer are constants (a default nobody overrides)."""
        constants = {t.name for t in proto.initializer}
        constants |= {s.values.name for s in proto.sparse_initializer}
        for info in proto.input:
            if info.name in constants:
                continue
            type_ = read_type(info.type, f"{self.label}: input {info.name!r}")
            if isinstance(type_, UnknownType) and scope.outer:
                type_ = self.inferred.type(scope.path, info.name)
            scope.define(info.name, scope.graph.add_arg(type_), self.label)

    def _constant(self, scope: Scope, name: str, data: Data) -> None:
        op = scope.graph.insert(Op(Const(data), loc=Loc((name,) if name else ())))
        scope.define(name, op.result, self.label)

    def _order(self, scope: Scope, proto: onnx.GraphProto) -> Iterable[int]:
        known = set(scope.values)
        for node in proto.node:
            for name in needs(node):
                if name not in known and (scope.outer is None or not scope.outer.find(name)):
                    return ordered(proto.node, set(scope.values), self.label)
            known.update(node.output)
        return range(len(proto.node))

    def _return(self, scope: Scope, names: list[str]) -> None:
        values = [scope.find(name) for name in names]
        for name, value in zip(names, values, strict=True):
            if value is None:
                raise InputError(f"{self.label}: output {name!r} is made by no node")
        if len(set(names)) < len(names):
            raise InputError(f"{self.label}: two outputs of a graph have the same name")
        scope.graph.insert(Op(Return(tuple(names)), values))

    def _node(self, scope: Scope, proto: onnx.NodeProto, index: int) -> None:
        name = proto.name or f"{proto.op_type}_{index}"
        where = f"{self.label}: node {name!r} ({' '.join(proto.op_type.split())})"
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        version = self.opsets.get(domain)
        if version is None:
            raise InputError(f"{where}: the model imports no opset of the domain {domain!r}")
        check_node(proto, domain, version, where)
        operands = [self._operand(scope, n, where) for n in proto.input]
        while operands and operands[-1] is None:
            operands.pop()
        node = Node(scope, proto, index, Loc((name,)), domain, version, tuple(operands), where)
        results = self._modelled(node)
        if results is None:
            results = self._opaque(node)
        for output, value in zip(proto.output, results, strict=False):
            if output:
                scope.define(output, value, self.label)

    def _operand(self, scope: Scope, name: str, where: str) -> Value | None:
        if not name:
            return None
        value = scope.find(name)
        if value is None:
            raise InputError(f"{where}: reads {name!r}, which nothing makes")
        return value

    def _modelled(self, node: Node) -> tuple[Value, ...] | None:
        """The results of the kinds that express the node; None where none does."""
        if any(a.type in GRAPHS for a in node.proto.attribute):
            return None
        outputs = tuple(bool(o) for o in node.proto.output)
        view = NodeView(
            node.proto.op_type, node.domain, node.version, self._plain(node), node.operands,
            outputs, tuple(o in self.used and o != "" for o in node.proto.output),
        )  # fmt: skip
        try:
            modelled = convert(view)
            return None if modelled is None else insert(node.scope.graph, modelled, node.loc)
        except MISFIT as why:
            self._malformed(node, why)
            return None

    def _plain(self, node: Node) -> Attrs:
        """The attributes; the tensor of a Constant stays where it is in the file."""
        attrs: Attrs = {}
        for a in node.proto.attribute:
            if a.type == onnx.AttributeProto.TENSOR:
                attrs[a.name] = read_tensor(a.t, self.sources, node.where)
            elif (node.proto.op_type, a.name) == ("Constant", "sparse_value"):
                attrs[a.name] = read_sparse(a.sparse_tensor, self.sources, node.where)
            else:
                attrs[a.name] = plain(read_attribute(a, self.sources, node.where))
        return attrs

    def _malformed(self, node: Node, why: Exception) -> None:
        """Raise InputError if ONNX too refuses operands that a kind refused.

        Operands of unknown type may prove to fit later.
        """
        if any(v and isinstance(v.type, UnknownType) for v in node.operands):
            return
        operands = {f"x{i}": write_type(v.type) for i, v in enumerate(node.operands) if v}
        copy = onnx.NodeProto()
        copy.CopyFrom(node.proto)
        del copy.input[:]
        copy.input.extend(f"x{i}" if v else "" for i, v in enumerate(node.operands))
        try:
            check_types(copy, operands, node.version)
        except InputError:
            raise InputError(f"{node.where}: {why}") from None

    def _opaque(self, node: Node) -> tuple[Value, ...]:
        proto, scope = node.proto, node.scope
        attrs, regions = list[tuple[str, object]](), list[Graph]()
        for i, a in enumerate(proto.attribute):
            if a.type not in GRAPHS:
                attrs.append((a.name, read_attribute(a, self.sources, node.where)))
                continue
            for j, inner in enumerate([a.g, *a.graphs]):
                if j or a.type == onnx.AttributeProto.GRAPH:
                    regions.append(self._region(scope, inner, a.name, (node.index, i, j)))
        missing = tuple(i for i, o in enumerate(proto.output) if not o)
        types = [self._type(scope, o) for o in proto.output]
        kind = Opaque(proto.op_type, node.domain, node.version, tuple(attrs), missing)
        op = Op(kind, node.operands, types, loc=node.loc, regions=regions)
        return scope.graph.insert(op).results

    def _region(self, scope: Scope, proto: onnx.GraphProto, name: str, at: Path) -> Graph:
        inner = Scope(Graph(name=name), scope.path + at, scope)
        self._fill(inner, proto)
        return inner.graph

    def _type(self, scope: Scope, name: str) -> ValueType:
        return self.inferred.type(scope.path, name) if name else UnknownType()


@dataclass(frozen=True)
class Node:
    """A node on its way in."""

    scope: Scope
    proto: onnx.NodeProto
    index: int
    loc: Loc
    domain: str
    version: int
    operands: tuple[Value | None, ...]
    where: str


def insert(graph: Graph, modelled: Modelled, loc: Loc) -> tuple[Value, ...]:
    """Append the ops of a modelled node; gives the last one's results (ValueError: ill-typed)."""
    steps = [modelled] if isinstance(modelled, Step) else modelled
    made: list[Op] = []
    for step in steps:
        operands = [made[v].result if isinstance(v, int) else v for v in step.operands]
        least, most = step.kind.arity()
        if not least <= len(operands) <= (len(operands) if most is None else most):
            raise ValueError(f"{step.kind.name} doesn't take {len(operands)} operands")
        if any(v is None for v in operands[:least]):
            raise ValueError(f"{step.kind.name} lacks an operand")
        made.append(Op(step.kind, operands, loc=loc))
    for op in made:
        graph.insert(op)
    return made[-1].results


def drop_unused(graph: Graph) -> None:
    """Erase constants that nothing uses: parameters that have become attributes, mostly."""
    for op in list(graph.walk()):
        if isinstance(op.kind, Const) and op.dead() and op.graph:
            op.graph.erase(op)


def read_opsets(model: onnx.ModelProto, label: str) -> dict[str, int]:
    """The model's opset of each domain, the standard one first.

    Raises:
        InputError: there is none, or one that doesn't exist.
        UnsupportedError: the standard one is older than 7 or unknown to the installed onnx.
    """
    found: dict[str, int] = {}
    for o in model.opset_import:
        domain = "" if o.domain == "ai.onnx" else o.domain
        found[domain] = max(o.version, found.get(domain, o.version))
    if not found:
        raise (
            UnsupportedError(f"{label}: has no opset, as models had before 2017")
            if model.ir_version < 3
            else InputError(f"{label}: imports no opset")
        )
    check_opsets(found, label)
    return {"": found[""], **found} if "" in found else found
