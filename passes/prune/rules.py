"""What removing elements of operands asks of an op's other operands and of its results.

Layers with constant weights *make* channels that may go, and *read* channels: what reads a removed
one loses the weights for it. Ops that treat each element by itself hand elements on, and want those
of equal place to go together. What an op reads as a whole (a mean over channels, a softmax) stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.ir.clone import captured
from graphopt.ir.core import Op, Value
from graphopt.ir.data import Data
from graphopt.ir.types import Array
from graphopt.ops import movement as mv
from graphopt.ops import nn
from graphopt.ops.elementwise import Elementwise
from graphopt.ops.excite import SqueezeExcite
from graphopt.ops.linalg import Attention, Gemm, MatMul
from graphopt.ops.ordered import Cumulate, TopK
from graphopt.ops.quant import Lookup
from graphopt.ops.reduce import ArgReduce, Reduce
from graphopt.ops.resize import Resize
from graphopt.passes.fuse.weights import Linear, linear
from graphopt.passes.prune.moves import MOVES, concatenated, gathered, moved, padded
from graphopt.passes.prune.products import attended, multiplied
from graphopt.passes.prune.units import Units, first, nothing, spread, tidy, varying
from graphopt.rewrite import Miss, const

LARGEST = 1 << 22  # numbers that the units of a value take, at most
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.Softmax, nn.LogSoftmax)
PIXELS = (2, 3)  # the axes of an image that blocks of pixels are along
Given = Sequence[Array | None]


@dataclass(frozen=True)
class Port:
    """Channels of a layer: what it makes, or what it reads; a unit for each."""

    op: Op
    linear: Linear | None
    line: Array


@dataclass
class Follow:
    """Goes through a graph of static shapes; `of` has the units of each value that has some."""

    units: Units = field(default_factory=Units)
    of: dict[Value, Array] = field(default_factory=dict[Value, Array])
    makers: list[Port] = field(default_factory=list[Port])
    readers: list[Port] = field(default_factory=list[Port])

    def visit(self, op: Op) -> None:
        """Take in one op, those before it having been taken in."""
        if op.kind.name == "const":
            return
        given = [self._given(v) for v in op.operands]
        shapes = [getattr(r.type, "static", None) for r in op.results]
        if op.kind.name == "return":
            for g in given:
                self.units.fix(g, "the model gives it back")
            return
        dark = any(v and g is None and const(v) is None
                   for v, g in zip(op.operands, given, strict=True))  # fmt: skip
        known = not (None in shapes or dark or op.regions)
        made = self._made(op, given) if known else self._unknown(op, given)
        for result, a, shape in zip(op.results, made, shapes, strict=False):
            if shape is not None:
                assert a.shape == shape, (op.kind, a.shape, shape)
                self.of[result] = self._small(tidy(a), op)

    def _given(self, v: Value | None) -> Array | None:
        """The units of an operand; None for a constant, and where its shape isn't known."""
        if v is None or const(v) is not None:
            return None
        shape = getattr(v.type, "static", None)
        return self.of.get(v, None if shape is None else nothing(shape))

    def _small(self, a: Array, op: Op) -> Array:
        real = [d for d, s in zip(a.shape, a.strides, strict=True) if s]
        if np.prod(real, dtype=np.int64) <= LARGEST:
            return a
        self.units.fix(a, f"{op.kind.name} makes too many elements of it to follow")
        return nothing(a.shape)

    def _unknown(self, op: Op, given: Given) -> list[Array]:
        """Nothing that it reads can go."""
        name = getattr(op.kind, "op_type", op.kind.name)
        for g in (*given, *(self._given(v) for v in captured(op))):
            self.units.fix(g, f"{name} reads it whole")
        return [nothing(shape_of(r)) for r in op.results if getattr(r.type, "static", None)]

    def _made(self, op: Op, given: Given) -> list[Array]:
        """The units of the results of static shape."""
        layer = weighted(op)
        if layer:
            return [self._layer(op, layer, given[0])]
        if isinstance(op.kind, Elementwise) and not isinstance(op.kind, Lookup):
            return [joined(self.units, given, shape_of(op.result))]
        for kinds, rule in RULES:
            if isinstance(op.kind, kinds):
                found = rule(self.units, op, given)
                if found and isinstance(op.kind, SqueezeExcite):
                    self.readers.append(Port(op, None, found[0].reshape(len(found[0]), -1)[0]))
                return self._unknown(op, given) if found is None else found
        return self._unknown(op, given)

    def _layer(self, op: Op, layer: Linear, x: Array | None) -> Array:
        """y = W x + b: other channels come out than go in; of each group as many stay."""
        shape = shape_of(op.result)
        axis = layer.axis % len(shape)
        if x is None:
            return nothing(shape)
        others = [i for i in range(x.ndim) if i != layer.axis % x.ndim]
        if not isinstance(op.kind, nn.Conv | nn.ConvTranspose):
            others = [i for i in varying(x) if i != x.ndim - 1]
            if others and x.ndim - 1 not in varying(x):  # rows, which it hands on
                return np.broadcast_to(first(x, (-1,)), shape)
        x = self.units.merge_over(x, others)
        line = np.moveaxis(x, layer.axis, 0).reshape(layer.inputs, -1)[:, 0]
        groups = getattr(op.kind, "group", 1)
        out = self._grouped(layer, line.reshape(groups, -1), op)
        return spread(out, shape, axis)

    def _grouped(self, layer: Linear, lines: Array, op: Op) -> Array:
        """What comes out of groups of input channels [groups, inputs each]."""
        groups, wide = lines.shape
        each = layer.outputs // groups
        if groups > 1 and groups >= max(wide, each):  # whole groups go; depthwise: channels
            self.units.merge_over(lines, (1,))
            out = np.repeat(lines[:, 0], each)
        else:
            self.units.merge_over(lines, (0,))  # of each group the same
            self.readers.append(Port(op, layer, lines.reshape(-1)))
            out = np.tile(self.units.fresh(each), groups)
        self.makers.append(Port(op, layer, out))
        return out


