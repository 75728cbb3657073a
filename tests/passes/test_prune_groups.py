"""Cutting out units that nothing reads changes nothing: by op, and on random graphs.

Which units go is drawn; the weights of all layers that read them are set to zero. Then the model
gives what it gives with the units cut out, in numpy and, written as ONNX, in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from graphopt.ops.excite import SqueezeExcite
from graphopt.ops.linalg import Attention, Gemm, MatMul
from graphopt.ops.reduce import ReduceMax, ReduceMean
from graphopt.ops.resize import Resize
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


def residual(n: Net) -> Value:
    a = n.relu(n.conv(n.x, 8, 3))
    b = n.conv(n.relu(n.norm(n.conv(a, 6, 3))), 8, 3)
    return n.conv(n.put(ew.Add(), a, b), 5)


def concat(n: Net) -> Value:
    a, b = n.conv(n.x, 5), n.conv(n.x, 4, 3)
    both = n.put(mv.Concat(1), n.relu(a), b, a)
    return n.conv(both, 3, 3)


def split(n: Net) -> Value:
    parts = n.put(mv.Split(1, (3, 5)), n.conv(n.x, 8)).op
    assert parts
    a, b = parts.results
    return n.put(ew.Add(), n.conv(n.relu(a), 4), n.conv(b, 4, 3))


def halves(n: Net) -> Value:
    """The gate of a gated unit: both halves go together."""
    parts = n.put(mv.Split(1, (4, 4)), n.conv(n.x, 8)).op
    assert parts
    gate = n.put(ew.Sigmoid(), parts.results[1])
    return n.conv(n.put(ew.Mul(), parts.results[0], gate), 3)


def sliced(n: Net) -> Value:
    a = n.conv(n.x, 8)
    every = n.put(mv.Slice((0,), (8,), (1,), (2,)), a)
    last = n.put(mv.Slice((-1,), (-9,), (1,), (-1,)), a)
    return n.put(ew.Add(), n.conv(every, 4), n.conv(last, 4))


def strided_shortcut(n: Net) -> Value:
    """As CIFAR's ResNets have it: every second pixel, and channels of zeros around."""
    a = n.conv(n.x, 6)
    small = n.put(mv.Slice((0, 0), (2**31, 2**31), (2, 3), (2, 2)), a)
    wide = n.put(mv.Pad((0, 2, 0, 0, 0, 2, 0, 0)), small)
    w = n.const(10, 6, 3, 3, fan=54)
    b = n.put(nn.Conv((2, 2), (1, 1, 1, 1), (1, 1)), a, w)
    return n.conv(n.relu(n.put(ew.Add(), wide, b)), 3)


def flattened(n: Net) -> Value:
    a = n.put(nn.MaxPool((2, 2), (2, 2), (0,) * 4, (1, 1)), n.conv(n.x, 6))
    flat = n.reshape(a, 1, -1)
    wide = shape(flat)[1]
    return n.put(Gemm(1.0, 1.0, False, True), flat, n.const(5, wide, fan=wide), n.const(5))


def nhwc(n: Net) -> Value:
    a = n.put(mv.Transpose((0, 2, 3, 1)), n.conv(n.x, 6))
    b = n.put(mv.Transpose((0, 3, 1, 2)), n.relu(n.product(a, 7)))
    return n.conv(b, 3)


def pixel_shuffle(n: Net) -> Value:
    a = n.put(mv.DepthToSpace(2, "CRD"), n.conv(n.x, 16))
    b = n.put(mv.SpaceToDepth(2), n.relu(a))
    return n.conv(b, 3)


def shuffled_and_flattened(n: Net) -> Value:
    """Pixels alone would go along rows, which the channels of a block can't."""
    flat = n.reshape(n.put(mv.DepthToSpace(2), n.conv(n.x, 8)), 1, -1)
    return n.put(MatMul(), flat, n.const(shape(flat)[1], 3, fan=shape(flat)[1]))


def channel_shuffle(n: Net) -> Value:
    h = shape(n.x)[2]
    a = n.conv(n.x, 8)
    b = n.put(mv.Transpose((0, 2, 1, 3, 4)), n.reshape(a, 1, 2, 4, h, h))
    c = n.conv(n.relu(n.reshape(b, 1, 8, h, h)), 8, 3, 8)
    return n.conv(c, 3)


def depthwise(n: Net) -> Value:
    a = n.relu(n.norm(n.conv(n.x, 9)))
    return n.conv(n.relu(n.conv(a, 18, 3, 9)), 4)  # two channels out of each


def grouped(n: Net) -> Value:
    a = n.conv(n.x, 12)
    return n.conv(n.relu(n.conv(a, 8, 3, 2)), 4)


