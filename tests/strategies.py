"""Random modules for property tests: many kinds, shared values, several outputs, constants.

Numbers are float64, so that reassociation stays far below what a wrong rule would change even where
a normalisation amplifies it. Constants that divide or normalise stay away from zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import strategies as st

from graphopt.ir.builtin import Const, Return
from graphopt.ir.core import Graph, Loc, Module, Op, OpKind, Value
from graphopt.ir.data import Data, Inline, Rand, Splat
from graphopt.ir.types import DType, TensorType
from graphopt.ops import elementwise as ew
from graphopt.ops import movement as mv
from graphopt.ops import nn
from graphopt.ops.linalg import Gemm, MatMul
from graphopt.ops.reduce import ReduceMax, ReduceMean, ReduceSum

F = DType.f64
SMALL = 600  # elements of a value, so that a module runs in a millisecond

SMOOTH: tuple[OpKind, ...] = (
    ew.Relu(), ew.Sigmoid(), ew.Tanh(), ew.Neg(), ew.Abs(), ew.Identity(), ew.Erf(), ew.Softplus(),
    ew.HardSigmoid(1 / 6, 0.5), ew.HardSigmoid(), ew.Clip(0.0, 6.0), ew.Clip(-1.0, 1.0),
    ew.Clip(None, 2.0), ew.LeakyRelu(0.1), ew.Softsign(), ew.Cast(F), ew.Elu(),
)  # fmt: skip
STEPS: tuple[OpKind, ...] = (ew.Floor(), ew.Ceil(), ew.Round(), ew.Sign())


class Builder:
    """Grows a graph by drawing ops; `pool` holds the values that may be used."""

    def __init__(self, draw: st.DrawFn, *, steps: bool) -> None:
        """Draw the arguments; `steps`: allow functions with jumps."""
        self.draw, self.count = draw, 0
        self.unary = SMOOTH + STEPS if steps else SMOOTH
        shapes = [draw(st.sampled_from([(1, 2, 5, 5), (2, 4, 4, 6), (1, 3, 8), (3, 4)]))]
        if draw(st.booleans()):
            shapes.append(shapes[0])
        self.graph = Graph([TensorType(F, s) for s in shapes], hints=["x", "z"])
        self.pool = list(self.graph.args)

    def put(self, kind: OpKind, *operands: Value | None) -> Value:
        """Append an op and give its first result."""
        self.count += 1
        op = Op(kind, operands, loc=Loc((f"{kind.name}{self.count}",)))
        self.graph.insert(op)
        self.pool += [r for r in op.results if (r.tensor.size or 0) <= SMALL]
        return op.results[0]

    def const(self, data: Data) -> Value:
        """Append a constant."""
        return self.graph.insert(Op(Const(data))).result

    def weights(self, *shape: int) -> Value:
        """Random numbers; equal seeds make equal constants for `cse` to find."""
        return self.const(Rand(F, shape, self.draw(st.integers(0, 3))))

    def positive(self, *shape: int) -> Value:
        """Numbers from 0.5 to 1.5."""
        seed = self.draw(st.integers(0, 3))
        return self.const(Inline(np.random.default_rng(seed).uniform(0.5, 1.5, shape)))

    def number(self, value: float) -> Value:
        """A scalar."""
        return self.const(Inline(np.asarray(value)))

    def shape(self, x: Value) -> tuple[int, ...]:
        """A value's shape; all are static here."""
        static = x.tensor.static
        assert static is not None
        return static

    def step(self) -> None:
        """Append something that fits the drawn value."""
        x = self.draw(st.sampled_from(self.pool))
        fitting = {2: MATRICES, 3: SEQUENCES, 4: IMAGES}.get(len(self.shape(x)), ANY)
        self.draw(st.sampled_from(self.draw(st.sampled_from([ANY, fitting]))))(self, x)


def unary(b: Builder, x: Value) -> None:
    b.put(b.draw(st.sampled_from(b.unary)), x)


