"""Which channels of a graph must be scaled together, if they are scaled at all.

    f(s * x) = s * f(x), so second(f(first(x))) = second'(f(first'(x))), first' = s first,
    second' = second / s

Layers with weights and normalisations *make* channels, whose scales are free: they go into
constants. Ops that are equivariant to positive scales hand channels on; an addition of two values
wants equal scales of both; layers with weights *read* channels, and undo any scale. What any other
op reads, or the model gives back, stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from graphopt.ir.clone import captured
from graphopt.ir.core import Graph, Op, Use, Value
from graphopt.ir.data import size
from graphopt.ir.types import Array
from graphopt.ops.elementwise import Add
from graphopt.ops.nn import LayerNorm, RMSNorm
from graphopt.passes.fuse.weights import Linear, linear
from graphopt.passes.quantize.equivariant import constant_but, handed_on, spread, thin
from graphopt.passes.quantize.points import is_float, summed
from graphopt.rewrite import Miss, const

LARGEST = 1 << 22  # elements of a value whose channels are followed
FIXED = 0  # the class of channels that can't be scaled


@dataclass(frozen=True)
class Maker:
    """A layer with weights, or a normalisation (`linear` is None); a class for each channel."""

    op: Op
    linear: Linear | None
    classes: Array


@dataclass(frozen=True)
class Reader:
    """A layer with weights; a class for each of its inputs."""

    linear: Linear
    classes: Array


@dataclass
class Classes:
    """Sets of channels, merged as they are found to belong together (union-find)."""

    parent: list[int] = field(default_factory=lambda: [FIXED])

    def fresh(self, count: int) -> Array:
        """New classes (int32)."""
        start = len(self.parent)
        self.parent.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int32)

    def find(self, one: int) -> int:
        """The class that stands for a set."""
        root = one
        while self.parent[root] != root:
            root = self.parent[root]
        while self.parent[one] != root:
            self.parent[one], one = root, self.parent[one]
        return root

    def merge(self, a: Array, b: Array) -> None:
        """Let channels of two values of one shape belong together, element by element."""
        if a is b or not a.size:
            return
        a, b = thin(a, b), thin(b, a)
        both = a.astype(np.int64) * len(self.parent) + b
        for pair in np.unique(both):
            x, y = sorted((self.find(int(pair) // len(self.parent)),
                           self.find(int(pair) % len(self.parent))))  # fmt: skip
            self.parent[y] = x  # the smaller stands for the set, so that FIXED always does

    def fix(self, a: Array | None) -> None:
        """Keep channels as they are."""
        if a is not None:
            self.merge(a, np.broadcast_to(np.int32(FIXED), a.shape))

    def roots(self, a: Array) -> Array:
        """What stands for each element."""
        kinds, at = np.unique(a, return_inverse=True)
        return np.array([self.find(int(k)) for k in kinds], np.int32)[at].reshape(a.shape)


@dataclass
class Channels:
    """The classes of a graph's channels, and who makes, reads and adds to them."""

    classes: Classes = field(default_factory=Classes)
    of: dict[Value, Array] = field(default_factory=dict[Value, Array])
    makers: list[Maker] = field(default_factory=list[Maker])
    readers: list[Reader] = field(default_factory=list[Reader])
    added: list[tuple[Use, Array]] = field(default_factory=list[tuple[Use, Array]])

    def visit(self, op: Op) -> None:
        """Take in one op, those before it having been taken in."""
        if op.kind.name == "const":
            return
        found = layer(op)
        made = self._made(op, found) if found else None
        if found is None and isinstance(op.kind, LayerNorm | RMSNorm):
            self._fix_operands(op)
            self._new(op, None, -1 if _own_parameters(op) else None)
        elif found is None:
            made = self._handed_on(op)
        for result, classes in zip(op.results, made or (), strict=False):
            if isinstance(classes, np.ndarray):
                self.of[result] = classes

    def _made(self, op: Op, found: Linear) -> None:
        """A layer reads channels and makes others."""
        x = self.of.get(op.operand(0))
        if x is not None:
            line = constant_but(x, found.axis)
            if line is None:
                self.classes.fix(x)
            else:
                self.readers.append(Reader(found, line))
        self._new(op, found, found.axis)

    def _new(self, op: Op, found: Linear | None, axis: int | None) -> None:
        shape = op.result.tensor.static
        if axis is None or not shape or not is_float(op.result) or np.prod(shape) > LARGEST:
            return
        line = self.classes.fresh(shape[axis])
        self.makers.append(Maker(op, found, line))
        self.of[op.result] = spread(line, shape, axis)

    def _handed_on(self, op: Op) -> list[Array | None]:
        """What an op that isn't a layer does to the channels that it reads."""
        given = [self.of.get(v) if v else None for v in op.operands]
        if isinstance(op.kind, Add):
            return [self._sum(op, given)]
        if all(g is None for g in given) and not op.regions:
            return []
        made, kept = handed_on(op, given, self.classes.fresh)
        shapes = [getattr(r.type, "static", None) for r in op.results]
        if not made or [m.shape for m in made] != shapes:
            self._fix_operands(op)
            return []
        for i, g in enumerate(given):
            if i not in kept:
                self.classes.fix(g)
        return [*made]

    def _sum(self, op: Op, given: list[Array | None]) -> Array | None:
        """Both operands of an addition are scaled alike; so is a constant."""
        shape = op.result.tensor.static
        for i in (0, 1):
            other, classes = const(op.operand(1 - i)), given[i]
            if other is not None and classes is not None and classes.shape == shape:
                line = _narrowed(classes, tuple(other.shape)) if size(other) <= LARGEST else None
                if line is not None:
                    self.added.append((Use(op, 1 - i), line))
                    return classes
        a, b = given
        if a is None or b is None or a.shape != b.shape:
            self._fix_operands(op)
            return None
        self.classes.merge(a, b)
        return a

    def _fix_operands(self, op: Op) -> None:
        for v in (*op.operands, *captured(op)):
            if v:
                self.classes.fix(self.of.get(v))


def channels(graph: Graph) -> Channels:
    """Those of a whole graph."""
    found = Channels()
    for op in graph:
        found.visit(op)
    return found


def layer(op: Op) -> Linear | None:
    """An op with constant weights, if it is one."""
    if not op.results or not summed(op):
        return None
    try:
        found = linear(op.result)
    except Miss:
        return None
    return found if found and found.inputs and found.outputs else None


def _own_parameters(op: Op) -> bool:
    """Whether a normalisation has a constant scale and offset for each channel."""
    width = (op.result.tensor.shape or (None,))[-1]
    data = [const(v) for v in op.operands[1:] if v]
    last = isinstance(op.kind, LayerNorm | RMSNorm) and op.kind.axis == -1
    return last and all(d is not None and d.shape == (width,) for d in data)


def _narrowed(classes: Array, shape: tuple[int, ...]) -> Array | None:
    """The classes of a constant that broadcasts; None where one number meets several classes."""
    if len(shape) > classes.ndim:
        return None
    padded = (1,) * (classes.ndim - len(shape)) + shape
    for axis, (have, want) in enumerate(zip(padded, classes.shape, strict=True)):
        if have != want:
            first = np.take(classes, [0], axis)
            if not (classes == first).all():
                return None
            classes = first
    return classes.reshape(shape)
