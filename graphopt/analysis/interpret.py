"""The numpy reference interpreter, and random inputs for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from graphopt.analysis.memory import check_inputs
from graphopt.errors import GraphoptError, InputError, UnsupportedError
from graphopt.ir.builtin import Fused, Opaque, Return
from graphopt.ir.core import Graph, Module, Op, OpKind, Value
from graphopt.ir.types import (
    UNKNOWN,
    Array,
    DType,
    OptionalType,
    SequenceType,
    Sym,
    TensorType,
    ValueType,
)
from graphopt.ops.elementwise import Cast, Identity
from graphopt.ops.movement import Gather, Reshape, Squeeze, Unsqueeze

Env = dict[Value, Any]
Observe = Callable[[Op, tuple[Any, ...]], None]


class EvaluateOpaque(Protocol):
    """Computes an opaque op (`graphopt.onnx.evaluate_opaque` does)."""

    def __call__(
        self,
        kind: OpKind,
        arrays: tuple[Any, ...],
        regions: tuple[Graph, ...],
        captures: Mapping[Value, Any],
        *,
        results: int,
    ) -> tuple[Any, ...]:
        """Kind, operands, regions and what those capture -> results."""
        ...


def interpret(
    model: Module | Graph,
    inputs: Mapping[str, Any],
    *,
    opaque: EvaluateOpaque | None = None,
    observe: Observe | None = None,
) -> dict[str, Any]:
    """Run a module with numpy, op by op; values are dropped after their last use.

    Args:
        model: what to run; fused regions run as their ops.
        inputs: an array for each argument, by its name.
        opaque: computes opaque ops (default: there may be none).
        observe: called after each op with its results, those of fused regions included.

    Returns:
        The outputs by name, in order (unnamed ones as `out0`, `out1` ...).

    Raises:
        InputError: an input is missing or unknown.
        UnsupportedError: an opaque op, and nothing to compute it.
    """
    graph = model.main if isinstance(model, Module) else model
    names = [a.hint for a in graph.args]
    odd = [n for n in names if n not in inputs] or [n for n in inputs if n not in names]
    if odd:
        raise InputError(f"the data doesn't fit: {odd[0]!r}; the inputs are {names}")
    env: Env = {a: inputs[a.hint] for a in graph.args}
    results = Interpreter(opaque, observe).graph(graph, env)
    return dict(zip(output_names(graph), results, strict=True))


def output_names(graph: Graph) -> list[str]:
    """The outputs' names, made up where there are none."""
    kind = graph.terminator.kind
    given = kind.names if isinstance(kind, Return) else ()
    return [(given[i] if i < len(given) else "") or f"out{i}" for i, _ in enumerate(graph.outputs)]


class Interpreter:
    """Runs graphs; values are in an `Env`."""

    def __init__(self, opaque: EvaluateOpaque | None, observe: Observe | None) -> None:
        """See interpret."""
        self.opaque, self.observe = opaque, observe

    def graph(self, graph: Graph, env: Env) -> list[Any]:
        """What the graph returns, for arguments (and outer values) in `env`."""
        dying = _last_uses(graph)
        for op in graph:
            if isinstance(op.kind, Return):
                return [env[v] for v in op.operands if v]
            results = self.op(op, env)
            env.update(zip(op.results, results, strict=True))
            if self.observe and not isinstance(op.kind, Fused):
                self.observe(op, results)
            for value in dying.get(op, ()):
                env.pop(value, None)
        raise GraphoptError(f"graph @{graph.name} does not end in return")

    def op(self, op: Op, env: Env) -> tuple[Any, ...]:
        """An op's results."""
        arrays = tuple(None if v is None else env[v] for v in op.operands)
        if isinstance(op.kind, Fused):
            (body,) = op.regions
            return tuple(self.graph(body, {**env, **dict(zip(body.args, arrays, strict=True))}))
        if not isinstance(op.kind, Opaque):
            return op.kind.evaluate(*arrays)
        if self.opaque is None:
            raise UnsupportedError(f"{op.kind.op_type} at {op.loc}: nothing here can evaluate it")
        captures = {v: env[v] for r in op.regions for v in _reads(r) if v in env}
        return self.opaque(op.kind, arrays, op.regions, captures, results=len(op.results))


def _reads(graph: Graph) -> list[Value]:
    return [v for op in graph.walk() for v in op.operands if v]