def constant(b: Builder, x: Value) -> None:
    """Arithmetic with a scalar, a channel vector, an identity element or a full tensor."""
    shape = b.shape(x)
    channels = (shape[1], *(1,) * (len(shape) - 2)) if len(shape) > 1 else shape
    number = b.draw(st.sampled_from([0.0, 1.0, -1.0, 2.0, 0.5]))
    kind, c = b.draw(st.sampled_from([
        (ew.Add(), "any"), (ew.Sub(), "any"), (ew.Mul(), "any"), (ew.Div(), "positive"),
        (ew.Max(), "number"), (ew.Min(), "number"), (ew.Add(), "number"), (ew.Mul(), "number"),
        (ew.Sub(), "number"), (ew.Pow(), "power"),
    ]))  # fmt: skip
    which = b.draw(st.sampled_from([(), channels, shape, shape[-1:]]))
    match c:
        case "any":
            other = b.weights(*which)
        case "positive":
            other = b.positive(*which)
        case "number":
            other = b.const(Splat(F, which, number))
        case _:
            other = b.number(b.draw(st.sampled_from([1.0, 2.0])))
    swap = b.draw(st.booleans()) and kind.name in ("add", "mul", "sub", "max", "min")
    b.put(kind, *((other, x) if swap else (x, other)))


def binary(b: Builder, x: Value) -> None:
    """With another value of the same shape."""
    same = [v for v in b.pool if v.type == x.type]
    y = b.draw(st.sampled_from(same))
    kind = b.draw(st.sampled_from([ew.Add(), ew.Mul(), ew.Sub(), ew.Max(), ew.Min()]))
    b.put(kind, x, y)


def transpose(b: Builder, x: Value) -> None:
    b.put(mv.Transpose(tuple(b.draw(st.permutations(range(len(b.shape(x))))))), x)


def reshape(b: Builder, x: Value) -> None:
    shape = b.shape(x)
    sizes = b.draw(st.sampled_from([(0, -1), (-1,), (1, *shape), (shape[0], -1, 1), shape]))
    b.put(mv.Reshape(sizes if len(shape) > 1 else (-1, 1)), x)


def squeeze(b: Builder, x: Value) -> None:
    ones = tuple(i for i, d in enumerate(b.shape(x)) if d == 1)
    if ones and b.draw(st.booleans()):
        b.put(mv.Squeeze(ones[:1]), x)
    elif len(b.shape(x)) < 4:
        b.put(mv.Unsqueeze((b.draw(st.integers(0, len(b.shape(x)))),)), x)


def cut(b: Builder, x: Value) -> None:
    """A slice along one axis."""
    shape = b.shape(x)
    axis = b.draw(st.integers(0, len(shape) - 1))
    start = b.draw(st.integers(0, shape[axis] - 1))
    end = b.draw(st.sampled_from([shape[axis], 2**63 - 1]))
    b.put(mv.Slice((start,), (end,), (axis,), (1,)), x)


def pad(b: Builder, x: Value) -> None:
    n = len(b.shape(x))
    widths = b.draw(st.lists(st.integers(0, 1), min_size=2 * n, max_size=2 * n))
    b.put(mv.Pad(tuple(widths), "constant", b.draw(st.sampled_from([0.0, 0.0, 1.0]))), x)


def join(b: Builder, x: Value) -> None:
    """Concatenate with values that fit, or split and put together again."""
    shape = b.shape(x)
    axis = b.draw(st.integers(0, len(shape) - 1))
    same = [v for v in b.pool if v.type == x.type]
    others = b.draw(st.lists(st.sampled_from(same), max_size=2))
    whole = b.put(mv.Concat(axis), x, *others)
    size = b.shape(whole)[axis]
    if size > 1 and b.draw(st.booleans()):
        first = b.draw(st.sampled_from([shape[axis], 1])) if others else 1
        parts = b.put(mv.Split(axis, (first, size - first)), whole).op
        assert parts
        b.put(mv.Concat(axis), *parts.results)


def reduce(b: Builder, x: Value) -> None:
    n = len(b.shape(x))
    axes = tuple(sorted(b.draw(st.sets(st.integers(0, n - 1), max_size=n - 1))))
    kind = b.draw(st.sampled_from([ReduceMean, ReduceMax, ReduceSum]))
    b.put(kind(axes, b.draw(st.booleans())), x)


