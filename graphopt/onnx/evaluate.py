"""One opaque op on arrays: as a model of one node, in ONNX Runtime or in onnx.reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import onnx

from graphopt.errors import GraphoptError, UnsupportedError
from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Graph, Module, OpKind, Value
from graphopt.ir.types import DType, OptionalType, SequenceType, TensorType, UnknownType, ValueType
from graphopt.onnx import isolated
from graphopt.onnx.attrs import write_attribute
from graphopt.onnx.checks import MANY, schema
from graphopt.onnx.emitter import Emitter, NeedsOpset
from graphopt.onnx.exporter import Exporter
from graphopt.onnx.opset import DEFAULT, ir_version
from graphopt.onnx.tensors import write_tensor
from graphopt.onnx.types import value_info

MOST_SECONDS = 10.0  # that one op may take

Arrays = Sequence[Any]


def evaluate_opaque(
    kind: OpKind,
    arrays: Arrays,
    regions: Sequence[Graph] = (),
    captures: Mapping[Value, Any] | None = None,
    *,
    results: int | None = None,
) -> tuple[Any, ...]:
    """Compute an opaque op.

    Args:
        kind: an Opaque kind.
        arrays: its operands (None: absent); sequences are lists.
        regions: its regions.
        captures: the values that its regions take from the graphs around them.
        results: how many results to give (default: as many as the op can have); None stands for
            those in `kind.missing`.

    Raises:
        UnsupportedError: neither ONNX Runtime nor onnx.reference can compute it.
    """
    if not isinstance(kind, Opaque):
        raise GraphoptError(f"{kind.name} is not opaque; it evaluates itself")
    count = result_count(kind, arrays, regions) if results is None else results
    outer = dict(captures or {})
    model = _model(kind, arrays, regions, outer, count)
    feeds = {f"x{i}": _array(a) for i, a in enumerate(arrays) if a is not None}
    feeds |= {f"c{i}": _array(a) for i, a in enumerate(outer.values())}
    found = _run(model.SerializeToString(deterministic=True), feeds, kind)
    return tuple(None if i in kind.missing else next(found) for i in range(count))


def _array(value: Any) -> Any:
    """An operand, where it is one of numpy's scalars as an array."""
    return cast("Any", np.asarray)(value) if isinstance(value, np.generic) else value


def result_count(kind: Opaque, arrays: Arrays, regions: Sequence[Graph]) -> int:
    """The number of results that an op can have."""
    if regions:
        bodies = regions[0].outputs
        return len(bodies) - (kind.op_type == "Loop")
    if kind.op_type == "Split":
        given: Any = kind.attr("split") or (arrays[1] if len(arrays) > 1 else None)
        return int(str(kind.attr("num_outputs", 1))) if given is None else len(given)
    found = schema(kind.op_type, kind.version, kind.domain)
    if found and found.max_output < MANY:
        return found.max_output
    return max((1, *(m + 2 for m in kind.missing)))


def captured_values(regions: Sequence[Graph]) -> list[Value]:
    """The values that regions use and don't make, in order of first use."""
    made: set[Value] = set()
    found: dict[Value, None] = {}
    for graph in regions:
        _scan(graph, made, found)
    return list(found)


def _scan(graph: Graph, made: set[Value], found: dict[Value, None]) -> None:
    made.update(graph.args)
    for op in graph:
        found.update((v, None) for v in op.operands if v and v not in made)
        for region in op.regions:
            _scan(region, made, found)
        made.update(op.results)


def _model(
    kind: Opaque, arrays: Arrays, regions: Sequence[Graph], captures: dict[Value, Any], count: int
) -> onnx.ModelProto:
    """A model of one node; inputs x0, x1 ... and c0, c1 ... for what regions capture."""
    domains = _domains(kind, regions)
    exporter = Exporter(Module(Graph(), "node", domains), domains[""])
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(arrays)]
    exporter.names.update({v: f"c{i}" for i, v in enumerate(captures)})
    outputs = ["" if i in kind.missing else f"y{i}" for i in range(count)]
    for name in (*names, *outputs, *exporter.names.values()):
        exporter.values.take(name)
    node = onnx.NodeProto(op_type=kind.op_type, domain=kind.domain, input=names, output=outputs)
    node.attribute.extend(write_attribute(k, v) for k, v in kind.attrs)
    try:
        exporter.regions(regions, node, Emitter(domains[""], exporter.values, exporter.nodes))
    except NeedsOpset as why:
        raise UnsupportedError(f"{kind.op_type}: {why}") from why
    inputs = [value_info(n, type_of(a)) for n, a in zip(names, arrays, strict=True) if n]
    inputs += [value_info(f"c{i}", type_of(a)) for i, a in enumerate(captures.values())]
    graph = onnx.GraphProto(name="node", node=[node], input=inputs)
    graph.output.extend(onnx.ValueInfoProto(name=o) for o in outputs if o)
    graph.initializer.extend(write_tensor(d, n) for n, d in exporter.hoisted)
    used = {"": domains[""], **{d: domains.get(d, 1) for d in {kind.domain, *exporter.domains}}}
    model = onnx.ModelProto(graph=graph, ir_version=_ir(used, arrays))
    model.opset_import.extend(onnx.OperatorSetIdProto(domain=d, version=v) for d, v in used.items())
    return model


def _ir(opsets: dict[str, int], arrays: Arrays) -> int:
    types = {t.dtype for t in map(type_of, arrays) if isinstance(t, TensorType)}
    return max(ir_version(opsets, types), 10)


def _domains(kind: Opaque, regions: Sequence[Graph]) -> dict[str, int]:
    """The opsets of the op and of those in its regions; the standard one always."""
    found: dict[str, int] = {kind.domain: kind.version}
    for region in regions:
        for op in region.walk():
            if isinstance(op.kind, Opaque):
                found[op.kind.domain] = op.kind.version
    return {"": DEFAULT, **found}


def type_of(value: Any) -> ValueType:
    """The ONNX type of an array, a list of arrays, or None."""
    if isinstance(value, np.ndarray | np.generic):
        array = cast("Any", value)
        return TensorType(DType.of(array.dtype), array.shape)
    if isinstance(value, list | tuple):
        items = [type_of(v) for v in cast("list[Any]", value)]
        first = items[0] if items else TensorType(DType.f32, None)
        inner = TensorType(first.dtype, None) if isinstance(first, TensorType) else first
        return SequenceType(inner)
    return OptionalType(TensorType(DType.f32, None)) if value is None else UnknownType()


def _run(model: bytes, feeds: dict[str, Any], kind: Opaque) -> Iterator[Any]:
    try:
        return iter(isolated.evaluate(model, feeds, MOST_SECONDS))
    except GraphoptError as why:
        raise UnsupportedError(f"{kind.op_type} can't be computed: {why}") from why