def shape_of(value: Value) -> tuple[int, ...]:
    """A static shape."""
    shape = value.tensor.static
    assert shape is not None
    return shape


def weighted(op: Op) -> Linear | None:
    """A layer with constant weights, if the op is one."""
    if len(op.results) != 1 or (isinstance(op.kind, Gemm) and op.kind.trans_a):
        return None
    try:
        return linear(op.result)
    except Miss:
        return None


def joined(units: Units, given: Given, shape: tuple[int, ...]) -> Array:
    """Elements that are computed with each other go together; constants are cut as they need be."""
    n = len(shape)
    there = [g.reshape((1,) * (n - g.ndim) + g.shape) for g in given if g is not None]
    if not there:
        return nothing(shape)
    there.sort(key=lambda g: (g.shape != shape, -len(varying(g))))
    k = np.broadcast_to(there[0], shape)
    for g in there[1:]:
        if g.shape == shape:
            units.merge(k, g)
        else:
            k = _broadcast(units, k, g)
    return k


def _broadcast(units: Units, k: Array, g: Array) -> Array:
    """Join elements with some that are repeated: these go where all that they meet go."""
    wide = [i for i, d in enumerate(g.shape) if d != k.shape[i]]
    along = varying(k)
    if not set(along) & set(wide):
        units.merge(first(k, wide), g)
    elif set(along) <= set(wide):
        units.fix(g, "it is broadcast over channels")
    elif not varying(g) and not g.any():
        return units.merge_over(k, [i for i in range(k.ndim) if i not in wide])
    else:
        k = units.merge_over(k, wide)
        units.merge(first(k, wide), g)
    return k


def whole(units: Units, x: Array, axes: Sequence[int], why: str) -> Array:
    """Along some axes all elements stay, or go together where others differ too."""
    axes = [i % x.ndim for i in axes]
    differ = varying(x)
    if set(differ) & set(axes):
        if set(differ) <= set(axes):
            units.fix(x, why)
            return nothing(x.shape)
        return units.merge_over(x, axes)
    return x


def _normed(units: Units, op: Op, given: Given) -> list[Array] | None:
    kind, x = op.kind, given[0]
    if x is None:
        return None
    axes = [kind.axis] if isinstance(kind, nn.Softmax | nn.LogSoftmax) else (
        list(range(getattr(kind, "axis", -1), 0)))  # fmt: skip
    return [whole(units, x, axes, f"{kind.name} normalises over it")]


def _reduced(units: Units, op: Op, given: Given) -> list[Array] | None:
    kind, x = op.kind, given[0]
    if x is None:
        return None
    axes = kind.axes if isinstance(kind, Reduce) else (getattr(kind, "axis", 0),)
    x = whole(units, x, axes, f"{kind.name} is over it")
    return [first(x, axes).reshape(shape_of(op.result))]


def _ordered(units: Units, op: Op, given: Given) -> list[Array] | None:
    x, axis = given[0], getattr(op.kind, "axis", -1)
    if x is None:
        return None
    x = whole(units, x, (axis,), f"{op.kind.name} is over it")
    return [np.broadcast_to(first(x, (axis,)), shape_of(r)) for r in op.results]


def _spatial(units: Units, op: Op, given: Given) -> list[Array] | None:
    """Pools, interpolation, normalisation: of each channel by itself."""
    x = given[0]
    if x is None:
        return None
    axes = list(range(2, x.ndim))
    x = whole(units, x, axes, f"{op.kind.name} is over it")
    return [np.broadcast_to(first(x, axes), shape_of(op.result))]