def softmax(b: Builder, x: Value) -> None:
    b.put(nn.Softmax(b.draw(st.integers(-len(b.shape(x)), -1))), x)


def expand(b: Builder, x: Value) -> None:
    shape = b.shape(x)
    bigger = tuple(2 if d == 1 else d for d in shape)
    b.put(mv.Expand(b.draw(st.sampled_from([shape, (1, *shape)[-4:], bigger, (1,)]))), x)


def where(b: Builder, x: Value) -> None:
    same = [v for v in b.pool if v.type == x.type]
    kind = b.draw(st.sampled_from([ew.Less(), ew.GreaterEqual()]))
    if b.draw(st.booleans()):
        cond = b.const(Splat(DType.bool_, b.shape(x), b.draw(st.booleans())))
    else:
        cond = b.graph.insert(Op(kind, (b.pool[0], b.number(0.0)))).result
        x, same = b.pool[0], [v for v in b.pool if v.type == b.pool[0].type]
    b.put(ew.Where(), cond, x, b.draw(st.sampled_from(same)))


def activation(b: Builder, x: Value) -> None:
    """Activations as exporters take them apart."""
    match b.draw(st.integers(0, 4)):
        case 0:
            inner = b.put(ew.Erf(), b.put(ew.Div(), x, b.number(math.sqrt(2))))
            gate = b.put(ew.Add(), inner, b.number(1.0))
            b.put(ew.Mul(), b.put(ew.Mul(), x, gate), b.number(0.5))
        case 1:
            b.put(ew.Mul(), x, b.put(ew.Sigmoid(), x))
        case 2:
            gate = b.put(ew.Clip(0.0, 6.0), b.put(ew.Add(), x, b.number(3.0)))
            b.put(ew.Div(), b.put(ew.Mul(), x, gate), b.number(6.0))
        case 3:
            b.put(ew.Mul(), x, b.put(ew.Tanh(), b.put(ew.Softplus(), x)))
        case _:
            power = b.put(ew.Exp(), b.put(ew.Neg(), b.put(ew.Tanh(), x)))
            b.put(ew.Div(), x, b.put(ew.Add(), b.number(1.0), power))


