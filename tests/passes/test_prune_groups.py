"""Cutting out units that nothing reads changes nothing, op by op (`prunenet` says how)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from graphopt.ir.builtin import Const, Opaque
from graphopt.ir.core import Loc, Module, Op, Value
from graphopt.ir.data import Inline
from graphopt.ir.types import TensorType
from graphopt.ir.verify import verify
from graphopt.onnx import Reference
from graphopt.ops import elementwise as ew
from graphopt.ops import movement as mv
from graphopt.ops import nn
from graphopt.ops.excite import SqueezeExcite
from graphopt.ops.linalg import Attention, Gemm, MatMul
from graphopt.ops.reduce import ReduceMax, ReduceMean
from graphopt.ops.resize import Resize
from graphopt.passes.prune.groups import groups, told_apart
from graphopt.passes.prune.surgery import cut_out
from graphopt.pipeline import Context, parse_pipeline
from tests.prunenet import F, Net, check, shape


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


def packed(n: Net, heads: int) -> Value:
    """Channels of q, k and v side by side in one product of 36 channels."""
    made = n.put(MatMul(), n.x, n.const(8, 36, fan=8))
    parts = n.put(mv.Split(2, (12, 12, 12)), made).op
    assert parts
    q, k, v = (n.put(mv.Transpose((0, 2, 1, 3)), n.reshape(p, 1, 5, heads, 12 // heads))
               for p in parts.results)  # fmt: skip
    y = n.put(mv.Transpose((0, 2, 1, 3)), n.put(Attention(0.5), q, k, v))
    return n.product(n.reshape(y, 1, 5, 12), 8)


def test_groups_of_one_layer_are_told_apart_by_their_channels() -> None:
    n = Net(1, 5, 8)
    module = n.done(packed(n, 3))
    found = groups(module, inside=True).groups
    parts = {g.name: g.channels for g in found if not g.why}
    assert list(parts.values()) == [24, 12]  # of q with k's, and of v
    assert list(told_apart(found)) == list(parts)
    assert list(told_apart(found).values()) == ["channels 0-23", "channels 24-35"]
    assert not told_apart(groups(module).groups)  # whole heads are of all three


@pytest.mark.parametrize(("heads", "how", "told"), [
    (3, "whole", {"3 heads"}),
    (3, "inside", {"4 channels of each head (channels 0-23)",
                   "4 channels of each head (channels 24-35)"}),
    (1, "inside", {"24 channels (channels 0-23)", "12 channels (channels 24-35)"}),
])  # fmt: skip
def test_what_goes_is_called_what_it_is(heads: int, how: str, told: set[str]) -> None:
    def net(heads: int) -> Module:
        n = Net(1, 5, 8)
        return n.done(packed(n, heads))

    (p,) = parse_pipeline(f"prune{{ratio=0.01,criterion=l1,heads={how}}}")
    settled = p.run(net(heads), Context()).settled
    assert settled
    rewrites = [c.rewrite for c in (*settled.left, *settled.kept) if c.gain]
    assert {r.partition(" of ")[2] for r in rewrites} == told
    (p,) = parse_pipeline(f"prune{{ratio=0.01,criterion=l1,heads={how},round_to=64}}")
    settled = p.run(net(heads), Context()).settled
    assert settled
    parts = {r.rewrite for r in settled.left if "round_to" in r.refused}
    assert parts == {"pruned" + t[t.find(" (") :] if "(" in t else "pruned" for t in told}


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


def test_filters_of_an_input_stay_because_the_input_does() -> None:
    n = Net(1, 4, 6, 6)
    first = n.conv(n.x, 8, 3, group=4)
    y = n.conv(n.relu(first), 5)
    found = {g.makers[0].op: g.why for g in groups(n.done(n.put(ew.Add(), y, y))).groups}
    assert first.op and y.op
    assert found[first.op] == "its channels go with those that it reads, which stay"
    assert found[y.op] == "the model gives it back"


def test_layers_that_prune_has_no_rule_for_are_listed_too() -> None:
    n = Net(1, 6, 8)
    left = n.put(MatMul(), n.const(5, 6), n.x)
    batch = n.put(MatMul(), left, n.const(1, 8, 7))
    odd = n.put(Gemm(), n.reshape(batch, 5, 7), n.const(7, 4), n.const(5, 4))
    summed = Op(Opaque("Einsum", "", attrs=(("equation", "ij,jk->ik"),)),
                [odd, n.const(4, 3)], [TensorType(F, (5, 3))])  # fmt: skip
    n.graph.insert(summed)
    module = n.done(n.product(summed.result, 3))
    told = {g.makers[0].op: g.why for g in groups(module).groups}
    form = "its constant factor isn't a matrix on the right of a product"
    made = [v.op for v in (left, batch, odd, summed.result) if v.op]
    assert [told[op] for op in made] == [
        form, form, "its bias is neither one number nor a row", "Einsum has no rule"
    ]  # fmt: skip


def test_a_product_along_rows_is_not_of_unknown_sizes() -> None:
    n = Net(1, 4, 6, 6)
    rows = n.put(MatMul(), n.conv(n.x, 8), n.const(6, 5))
    told = {g.makers[0].op: g.why for g in groups(n.done(n.conv(rows, 3))).groups}
    assert rows.op
    assert told[rows.op] == "it hands channels on as the rows that it multiplies"


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
