"""Cutting out units that nothing reads changes nothing: on random graphs (`prunenet` says how)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir.builtin import Const
from graphopt.ir.core import Module, Op, Value
from graphopt.ir.data import Inline
from graphopt.ops import elementwise as ew
from graphopt.ops import movement as mv
from graphopt.ops import nn
from graphopt.ops.excite import SqueezeExcite
from graphopt.ops.linalg import MatMul
from tests.prunenet import Net, able, same, shape

BLOCKS: list[Callable[[Net, Value, st.DrawFn], Value]] = []


def block(f: Callable[[Net, Value, st.DrawFn], Value]) -> Callable[[Net, Value, st.DrawFn], Value]:
    BLOCKS.append(f)
    return f


@block
def _convolve(n: Net, x: Value, draw: st.DrawFn) -> Value:
    return n.conv(
        x, draw(st.sampled_from([4, 6, 8])), draw(st.sampled_from([1, 3])), bias=draw(st.booleans())
    )


@block
def _grouped(n: Net, x: Value, draw: st.DrawFn) -> Value:
    c = shape(x)[1]
    g = draw(st.sampled_from([d for d in (1, 2, 3, 4, c) if c % d == 0]))
    return n.conv(x, g * draw(st.integers(1, 2)), 3, g)


@block
def _activate(n: Net, x: Value, draw: st.DrawFn) -> Value:
    return n.put(draw(st.sampled_from([ew.Relu(), ew.Sigmoid(), ew.Tanh()])), x)


@block
def _norm(n: Net, x: Value, draw: st.DrawFn) -> Value:
    return n.norm(x)


@block
def _branch(n: Net, x: Value, draw: st.DrawFn) -> Value:
    y = n.conv(n.relu(n.conv(x, draw(st.sampled_from([3, 5])))), shape(x)[1])
    return n.put(draw(st.sampled_from([ew.Add(), ew.Mul()])), x, y)


@block
def _join(n: Net, x: Value, draw: st.DrawFn) -> Value:
    y = n.conv(x, draw(st.integers(1, 4)))
    return n.put(mv.Concat(1), *((x, y) if draw(st.booleans()) else (y, x)))


@block
def _part(n: Net, x: Value, draw: st.DrawFn) -> Value:
    c = shape(x)[1]
    if c < 2:
        return x
    cut = draw(st.integers(1, c - 1))
    parts = n.put(mv.Split(1, (cut, c - cut)), x).op
    assert parts
    a, b = parts.results
    how = draw(st.sampled_from(["swap", "first", "repeat"]))
    return a if how == "first" else n.put(mv.Concat(1), b, a, *((a,) if how == "repeat" else ()))


@block
def _cut(n: Net, x: Value, draw: st.DrawFn) -> Value:
    c = shape(x)[1]
    start, step = draw(st.integers(0, c - 1)), draw(st.sampled_from([1, 2]))
    return n.put(mv.Slice((start,), (c,), (1,), (step,)), x)


@block
def _pick(n: Net, x: Value, draw: st.DrawFn) -> Value:
    at = draw(st.lists(st.integers(0, shape(x)[1] - 1), min_size=1, max_size=6))
    return n.put(mv.Gather(1), x, n.graph.insert(Op(Const(Inline(np.array(at))))).result)


@block
def _shuffle(n: Net, x: Value, draw: st.DrawFn) -> Value:
    _, c, h, w = shape(x)
    g = draw(st.sampled_from([d for d in range(1, c + 1) if c % d == 0]))
    y = n.put(mv.Transpose((0, 2, 1, 3, 4)), n.reshape(x, 1, g, c // g, h, w))
    return n.reshape(y, 1, c, h, w)


@block
def _pixels(n: Net, x: Value, draw: st.DrawFn) -> Value:
    _, c, h, _ = shape(x)
    if draw(st.booleans()) and h % 2 == 0:
        return n.put(mv.SpaceToDepth(2), x)
    if c % 4 == 0 and h <= 8:
        return n.put(mv.DepthToSpace(2, draw(st.sampled_from(["DCR", "CRD"]))), x)
    return x


@block
def _pad(n: Net, x: Value, draw: st.DrawFn) -> Value:
    before, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    return n.put(mv.Pad((0, before, 0, 0, 0, after, 0, 0), "constant", 0.5), x)


@block
def _excite(n: Net, x: Value, draw: st.DrawFn) -> Value:
    c = shape(x)[1]
    gate = n.put(
        SqueezeExcite(), x, n.const(2, c, 1, 1), n.const(c, 2, 1, 1), n.const(2), n.const(c)
    )
    return n.put(ew.Mul(), x, gate)


@block
def _scale(n: Net, x: Value, draw: st.DrawFn) -> Value:
    sizes = draw(st.sampled_from([(shape(x)[1], 1, 1), (1,), shape(x)[2:]]))
    return n.put(draw(st.sampled_from([ew.Add(), ew.Mul()])), x, n.const(*sizes))


@block
def _rise(n: Net, x: Value, draw: st.DrawFn) -> Value:
    return (
        n.rise(x, 4, draw(st.sampled_from([1, 2])))
        if shape(x)[2] <= 4 and shape(x)[1] % 2 == 0
        else x
    )


@block
def _last(n: Net, x: Value, draw: st.DrawFn) -> Value:
    """A product over channels that come last."""
    y = n.put(mv.Transpose((0, 2, 3, 1)), x)
    if draw(st.booleans()):
        y = n.put(draw(st.sampled_from([nn.Softmax(-1), nn.Softmax(1)])), y)
    return n.put(mv.Transpose((0, 3, 1, 2)), n.product(y, draw(st.integers(3, 5))))


@st.composite
def networks(draw: st.DrawFn) -> Module:
    n = Net(1, 3, 4, 4)
    x = n.conv(n.x, draw(st.sampled_from([4, 6, 8])), 3)
    for f in draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=7)):
        x = f(n, x, draw)
        if np.prod(shape(x)) > 4000:
            break
    if draw(st.booleans()):
        flat = n.reshape(x, 1, -1)
        return n.done(n.put(MatMul(), flat, n.const(shape(flat)[1], 3, fan=shape(flat)[1])))
    return n.done(n.conv(x, 3))


@given(networks(), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_random_networks_stay_as_they_are(module: Module, seed: int) -> None:
    random = np.random.default_rng(seed)
    gone = [random.permutation(g.units)[: random.integers(0, len(g.units))] for g in able(module)]
    if gone:
        same(module, np.concatenate(gone))