def conv(b: Builder, x: Value) -> None:
    _, c, h, w = b.shape(x)
    kernel = b.draw(st.sampled_from([1, min(3, h, w)]))
    group = b.draw(st.sampled_from([1, c]))
    outputs = b.draw(st.sampled_from([1, 2])) * group
    pads = (b.draw(st.integers(0, 1)),) * 4
    bias = b.weights(outputs) if b.draw(st.booleans()) else None
    stride = (b.draw(st.integers(1, 2)),) * 2
    kind = nn.Conv(stride, pads, (1, 1), group)
    b.put(kind, x, b.weights(outputs, c // group, kernel, kernel), bias)


def conv_transpose(b: Builder, x: Value) -> None:
    _, c, _, _ = b.shape(x)
    group = b.draw(st.sampled_from([1, c]))
    bias = b.weights(2 * group) if b.draw(st.booleans()) else None
    kind = nn.ConvTranspose((2, 2), (0, 0, 0, 0), (1, 1), (0, 0), group)
    b.put(kind, x, b.weights(c, 2, 2, 2), bias)


def batch_norm(b: Builder, x: Value) -> None:
    c = b.shape(x)[1]
    b.put(nn.BatchNorm(), x, b.weights(c), b.weights(c), b.weights(c), b.positive(c))


def instance_norm(b: Builder, x: Value) -> None:
    c = b.shape(x)[1]
    b.put(nn.InstanceNorm(1e-2), x, b.weights(c), b.weights(c))


def pool(b: Builder, x: Value) -> None:
    _, _, h, w = b.shape(x)
    if b.draw(st.booleans()):
        x = b.put(
            mv.Pad((0, 0, 1, 1, 0, 0, 1, 1), value=b.draw(st.sampled_from([0.0, -math.inf]))), x
        )
        b.pool.pop()  # infinities are for the max pool alone
        b.put(nn.MaxPool((2, 2), (1, 1), (0,) * 4, (1, 1)), x)
    elif min(h, w) >= 2:
        b.put(nn.AvgPool((2, 2), (2, 2), (b.draw(st.integers(0, 1)),) * 4, (1, 1)), x)


def layer_norm(b: Builder, x: Value) -> None:
    """Taken apart, with scale and bias."""
    n = len(b.shape(x))
    d = b.put(ew.Sub(), x, b.put(ReduceMean((n - 1,)), x))
    var = b.put(ReduceMean((n - 1,)), b.put(ew.Mul(), d, d))
    root = b.put(ew.Sqrt(), b.put(ew.Add(), var, b.number(1e-2)))
    y = b.put(ew.Mul(), b.put(ew.Div(), d, root), b.weights(b.shape(x)[-1]))
    b.put(ew.Add(), y, b.weights(b.shape(x)[-1]))


def matmul(b: Builder, x: Value) -> None:
    k = b.shape(x)[-1]
    y = b.put(MatMul(), x, b.weights(k, 3))
    if b.draw(st.booleans()):
        b.put(ew.Add(), y, b.weights(3))


def gemm(b: Builder, x: Value) -> None:
    m, k = b.shape(x)
    trans_a, trans_b = b.draw(st.booleans()), b.draw(st.booleans())
    inner = m if trans_a else k
    w = b.weights(*((3, inner) if trans_b else (inner, 3)))
    c = b.weights(3) if b.draw(st.booleans()) else None
    b.put(Gemm(b.draw(st.sampled_from([1.0, 0.5])), 2.0, trans_a, trans_b), x, w, c)


def attention(b: Builder, x: Value) -> None:
    n = len(b.shape(x))
    swap = (*range(n - 2), n - 1, n - 2)
    scores = b.put(MatMul(), x, b.put(mv.Transpose(swap), x))
    scores = b.put(ew.Mul(), scores, b.number(0.25))
    b.put(MatMul(), b.put(nn.Softmax(), scores), x)


def squeeze_excite(b: Builder, x: Value) -> None:
    """Taken apart, its products convolutions or of matrices."""
    n, c, *_ = b.shape(x)
    if b.draw(st.booleans()):
        one = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))
        h = b.put(ew.Relu(), b.put(one, b.put(ReduceMean((2, 3)), x), b.weights(2, c, 1, 1)))
        gate = b.put(ew.Sigmoid(), b.put(one, h, b.weights(c, 2, 1, 1), b.weights(c)))
    else:
        h = b.put(ew.Tanh(), b.put(MatMul(), b.put(ReduceMean((2, 3), False), x), b.weights(c, 2)))
        product = b.put(Gemm(trans_b=True), h, b.weights(c, 2), b.weights(c))
        gate = b.put(mv.Reshape((n, c, 1, 1)), b.put(ew.Sigmoid(), product))
    b.put(ew.Mul(), x, gate)


Step = Callable[[Builder, Value], None]
ANY: Sequence[Step] = (
    unary, unary, constant, constant, binary, transpose, reshape, squeeze, cut, pad, join, reduce,
    softmax, expand, where, activation,
)  # fmt: skip
IMAGES: Sequence[Step] = (
    conv, conv, conv, batch_norm, batch_norm, pool, conv_transpose, instance_norm, attention,
    squeeze_excite, squeeze_excite,
)  # fmt: skip
SEQUENCES: Sequence[Step] = (matmul, layer_norm, batch_norm, attention, attention)
MATRICES: Sequence[Step] = (matmul, gemm, gemm, layer_norm, batch_norm)


@st.composite
def modules(draw: st.DrawFn, *, steps: bool = True, least: int = 1, most: int = 12) -> Module:
    """A module of `least` to `most` drawn steps.

    Args:
        draw: Hypothesis's.
        steps: whether functions with jumps (floor, sign) may occur.
        least: how many steps at least.
        most: how many steps at most.
    """
    b = Builder(draw, steps=steps)
    for _ in range(draw(st.integers(least, most))):
        b.step()
    made = [v for v in b.pool if v.op]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3)) if made else b.pool[:1]
    b.graph.insert(Op(Return(tuple(f"y{i}" for i in range(len(outputs)))), outputs))
    return Module(b.graph)