def many_groups(n: Net) -> Value:
    """More groups than channels in each: whole groups go."""
    a = n.conv(n.x, 12)
    return n.conv(n.relu(n.conv(a, 12, 3, 6)), 4)


def excite(n: Net) -> Value:
    a = n.conv(n.x, 8, 3)
    gate = n.put(
        SqueezeExcite(), a, n.const(3, 8, 1, 1), n.const(8, 3, 1, 1), n.const(3), n.const(8)
    )
    return n.conv(n.put(ew.Mul(), a, gate), 4)


def excite_apart(n: Net) -> Value:
    a = n.conv(n.x, 8, 3)
    mean = n.put(ReduceMean((2, 3), True), a)
    gate = n.put(ew.Sigmoid(), n.conv(n.relu(n.conv(mean, 4)), 8))
    return n.conv(n.put(ew.Mul(), a, gate), 4)


def instance_norm(n: Net) -> Value:
    a = n.put(nn.InstanceNorm(), n.conv(n.x, 6), n.const(6), n.const(6))
    return n.conv(n.relu(a), 4)


def group_norm(n: Net) -> Value:
    """Channels of a group that is normalised together go together."""
    h = shape(n.x)[2]
    a = n.reshape(n.conv(n.x, 8), 1, 4, -1)
    b = n.reshape(n.put(nn.InstanceNorm(), a, n.const(4), n.const(4)), 1, 8, h, h)
    return n.conv(n.relu(n.put(ew.Mul(), b, n.const(8, 1, 1))), 4)


def transposed(n: Net) -> Value:
    a = n.conv(n.x, 6)
    return n.conv(n.relu(n.rise(a, 5)), 3)


def transposed_grouped(n: Net) -> Value:
    a = n.conv(n.x, 6)
    return n.conv(n.relu(n.rise(a, 8, 2)), 3)


def gathered(n: Net) -> Value:
    """Channels that nobody picks are a group of their own."""
    picks = n.graph.insert(Op(Const(Inline(np.array([5, 1, 0, 3, 1])))), None).result
    a = n.put(mv.Gather(1), n.conv(n.x, 6), picks)
    return n.conv(a, 3)


def resized(n: Net) -> Value:
    h = shape(n.x)[2]
    return n.conv(n.put(Resize((2 * h, 2 * h), (2.0, 2.0)), n.conv(n.x, 5)), 3)


def pooled(n: Net) -> Value:
    a = n.put(nn.AvgPool((2, 2), (2, 2), (0,) * 4, (1, 1)), n.conv(n.x, 5))
    return n.conv(n.put(ReduceMax((3,), True), a), 3)


IMAGES: dict[Callable[[Net], Value], int] = {
    residual: 2, concat: 2, split: 2, halves: 1, sliced: 2, strided_shortcut: 2, flattened: 1,
    nhwc: 2, pixel_shuffle: 1, channel_shuffle: 1, depthwise: 1, grouped: 2, many_groups: 1,
    excite: 1, excite_apart: 2, instance_norm: 1, group_norm: 1, transposed: 2,
    transposed_grouped: 2, gathered: 2, resized: 1, pooled: 1, shuffled_and_flattened: 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("make", "count"), list(IMAGES.items()), ids=lambda v: getattr(v, "__name__", v)
)
def test_units_that_nothing_reads_can_be_cut_out(make: Callable[[Net], Value], count: int) -> None:
    n = Net(1, 4, 6, 6)
    check(n.done(make(n)), count)


def bare(n: Net, width: int) -> Value:
    """A product without a bias: results of rows of zeros stay zeros."""
    return n.put(MatMul(), n.x, n.const(shape(n.x)[-1], width, fan=shape(n.x)[-1]))


def attention(n: Net, width: int = 12, heads: int = 3, bias: bool = True) -> Value:
    """Multi-head attention as exporters bake it: one product for q, k and v, sizes in reshapes."""
    t, each = shape(n.x)[1], width // heads
    made = n.product(n.x, 3 * width) if bias else bare(n, 3 * width)
    a = n.reshape(made, 1, t, 3, heads, each)
    parts = n.put(mv.Split(2, (1, 1, 1)), a).op
    assert parts
    q, k, v = (n.put(mv.Transpose((0, 2, 1, 3)), n.put(mv.Squeeze((2,)), p)) for p in parts.results)
    y = n.put(Attention(each**-0.5), q, k, v)
    flat = n.reshape(n.put(mv.Transpose((0, 2, 1, 3)), y), 1, t, width)
    return n.product(flat, shape(n.x)[2])