def _same(units: Units, op: Op, given: Given) -> list[Array] | None:
    """BatchNorm: each channel by itself, with constants."""
    if any(v is not None and const(v) is None for v in op.operands[1:]):
        return None
    return None if given[0] is None else [given[0]]


def _instance(units: Units, op: Op, given: Given) -> list[Array] | None:
    return _spatial(units, op, given) if _same(units, op, given) is not None else None


def _lrn(units: Units, op: Op, given: Given) -> list[Array] | None:
    x = given[0]
    return None if x is None else [whole(units, x, (1,), "lrn normalises over it")]


def _excite(units: Units, op: Op, given: Given) -> list[Array] | None:
    """A gate for each channel: it goes with its channel."""
    x = given[0]
    if x is None or any(const(v) is None for v in op.operands[1:] if v):
        return None
    return [first(units.merge_over(x, range(2, x.ndim)), range(2, x.ndim))]


def _concat(units: Units, op: Op, given: Given) -> list[Array] | None:
    """Constants among the operands are cut to what is left."""
    shape = shape_of(op.result)
    axis = getattr(op.kind, "axis", 0) % len(shape)
    differ = {i for g in given if g is not None for i in varying(g)}
    along = [axis] if axis in differ else sorted(differ)
    parts = [_free(units, const(v), along) if g is None else g
             for v, g in zip(op.operands, given, strict=True)]  # fmt: skip
    y = concatenated(parts, axis, shape)
    if axis not in differ and differ:
        return [units.merge_over(y, (axis,))]  # say, a class token before patches
    return [y]


def _free(units: Units, data: Data | None, along: Sequence[int]) -> Array:
    """New units for a constant, along some axes."""
    assert data
    line = tuple(d if i in along else 1 for i, d in enumerate(data.shape))
    return np.broadcast_to(units.fresh(math.prod(line)).reshape(line), data.shape)


def _gather(units: Units, op: Op, given: Given) -> list[Array] | None:
    x, indices, axis = given[0], const(op.operands[1]), getattr(op.kind, "axis", 0)
    if x is None or not x.size:
        return None
    if indices is None:
        x = whole(units, x, (axis,), "gather picks from it")
        places = np.zeros(shape_of(op.operand(1)), np.int64)
        return None if set(varying(x)) & {axis % x.ndim} else [
            gathered(x, places, axis, shape_of(op.result))]  # fmt: skip
    return [gathered(x, indices.numpy(), axis, shape_of(op.result))]


def _pad(units: Units, op: Op, given: Given) -> list[Array] | None:
    assert isinstance(op.kind, mv.Pad)
    found = None if given[0] is None else padded(op.kind, given[0], units.fresh)
    return None if found is None else [found]


def _moved(units: Units, op: Op, given: Given) -> list[Array] | None:
    kind, x = op.kind, given[0]
    if x is None:
        return None
    if isinstance(kind, mv.Slice) and len(kind.axes) > 1:
        steps = {a % x.ndim: s for a, s in zip(kind.axes, kind.steps, strict=True)}
        if any(steps.get(i, 1) != 1 for i in varying(x)):
            return None  # what is left need not be regular, and indices go along one axis only
    if isinstance(kind, mv.SpaceToDepth):
        x = units.merge_over(x, PIXELS)
    found = moved(op, x)
    if isinstance(kind, mv.DepthToSpace):  # the channels of a block of pixels go together
        return [units.merge_over(y, PIXELS) for y in found]
    return found


def _product(units: Units, op: Op, given: Given) -> list[Array] | None:
    a, b = (nothing(shape_of(v)) if g is None else g
            for v, g in zip(map(op.operand, (0, 1)), given, strict=False))  # fmt: skip
    if isinstance(op.kind, Gemm):
        return None
    return [multiplied(units, joined, a, b, shape_of(op.result))]


def _attention(units: Units, op: Op, given: Given) -> list[Array] | None:
    if any(g is None for g in given[:3]):
        return None
    return [attended(units, joined, op, given)]


Rule = Callable[[Units, Op, Given], "list[Array] | None"]
RULES: tuple[tuple[tuple[type, ...], Rule], ...] = (
    (MOVES, _moved),
    ((mv.Concat,), _concat),
    ((mv.Gather,), _gather),
    ((mv.Pad,), _pad),
    (NORMS, _normed),
    ((Reduce, ArgReduce), _reduced),
    ((Cumulate, TopK), _ordered),
    ((nn.Pool, Resize), _spatial),
    ((nn.InstanceNorm,), _instance),
    ((nn.BatchNorm,), _same),
    ((nn.LRN,), _lrn),
    ((SqueezeExcite,), _excite),
    ((MatMul, Gemm), _product),
    ((Attention,), _attention),
)
