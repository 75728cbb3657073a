"""Small networks to prune, and the check that cutting out what nothing reads changes nothing.

Which units go is drawn; the weights of all layers that read them are set to zero. Then the model
gives what it gives with the units cut out, in numpy and, written as ONNX, in ONNX Runtime.
"""

from __future__ import annotations

import numpy as np

from graphopt.analysis.interpret import interpret
from graphopt.ir.builtin import Const, Return
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Graph, Loc, Module, Op, OpKind, Value
from graphopt.ir.data import Inline, Rand
from graphopt.ir.types import Array, DType, TensorType
from graphopt.ir.verify import verify
from graphopt.onnx import Reference
from graphopt.ops import elementwise as ew
from graphopt.ops import movement as mv
from graphopt.ops import nn
from graphopt.ops.linalg import MatMul
from graphopt.passes.prune.groups import Group, Groups, groups
from graphopt.passes.prune.rules import weighted
from graphopt.passes.prune.surgery import cut_out

F = DType.f32


class Net:
    """Builds a network op by op; weights are seeded and small enough that numbers stay near 1."""

    def __init__(self, *shape: int) -> None:
        self.graph, self.seed = Graph([TensorType(F, shape)], hints=["x"]), 0
        self.x = self.graph.args[0]

    def put(self, kind: OpKind, *operands: Value | None) -> Value:
        self.seed += 1
        op = self.graph.insert(Op(kind, operands, loc=Loc((f"{kind.name}{self.seed}",))))
        for r in op.results:
            r.hint = f"v{self.seed}_{r.index}"
        return op.results[0]

    def const(self, *shape: int, positive: bool = False, fan: int = 1) -> Value:
        self.seed += 1
        a = Rand(F, shape, self.seed).numpy() / np.float32(np.sqrt(fan))
        return self.graph.insert(
            Op(Const(Inline(np.abs(a) + np.float32(0.5) if positive else a)))
        ).result

    def conv(self, x: Value, outs: int, k: int = 1, group: int = 1, bias: bool = True) -> Value:
        c, n = shape(x)[1], len(shape(x)) - 2
        w = self.const(outs, c // group, *(k,) * n, fan=c // group * k**n)
        kind = nn.Conv((1,) * n, (k // 2,) * 2 * n, (1,) * n, group)
        return self.put(kind, x, w, self.const(outs) if bias else None)

    def rise(self, x: Value, outs: int, group: int = 1) -> Value:
        c = shape(x)[1]
        w = self.const(c, outs // group, 2, 2, fan=c)
        return self.put(
            nn.ConvTranspose((2, 2), (0,) * 4, (1, 1), (0, 0), group), x, w, self.const(outs)
        )

    def norm(self, x: Value) -> Value:
        c = shape(x)[1]
        scale, variance = (self.const(c, positive=True) for _ in range(2))
        return self.put(nn.BatchNorm(), x, scale, self.const(c), self.const(c), variance)

    def product(self, x: Value, outs: int) -> Value:
        wide = shape(x)[-1]
        y = self.put(MatMul(), x, self.const(wide, outs, fan=wide))
        return self.put(ew.Add(), y, self.const(outs))

    def relu(self, x: Value) -> Value:
        return self.put(ew.Relu(), x)

    def reshape(self, x: Value, *sizes: int) -> Value:
        return self.put(mv.Reshape(sizes), x)

    def done(self, *values: Value) -> Module:
        self.graph.insert(Op(Return(tuple(f"y{i}" for i, _ in enumerate(values))), values))
        return Module(self.graph)


def shape(x: Value) -> tuple[int, ...]:
    assert x.tensor.static
    return x.tensor.static


def silenced(module: Module, found: Groups, gone: Array, all_zero: bool = False) -> Module:
    """A copy in which no layer listens to some units; those that none reads, or all, hold zeros."""
    copy = clone_module(module)
    twins = dict(zip(module.main, copy.main, strict=True))
    for end in found.readers:
        op, by = twins[end.op], (~np.isin(end.line, gone)).astype(np.float64)
        layer, w = weighted(op), numbers(op)
        put(op, layer.input_scaled(w, by) if layer else w * by.reshape(1, -1, *(1,) * (w.ndim - 2)))
    unread = [u for g in found.groups for u in g.units if all_zero or not g.readers]
    for end in found.makers:
        op, by = twins[end.op], (~np.isin(end.line, gone[np.isin(gone, unread)])).astype(np.float64)
        layer = weighted(op)
        assert layer
        put(op, layer.scaled(numbers(op), by))
    return copy


def numbers(op: Op) -> Array:
    data = op.operand(1).op
    assert data and isinstance(data.kind, Const)
    return data.kind.data.numpy()


def put(op: Op, w: Array) -> None:
    assert op.graph
    made = op.graph.insert(Op(Const(Inline(w.astype(numbers(op).dtype)))), op)
    op.set_operand(1, made.result)


def same(module: Module, gone: Array, onnx: bool = True, inside: bool = False) -> Module:
    """Cut units out of a copy and check that nothing changes; give the copy."""
    feed = {a.hint: Rand(F, shape(a), 77 + i).numpy() for i, a in enumerate(module.main.args)}
    copy = clone_module(module)
    found = groups(copy, inside)
    want = interpret(silenced(copy, found, gone, inside), feed)
    kept = cut_out(copy, found, gone)
    verify(copy)
    assert not groups(copy, inside).groups or kept or not gone.size
    got = interpret(copy, feed)
    runs = [got, Reference(copy).run(feed)] if onnx else [got]
    for name, y in want.items():
        for have in runs:
            np.testing.assert_allclose(have[name], y, rtol=1e-4, atol=1e-5 * (1 + np.abs(y).max()))
    return copy


def able(module: Module, inside: bool = False) -> list[Group]:
    return [g for g in groups(module, inside).groups if not g.why]


def check(module: Module, names: int, inside: bool = False) -> list[Group]:
    """All but one unit of each group go, in turn and together; `names` groups are expected."""
    found = able(module, inside)
    assert len(found) == names, [(g.name, g.why) for g in groups(module, inside).groups]
    random = np.random.default_rng(0)
    parts = [random.permutation(g.units)[: random.integers(1, len(g.units))] for g in found]
    for part in (*parts, np.concatenate(parts)):
        same(module, part, inside=inside)
    return found