def _last_uses(graph: Graph) -> dict[Op, list[Value]]:
    """The graph's values by the op after which nothing reads them."""
    last: dict[Value, Op] = {}
    own = set(graph.args)
    for op in graph:
        own.update(op.results)
        last.update((r, op) for r in op.results)
        last.update((v, op) for v in op.operands if v in own)
        for region in op.regions:
            last.update((v, op) for v in _reads(region) if v in own)
    dying: dict[Op, list[Value]] = {}
    for value, op in last.items():
        dying.setdefault(op, []).append(value)  # pyright: ignore[reportArgumentType]
    return dying


@dataclass(frozen=True)
class Defaults:
    """Sizes of symbolic dimensions that nothing else decides; a batch is 1."""

    length: int = 8
    side: int = 64
    inner: int = 8

    def size(self, axis: int, rank: int, named: bool = True) -> int:
        """The size of an axis: those of images are sides, others lengths of sequences.

        `inner` is for an axis without a name between others, which may be a batch.
        """
        if axis == 0:
            return 1
        if not named and axis < rank - 1 < 3:
            return self.inner
        return self.side if rank >= 4 and axis >= 2 else self.length


def random_inputs(
    module: Module,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    defaults: Defaults = Defaults(),
) -> dict[str, Any]:
    """Inputs of the right types: normal floats; integers small, and in range where they index.

    Args:
        module: the model.
        seed: the same seed gives the same inputs.
        sizes: of symbolic dimensions, by name.
        defaults: sizes of the others.

    Raises:
        LimitError: they are too large for the memory limit.
        InputError: a symbolic size comes out negative.
    """
    rng = np.random.default_rng(seed)
    known = dict(sizes or {})
    for arg in module.main.args:
        shape = arg.type.shape or () if isinstance(arg.type, TensorType) else ()
        for axis, d in enumerate(shape):
            if isinstance(d, Sym) and d.name != "?":
                known.setdefault(d.name, defaults.size(axis, len(shape)))
    try:
        types = [_sized(a.type, known, defaults) for a in module.main.args]
    except ValueError as why:
        raise InputError(f"there is no size for the inputs' symbols: {why}") from why
    check_inputs(types)
    pairs = zip(module.main.args, types, strict=True)
    return {a.hint: _random(type_, rng, _bound(a)) for a, type_ in pairs}


def _sized(type_: ValueType, sizes: dict[str, int], defaults: Defaults) -> ValueType:
    """A type without symbols."""
    match type_:
        case SequenceType(of) | OptionalType(of):
            return type(type_)(_sized(of, sizes, defaults))
        case TensorType(dtype, shape):
            dims = shape or ()
            known = [d if isinstance(d, int) else d.bind(sizes) for d in dims]
            static = (
                d if isinstance(d, int) else defaults.size(i, len(dims), d != UNKNOWN)
                for i, d in enumerate(known)
            )
            return TensorType(dtype, tuple(static))
        case _:
            return type_


def _random(type_: ValueType, rng: np.random.Generator, bound: int) -> Any:
    match type_:
        case SequenceType() | OptionalType():
            item = _random(type_.of, rng, bound)
            return [item] if isinstance(type_, SequenceType) else item
        case TensorType():
            return _tensor(type_.dtype, type_.static or (), rng, bound)
        case _:
            raise UnsupportedError(f"can't make random inputs of type {type_}")


def _tensor(dtype: DType, shape: tuple[int, ...], rng: np.random.Generator, bound: int) -> Array:
    if dtype is DType.string:
        return np.array([f"s{i}" for i in rng.integers(0, 10, shape).reshape(-1)], object).reshape(
            shape
        )
    if dtype is DType.bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if dtype in (DType.u8, DType.i8) and bound < 0:
        info = np.iinfo(dtype.numpy)
        return rng.integers(info.min, info.max + 1, shape).astype(dtype.numpy)
    if dtype.is_int:
        return rng.integers(0, bound if bound > 0 else 2, shape).astype(dtype.numpy)
    if dtype.numpy.kind == "c":
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype.numpy)
    return rng.normal(size=shape).astype(dtype.numpy)


_TRANSPARENT = (Identity, Cast, Reshape, Squeeze, Unsqueeze)


def _bound(value: Value) -> int:
    """The size of what the value indexes, the smallest of all; -1: it indexes nothing."""
    bounds: list[int] = []
    queue, seen = [value], {value}
    while queue:
        at = queue.pop()
        for use in at.uses:
            kind = use.op.kind
            if isinstance(kind, _TRANSPARENT) and use.op.result not in seen:
                seen.add(use.op.result)
                queue.append(use.op.result)
            if isinstance(kind, Gather) and use.index == 1:
                shape = use.op.operand(0).tensor.shape
                size = shape[kind.axis] if shape else None
                bounds += [size] if isinstance(size, int) else []
    return min(bounds, default=-1)
