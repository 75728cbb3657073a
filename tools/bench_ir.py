"""How long the IR and the passes take on graphs of many ops, to catch what isn't linear.

    python tools/bench_ir.py [10000 100000]

The graph is a residual chain of small convolutions, batch norms, activations, shape computations,
constants to fold, transposes to cancel and repeated subexpressions: every pass finds work.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import graphopt.passes
from graphopt.ir.builtin import Const, Return
from graphopt.ir.core import Graph, Loc, Module, Op, OpKind, Value
from graphopt.ir.data import Rand
from graphopt.ir.parser import parse
from graphopt.ir.printer import to_text
from graphopt.ir.types import DType, TensorType
from graphopt.ir.verify import verify
from graphopt.ops.elementwise import Add, Mul, Relu, Sigmoid
from graphopt.ops.movement import Reshape, Transpose
from graphopt.ops.nn import BatchNorm, Conv
from graphopt.pipeline import Context, parse_pipeline, run_pipeline

CHANNELS = 4


def build(count: int) -> Module:
    """A module of at least `count` ops."""
    graph = Graph([TensorType(DType.f32, (1, CHANNELS, 8, 8))], hints=["x"])
    x, made, block = graph.args[0], 0, 0
    while made < count:
        x, added = _block(graph, x, block)
        made, block = made + added, block + 1
    graph.insert(Op(Return(("y",)), [x]))
    return Module(graph)


def _block(graph: Graph, x: Value, block: int) -> tuple[Value, int]:
    made = 0

    def put(kind: OpKind, *operands: Value) -> Value:
        nonlocal made
        made += 1
        return graph.insert(Op(kind, operands, loc=Loc((f"{kind.name}_{block}_{made}",)))).result

    def weights(*shape: int) -> Value:
        return put(Const(Rand(DType.f32, shape, block % 7)))

    conv = Conv((1, 1), (1, 1, 1, 1), (1, 1))
    y = put(conv, x, weights(CHANNELS, CHANNELS, 3, 3))
    statistics = [weights(CHANNELS), weights(CHANNELS), weights(CHANNELS)]
    y = put(BatchNorm(), y, *statistics, put(Mul(), statistics[0], statistics[0]))
    y = put(Transpose((0, 2, 3, 1)), y)
    y = put(Transpose((0, 3, 1, 2)), put(Relu(), y))
    y = put(Mul(), y, put(Sigmoid(), put(Add(), weights(CHANNELS, 1, 1), weights(1))))
    flat = put(Reshape((1, -1)), y)
    y = put(Reshape((1, CHANNELS, 8, 8)), flat)
    y = put(Add(), put(Sigmoid(), y), put(Sigmoid(), y))
    return put(Add(), x, y), made


def timed(what: str, fn: Callable[[], Any]) -> Any:
    """Run and print the seconds."""
    start = time.perf_counter()
    result = fn()
    print(f"  {what:<22}{time.perf_counter() - start:8.2f} s", flush=True)
    return result


def bench(count: int) -> None:
    """Print the time of every step at one size."""
    print(f"{count} ops")
    module: Module = timed("build", lambda: build(count))
    text: str = timed("print", lambda: to_text(module))
    module = timed("parse", lambda: parse(text))
    timed("verify", lambda: verify(module))
    for p in parse_pipeline(graphopt.passes.DEFAULT):
        timed(str(p), lambda p=p: run_pipeline((p,), module, Context()))
    left = sum(op.kind.name != "const" for op in module.main)
    print(f"  left: {left} ops")


if __name__ == "__main__":
    for size in map(int, sys.argv[1:] or ["10000", "100000"]):
        bench(size)
