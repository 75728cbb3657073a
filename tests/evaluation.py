"""A tiny interpreter for tests: numpy for modelled kinds, If by its branch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphopt.errors import UnsupportedError
from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Graph, Module, Op, OpKind, Value
from graphopt.ir.types import Array


def evaluate(kind: OpKind, arrays: tuple[Array | None, ...], regions: tuple[Graph, ...]) -> tuple[Array, ...]:
    if isinstance(kind, Opaque) and kind.op_type == "CumSum":
        return (np.cumsum(arrays[0], axis=int(arrays[1])).astype(arrays[0].dtype),)
    if isinstance(kind, Opaque) and kind.op_type == "Reshape":
        x, s = arrays
        return (x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(s)]),)
    if isinstance(kind, Opaque) and kind.op_type == "Expand":
        x, s = arrays
        return (np.array(np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(s)))),)
    if isinstance(kind, Opaque) and kind.op_type == "Bernoulli":
        return (arrays[0],)
    raise UnsupportedError(f"can't evaluate {kind}")


def interpret(module: Module, inputs: Mapping[str, Array]) -> list[Array]:
    env = {a: inputs[a.hint] for a in module.main.args}
    return _graph(module.main, env)


def _graph(graph: Graph, env: dict[Value, Array]) -> list[Array]:
    for op in graph:
        if op.kind.name == "return":
            return [env[v] for v in op.operands if v]
        if not op.results:
            continue
        env.update(zip(op.results, _op(op, env), strict=True))
    raise AssertionError


def _op(op: Op, env: dict[Value, Array]):
    args = tuple(env[v] if v else None for v in op.operands)
    if op.regions:
        name = "then_branch" if args[0].reshape(-1)[0] else "else_branch"
        return _graph(next(r for r in op.regions if r.name == name), dict(env))
    if isinstance(op.kind, Opaque):
        return evaluate(op.kind, args, op.regions)
    return op.kind.evaluate(*args)
