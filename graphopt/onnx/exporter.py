"""Module to ModelProto."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx

from graphopt.errors import UnsupportedError
from graphopt.ir.builtin import Const, Fused, Opaque, Return
from graphopt.ir.core import Graph, Loc, Module, Op, Value
from graphopt.ir.data import Data, Splat, nbytes
from graphopt.ir.types import DType, TensorType, UnknownType
from graphopt.onnx import (
    emit_elementwise,
    emit_forms,
    emit_indexed,
    emit_movement,
    emit_nn,
    emit_quant,
)
from graphopt.onnx.attrs import write_attribute
from graphopt.onnx.checks import known
from graphopt.onnx.emitter import EMITTERS, Emitter, Names, NeedsOpset
from graphopt.onnx.opset import candidates, element_types, expressible, ir_version
from graphopt.onnx.tensors import skeleton, write_tensor
from graphopt.onnx.types import value_info
from graphopt.ops.movement import Reorder

# Importing the tables has filled EMITTERS.
TABLES = (emit_elementwise, emit_forms, emit_indexed, emit_movement, emit_nn, emit_quant)
LARGE = 1024  # bytes: larger constants are streamed, and stand in the main graph
MAX_SPLAT = 4096  # bytes: a larger constant of one number is written as ConstantOfShape
MAX_MESSAGE = 2**31 - 1


@dataclass
class Written:
    """A model ready to be written: `weights[i]` is the data of initializer i, left out of it."""

    model: onnx.ModelProto
    weights: dict[int, Data] = field(default_factory=dict[int, Data])


def to_proto(module: Module, *, opset: int | None = None) -> onnx.ModelProto:
    """Write a module as a message, weights included.

    Args:
        module: what to write; fused regions are written as their ops, layouts are left out.
        opset: the standard opset to write (default: the model's own, or the lowest later one in
            which every kind is one op and no op changes its meaning).

    Raises:
        UnsupportedError: a kind can't be expressed there, or the model is over 2 GB.
    """
    written = export(module, opset)
    if sum(map(nbytes, written.weights.values())) > MAX_MESSAGE:
        raise UnsupportedError(f"{module.name}: is over 2 GB, which only a file can hold; save it")
    for i, data in written.weights.items():
        tensor = written.model.graph.initializer[i]
        tensor.CopyFrom(write_tensor(data, tensor.name))
    return written.model


def export(module: Module, opset: int | None = None) -> Written:
    """Write a module, large weights left out (see to_proto)."""
    tries = candidates(module, opset)
    lowest, first = 0, NeedsOpset(0, "")
    for version in tries:
        if version < lowest:
            continue
        try:
            return Exporter(module, version).write()
        except NeedsOpset as why:
            if not lowest:
                first = why
            lowest = why.opset
    raise UnsupportedError(f"{module.name}: {first.what} needs opset {first.opset}, not {tries[0]}")


class Exporter:
    """Writes one module at one opset."""

    def __init__(self, module: Module, opset: int) -> None:
        """Nothing is written yet."""
        self.module, self.opset = module, opset
        self.values, self.nodes = Names(), Names()
        self.names: dict[Value, str] = {}
        self.same: dict[Value, Value] = {}  # values that are another one under a second name
        self.domains: set[str] = set()
        self.lowered = opset < module.opsets.get("", opset)
        self.hoisted: list[tuple[str, Data]] = []  # large constants of subgraphs

    def write(self) -> Written:
        """The model.

        Raises:
            NeedsOpset: a kind has no form at this opset.
        """
        graph, large = self.graph(self.module.main, None)
        graph.name = self.module.name
        start = len(graph.initializer)
        for name, data in self.hoisted:
            graph.initializer.append(skeleton(data, name))
        large.update({start + i: data for i, (_, data) in enumerate(self.hoisted)})
        opsets = {"": self.opset, **{d: self.module.opsets.get(d, 1) for d in sorted(self.domains)}}
        model = onnx.ModelProto(producer_name="graphopt")
        model.ir_version = ir_version(opsets, element_types(self.module))
        model.opset_import.extend(
            onnx.OperatorSetIdProto(domain=d, version=v) for d, v in opsets.items()
        )
        model.metadata_props.extend(
            onnx.StringStringEntryProto(key=k, value=v) for k, v in self.module.metadata.items()
        )
        model.graph.CopyFrom(graph)
        return Written(model, large)

    def graph(self, graph: Graph, outer: Emitter | None) -> tuple[onnx.GraphProto, dict[int, Data]]:
        """A graph; of the main one (`outer` None) also the data of its large initializers."""
        e = Emitter(self.opset, self.values, self.nodes)
        proto = onnx.GraphProto(name=graph.name)
        for arg in graph.args:
            proto.input.append(value_info(self.name(arg), arg.type))
        self.inline_fused(graph)
        wanted = self.name_outputs(graph, outer is None)
        large: dict[int, Data] = {}
        for op in graph:
            if isinstance(op.kind, Const):
                self.constant(op, op.kind.data, e, proto, large, outer is None)
            else:
                self.op(op, e, proto)
        self.outputs(graph, wanted, e, proto)
        proto.node.extend(e.nodes)
        proto.initializer.extend(e.parameters.values())
        return proto, large

    def inline_fused(self, graph: Graph) -> None:
        """Let the values at the borders of fused regions stand for those inside and outside."""
        for op in graph:
            if isinstance(op.kind, Reorder):
                self.same[op.result] = op.operand(0)
            elif isinstance(op.kind, Fused):
                (body,) = op.regions
                for arg, value in zip(body.args, op.operands, strict=True):
                    if value:
                        self.same[arg] = value
                self.inline_fused(body)
                self.same.update(zip(op.results, body.outputs, strict=True))

    def root(self, value: Value) -> Value:
        """The value that a name is given to."""
        while value in self.same:
            value = self.same[value]
        return value

    def name(self, value: Value) -> str:
        """The value's name in ONNX."""
        value = self.root(value)
        if value not in self.names:
            self.names[value] = self.values.fresh(value.hint or _made_up(value))
        return self.names[value]

    def name_outputs(self, graph: Graph, main: bool) -> list[str]:
        """Claim the outputs' names, which are kept exactly (in subgraphs they are positional)."""
        kind = graph.terminator.kind
        names = kind.names if isinstance(kind, Return) else ()
        wanted: list[str] = []
        for i, value in enumerate(graph.outputs):
            name = names[i] if i < len(names) and main else ""
            root = self.root(value)
            free = root not in self.names and self.makes(graph, root)
            if free and name and self.values.take(name):
                self.names[root] = name
            elif free:
                self.name(root)
            elif not name or self.names.get(root) == name or not self.values.take(name):
                name = name if name and self.names.get(root) == name else ""
            wanted.append(name)
        return wanted

    def makes(self, graph: Graph, value: Value) -> bool:
        """Whether an op of the graph (or of a fused region of it) makes the value."""
        at = value.op.graph if value.op else None
        while at and at is not graph and at.parent and isinstance(at.parent.kind, Fused):
            at = at.parent.graph
        return at is graph

    def outputs(self, graph: Graph, wanted: list[str], e: Emitter, proto: onnx.GraphProto) -> None:
        """Declare the outputs; one whose value has another name, or is no op's, is copied."""
        declared: set[str] = set()
        for name, value in zip(wanted, graph.outputs, strict=True):
            root, own = self.root(value), self.name(value)
            made = self.makes(graph, root) or (root in graph.args and graph.parent is None)
            target = name or (own if made and own not in declared else "")
            if target != own or not made or target in declared:
                fresh = not target or target == own
                e.at = target = self.values.fresh(f"{own}_out") if fresh else target
                e.node("Identity", [own], [target])
            declared.add(target)
            proto.output.append(value_info(target, value.type))

    def constant(
        self,
        op: Op,
        data: Data,
        e: Emitter,
        proto: onnx.GraphProto,
        large: dict[int, Data],
        main: bool,
    ) -> None:
        """An initializer: small ones where they stand, large ones in the main graph."""
        name, size = self.name(op.result), nbytes(data)
        if isinstance(data, Splat) and size > MAX_SPLAT and self.opset >= 9:
            one = write_tensor(Splat(data.dtype, (1,), data.value))
            e.at = name
            e.node("ConstantOfShape", [e.ints(data.shape)], [name], value=one)
        elif size < LARGE or data.dtype is DType.string:
            proto.initializer.append(write_tensor(data, name))
        elif main:
            large[len(proto.initializer)] = data
            proto.initializer.append(skeleton(data, name))
        else:
            self.hoisted.append((name, data))

    def op(self, op: Op, e: Emitter, proto: onnx.GraphProto) -> None:
        """An op's node or nodes."""
        kind = op.kind
        if isinstance(kind, Return | Reorder):
            return
        if isinstance(kind, Fused):
            self.fused(op, e, proto)
            return
        e.at = _node_name(op.loc)
        if isinstance(kind, Opaque):
            self.opaque(op, kind, e, proto)
            return
        emit = EMITTERS.get(type(kind))
        if emit is None:
            raise UnsupportedError(f"{kind.name} at {op.loc}: ONNX has no op for it")
        names = [self.name(v) if v else "" for v in op.operands]
        first = len(e.nodes)
        try:
            emit(e, op, names, [self.name(r) for r in op.results])
        except NeedsOpset as why:
            raise NeedsOpset(why.opset, f"{kind.name} at {op.loc} ({why.what})") from None
        if self.lowered:
            self.check_types(op, names, e.nodes[first:])

    def fused(self, op: Op, e: Emitter, proto: onnx.GraphProto) -> None:
        """The ops of a fused region."""
        (body,) = op.regions
        for inner in body:
            if isinstance(inner.kind, Const):
                self.constant(inner, inner.kind.data, e, proto, {}, main=False)
            else:
                self.op(inner, e, proto)

    def opaque(self, op: Op, kind: Opaque, e: Emitter, proto: onnx.GraphProto) -> None:
        """The node as it was read, with its regions."""
        outs = [
            "" if i in kind.missing and not r.use_count else self.name(r)
            for i, r in enumerate(op.results)
        ]
        self.domains |= {kind.domain} - {""}
        node = onnx.NodeProto(op_type=kind.op_type, domain=kind.domain)
        node.name = self.nodes.fresh(e.at or kind.op_type)
        node.input.extend(self.name(v) if v else "" for v in op.operands)
        while outs and not outs[-1]:
            outs.pop()
        node.output.extend(outs)
        node.attribute.extend(write_attribute(k, v) for k, v in kind.attrs)
        self.regions(op.regions, node, e)
        e.nodes.append(node)
        for r in op.results:
            if kind.domain and self.root(r) in self.names and not isinstance(r.type, UnknownType):
                proto.value_info.append(value_info(self.name(r), r.type))

    def regions(self, regions: Sequence[Graph], node: onnx.NodeProto, e: Emitter) -> None:
        """The graph attributes; regions of one name are one attribute of several graphs."""
        found = known(node.op_type, self.opset, node.domain)
        sorts = found.attributes if found else {}
        many = int(onnx.AttributeProto.GRAPHS)
        lists: dict[str, onnx.AttributeProto] = {}
        for region in regions:
            body, _ = self.graph(region, e)
            again = sum(r.name == region.name for r in regions) > 1
            if not again and sorts.get(region.name) != many:
                node.attribute.append(write_attribute(region.name, body))
                continue
            if region.name not in lists:
                lists[region.name] = onnx.AttributeProto(name=region.name)
                lists[region.name].type = onnx.AttributeProto.GRAPHS
            lists[region.name].graphs.append(body)
        node.attribute.extend(lists.values())

    def check_types(self, op: Op, names: list[str], nodes: list[onnx.NodeProto]) -> None:
        """Below the model's own opset, refuse element types that an op doesn't take there yet."""
        dtypes = {
            n: v.type.dtype
            for n, v in zip(names, op.operands, strict=True)
            if v and isinstance(v.type, TensorType)
        }
        for node in nodes:
            for i, name in enumerate(node.input):
                dtype = dtypes.get(name)
                if dtype and not expressible(node.op_type, self.opset, dtype, i):
                    raise NeedsOpset(self.opset + 1, f"{node.op_type} of {dtype} at {op.loc}")


def _node_name(loc: Loc) -> str:
    """A node's name: those it came from."""
    more = f"+{len(loc.nodes) - 3}" if len(loc.nodes) > 3 else ""
    return "+".join(loc.nodes[:3]) + more


def _made_up(value: Value) -> str:
    """A name for a value without one, after the op that makes it."""
    op = value.op
    if op is None:
        return f"arg{value.index}"
    return f"{_node_name(op.loc) or op.kind.name}_out{value.index or ''}"