def taken_apart(n: Net, width: int = 12, heads: int = 3, bias: bool = True) -> Value:
    """The same by products and a softmax."""
    t, each = shape(n.x)[1], width // heads
    made = [n.product(n.x, width) if bias else bare(n, width) for _ in range(3)]
    q, k, v = (n.reshape(x, 0, t, heads, each) for x in made)
    q, v = (n.put(mv.Transpose((0, 2, 1, 3)), a) for a in (q, v))
    scores = n.put(MatMul(), q, n.put(mv.Transpose((0, 2, 3, 1)), k))
    y = n.put(MatMul(), n.put(nn.Softmax(-1), scores), v)
    flat = n.reshape(n.put(mv.Transpose((0, 2, 1, 3)), y), 0, t, width)
    return n.product(flat, shape(n.x)[2])


@pytest.mark.parametrize("make", [attention, taken_apart])
def test_heads_go_as_wholes(make: Callable[[Net], Value]) -> None:
    n = Net(1, 5, 8)
    normed = n.put(nn.LayerNorm(), n.x, n.const(8), n.const(8))
    n.x = normed
    (found,) = check(n.done(n.put(ew.Add(), normed, make(n))), 1)
    assert len(found.units) == 3


@pytest.mark.parametrize(("make", "ends"), [
    (attention, [(1, 1)]),  # one product makes q, k and v: a reshape keeps them of one size
    (taken_apart, [(2, 0), (1, 1)]),  # those of q with k's, those of v with what reads them
])  # fmt: skip
def test_of_all_heads_the_same_channels_go(
    make: Callable[..., Value], ends: list[tuple[int, int]]
) -> None:
    """Of 3 heads of 4 channels."""
    n = Net(1, 5, 8)
    n.x = n.put(nn.LayerNorm(), n.x, n.const(8), n.const(8))
    found = check(n.done(n.put(ew.Add(), n.x, make(n, bias=False))), len(ends), inside=True)
    assert [len(g.units) for g in found] == [4] * len(ends)
    assert [(len(g.makers), len(g.readers)) for g in found] == ends


def test_one_head_alone_loses_what_is_inside() -> None:
    """Elements of q go with those of k, those of v by themselves."""
    n = Net(1, 5, 8)
    wide = [n.put(MatMul(), n.x, n.const(8, 6, fan=8)) for _ in range(2)]  # no bias: zeros stay
    q, k, v = *wide, n.product(n.x, 6)
    y = n.put(Attention(0.4), q, k, v)
    found = check(n.done(n.product(y, 8)), 2)
    assert [(len(g.units), len(g.makers), len(g.readers)) for g in found] == [(6, 2, 0), (6, 1, 1)]


def test_what_stays_says_why() -> None:
    n = Net(1, 4, 6, 6)
    a = n.conv(n.x, 6)
    b = n.put(mv.Transpose((0, 2, 3, 1)), a)
    c = n.put(nn.LayerNorm(), b, n.const(6), n.const(6))
    single = n.conv(n.x, 1)
    module = n.done(n.product(c, 3), n.conv(single, 2))
    told = {g.name.rstrip("0123456789"): g.why for g in groups(module).groups[:2]}
    assert told == {"conv": "nothing would be left of it"}
    assert groups(module).groups[0].why == "layer_norm normalises over it"


def test_layers_made_of_one_node_have_groups_of_their_own_names() -> None:
    """As lowrank leaves them; the second, whose results are given back, has a group without units."""
    n = Net(1, 6, 4, 4)
    y = n.conv(n.conv(n.x, 4), 5)
    for op in (o for o in n.graph if isinstance(o.kind, nn.Conv)):
        op.loc = Loc(("split",))
    names = [g.name for g in groups(n.done(y)).groups]
    assert names == ["split", "split (2)"]


def test_sizes_known_in_a_run_only_do_not_matter() -> None:
    from graphopt.ir.types import Sym

    n = Net(1, 4, 8, 8)
    module = n.done(n.conv(n.relu(n.rise(n.conv(n.x, 6), 5)), 3))
    static = [len(g.units) for g in groups(module).groups]
    for arg in module.main.args:
        arg.type = TensorType(F, (Sym("N"), 4, Sym("H"), Sym("W")))
    for op in module.main:
        types = op.kind.infer(*(v and v.type for v in op.operands))
        for r, t in zip(op.results, types or (), strict=False):
            r.type = t
    assert [len(g.units) for g in groups(module).groups] == static == [6, 5, 0]
    cut_out(module, found := groups(module), found.groups[0].units[:3])
    verify(module)
    assert Reference(module).run({"x": np.zeros((2, 4, 10, 6), np.float32)})["y0"].shape == (
        2,
        3,
        20,
        12,
    )


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
