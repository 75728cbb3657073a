"""What a changed model is trained to give: the original's outputs, and values on the way to them.

Values of the same name are the same things in both models. On the way, those count that several ops
read: they are where blocks begin (a residual stream, what a skip connection takes); in a plain
chain, the results of layers. Of a value that lost channels, those are compared that it still has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir.builtin import Const
from graphopt.ir.core import Graph, Module, Value
from graphopt.ir.types import TensorType
from graphopt.loss import hows
from graphopt.ops.elementwise import Sigmoid
from graphopt.ops.nn import LogSoftmax, Softmax

MOST = 8  # values on the way that are compared, evenly spaced
LEAST = 2  # that several ops read; where there are fewer, layers count
LAYERS = ("conv", "conv_transpose", "gemm", "matmul")

Channels = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Goal:
    """A value of the changed model and the original's that it is to be.

    `classes`: the axis, of one run's shape, along which they are compared as a distribution, too;
    None: only as numbers. `kept`: the axis and the original's indices there that are left; None:
    all of it.
    """

    mine: Value
    wanted: Value
    classes: int | None = None
    kept: tuple[int, tuple[int, ...]] | None = None


def outputs(module: Module, before: Module) -> list[Goal]:
    """Float outputs, in order; logits instead of what a softmax or sigmoid makes of them."""
    names = getattr(before.main.terminator.kind, "names", ())
    found: list[Goal] = []
    compared = hows(before.main)
    pairs = zip(names, module.main.outputs, before.main.outputs, strict=False)
    for name, mine, wanted in pairs:
        if name not in compared:
            continue
        how, axis = compared[name]
        made = [(v, v.op.kind) for v in (mine, wanted) if v.op]
        if len(made) == 2 and all(isinstance(k, Softmax | LogSoftmax | Sigmoid) for _, k in made):
            axis = getattr(made[1][1], "axis", axis)
            mine, wanted = (v.op.operand(0) for v, _ in made if v.op)
        found.append(Goal(mine, wanted, axis if how == "classes" else None))
    return found


def features(module: Module, before: Module, channels: Channels) -> list[Goal]:
    """Values on the way that both models have."""
    ends = set(module.main.outputs)
    twins = {v.hint: v for v in _values(before.main)}
    shared = [
        Goal(v, twins[v.hint], kept=kept)
        for v in _values(module.main)
        if v.hint in twins and v not in ends
        for kept in _kept(v, twins[v.hint], channels)
    ]
    stream = [g for g in shared if len({u.op for u in g.mine.uses}) > 1]
    layers = [g for g in shared if g.mine.op and g.mine.op.kind.name in LAYERS]
    return _spaced(stream if len(stream) >= LEAST else layers, MOST)


def _values(graph: Graph) -> list[Value]:
    """Named float results of static shape."""
    return [
        v for op in graph if not isinstance(op.kind, Const) for v in op.results
        if v.hint and isinstance(v.type, TensorType) and v.type.dtype.is_float and v.type.static
    ]  # fmt: skip


Kept = tuple[int, tuple[int, ...]] | None  # see Goal


def _kept(mine: Value, wanted: Value, channels: Channels) -> list[Kept]:
    """How to compare two values: one way, or none."""
    a, b = mine.tensor.static or (), wanted.tensor.static or ()
    if a == b:
        return [None]
    index = channels.get(mine.hint)
    axes = [i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y]
    if index is None or len(a) != len(b) or len(axes) != 1 or len(index) != a[axes[0]]:
        return []
    return [(axes[0], index)] if max(index) < b[axes[0]] else []


def _spaced(goals: Sequence[Goal], most: int) -> list[Goal]:
    """At most so many, evenly spaced, the last one among them."""
    if len(goals) <= most:
        return list(goals)
    return [goals[(i + 1) * len(goals) // most - 1] for i in range(most)]
