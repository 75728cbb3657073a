# pyright: basic
# Tables of cases of mixed types.
"""A convolution and the pool or mean after it in one kernel: against numpy, and where it is chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.analysis.interpret import interpret, random_inputs
from graphopt.ir.parser import parse
from graphopt.ops.winograd import transformed
from graphopt.targets import machine
from graphopt.targets.tvm import build, joint, pools
from tests.kernelcheck import block, check, random_arrays, runnable

MACHINE = machine.load("avx512vnni")


def text(ins=16, outs=32, size=(12, 12), kernel=3, *, stride=1, pad=1, pool="max", window=2, step=2,
         edge=0, n=1, residual=False, after="", winograd=False, b=16, keep=True) -> str:  # fmt: skip
    """The text of a region; `edge` is the pool's padding, `after` an activation after it."""
    out = tuple((d + 2 * pad - kernel) // stride + 1 for d in size)
    sides = tuple((d + 2 * edge - window) // step + 1 for d in out)
    x = f"f32[{n},{ins},{size[0]},{size[1]}{f':aBcd{b}b' if ins % b == 0 else ''}]"
    e = f"f32[{n},{outs},{out[0]},{out[1]}:aBcd{b}b]"
    tag = f"ABcd{b}b{b}a" if ins % b == 0 else f"Abcd{b}a"
    w = f"f32[{outs},{ins},{kernel},{kernel}:{tag}]"
    how = f"{{strides=[{stride},{stride}],pads=[{pad},{pad},{pad},{pad}],dilations=[1,1]}}"
    conv = f"%c = conv(%x, %w, %b) {how} : {e}"
    if winograd:
        w, conv = f"f32[36,{outs},{ins}:aBc{b}b]", f"%c = conv_winograd(%x, %w, %b) {{pads=[{pad},{pad},{pad},{pad}]}} : {e}"
    ops = [conv, f"%s = add(%c, %r) : {e}" if residual else "", f"%a = relu({'%s' if residual else '%c'}) : {e}"]
    y = f"f32[{n},{outs},{sides[0]},{sides[1]}:aBcd{b}b]"
    windows = f"{{kernel=[{window},{window}],strides=[{step},{step}],pads=[{edge},{edge},{edge},{edge}],dilations=[1,1]}}"
    if pool == "mean":
        y = f"f32[{n},{outs},1,1:aBcd{b}b]" if keep else f"f32[{n},{outs}]"
        ops.append(f"%p = reduce_mean(%a) {{axes=[2,3],keepdims={str(keep).lower()}}} : {y}")
    else:
        ops.append(f"%p = {pool}_pool(%a) {windows} : {y}")
    ops.append(f"%y = {after}(%p) : {y}" if after else "")
    bias = f"f32[{outs}{f':A{b}a' if outs % b else ''}]"
    body = "\n".join(filter(None, ops))
    return f"graph @k(%x: {x}, %w: {w}, %b: {bias}, %r: {e}) {{\n{body}\nreturn({'%y' if after else '%p'}) }}"


CASES = [
    dict(),
    dict(ins=3, outs=64, size=(33, 38), kernel=7, stride=2, pad=3, window=3, edge=1),
    dict(ins=3, outs=20, size=(21, 17), kernel=3, stride=2, pad=0, window=3, n=2),
    dict(outs=48, size=(13, 11), pool="avg", residual=True, after="sigmoid"),
    dict(ins=32, size=(9, 9), kernel=1, pad=0, window=3, step=1, n=3),
    dict(ins=32, size=(10, 16), window=2, step=3, kernel=1, pad=0),
    dict(size=(8, 8), pool="avg", window=8, step=8, residual=True),
    dict(ins=32, outs=96, size=(7, 7), kernel=1, pad=0, pool="mean"),
    dict(ins=32, outs=48, size=(7, 5), pool="mean", keep=False, residual=True, n=2),
    dict(ins=16, outs=20, size=(6, 6), pool="mean", after="hard_swish"),
]  # fmt: skip
TILED = [
    dict(size=(16, 16), residual=True),
    dict(size=(14, 14), ins=32),
    dict(size=(9, 7), n=2, pool="avg"),
    dict(size=(17, 20), outs=16, after="sigmoid", pad=0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "name"),
    [(c, m) for i, c in enumerate(CASES) for m in runnable() if i % 4 == 1 or m == runnable()[0]],
    ids=lambda c: c if isinstance(c, str) else "-".join(map(str, c.values())) or "plain",
)
def test_kernel(case: dict, name: str) -> None:
    source = text(**case, b=block(name))
    assert build.graph_family(parse(source).main) == pools.FAMILY
    check(source, name)


@pytest.mark.parametrize("case", TILED, ids=lambda c: "-".join(map(str, c.values())))
def test_minimal_filtering_pools_its_tiles(case: dict) -> None:
    """The transforms' cancellations lose some five bits, as without a pool."""
    name = runnable()[0]
    source = text(**case, winograd=True, b=block(name))
    arrays = random_arrays(parse(source).main)
    arrays[1] = transformed(arrays[1][:9].transpose(1, 2, 0).reshape(*arrays[1].shape[1:], 3, 3))
    assert build.graph_family(parse(source).main) == pools.TILES
    check(source, name, arrays=arrays, tolerance=2e-5)


def test_every_schedule_computes_the_same() -> None:
    source = text(outs=64, size=(12, 13))
    found = build.choices(parse(source).main, MACHINE)
    assert len(found) == len(set(found)) > 3


@pytest.mark.parametrize("wrong", ["group", "users", "dilated", "padded mean", "movement", "residual past the edge"])
def test_what_is_none(wrong: str) -> None:
    changed = {
        "group": text().replace("dilations=[1,1]} : f32[1,32,12", "dilations=[1,1],group=2} : f32[1,32,12").replace("f32[32,16,3", "f32[32,8,3"),
        "users": text().replace("_pool(%a)", "_pool(%c)"),
        "dilated": text(window=3).replace("pads=[0,0,0,0],dilations=[1,1]", "pads=[0,0,0,0],dilations=[2,2]").replace("[1,32,5,5", "[1,32,4,4"),
        "padded mean": text(pool="avg", window=3, edge=1),
        "movement": text().replace("%a = relu(%c)", "%a = reorder(%c)"),
        "residual past the edge": text(size=(14, 14), residual=True, winograd=True),
    }[wrong]  # fmt: skip
    assert joint.family([*parse(changed).main]) is None


def pays(**case) -> bool:
    return joint.pays([*parse(text(**case)).main], MACHINE)


def test_it_pays_where_memory_is_waited_for() -> None:
    assert pays(ins=3, outs=64, size=(224, 224), kernel=7, stride=2, pad=3, window=3, edge=1)
    assert pays(ins=32, outs=96, size=(7, 7), kernel=1, pad=0, pool="mean")
    assert not pays(ins=512, outs=512, size=(14, 14), window=2)  # weights once for each band
    assert not pays(ins=32, outs=32, size=(7, 7), pool="mean")  # two tasks for four cores


def test_end_to_end_on_two_threads(tmp_path: Path) -> None:
    """A first layer, a block of minimal filtering and a last mean, as models have them."""
    module = parse("""graph @main(%x: f32[1,3,96,90]) {
      %w = const rand 1 : f32[64,3,3,3]
      %u = const rand 2 : f32[64,64,3,3]
      %v = const rand 3 : f32[80,64,1,1]
      %c = conv(%x, %w) {strides=[2,2],pads=[1,1,1,1],dilations=[1,1]} @ "stem"
      %d = relu(%c) @ "relu"
      %p = max_pool(%d) {kernel=[3,3],strides=[2,2],pads=[1,1,1,1],dilations=[1,1]} @ "pool"
      %e = conv(%p, %u) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "middle"
      %q = max_pool(%e) {kernel=[2,2],strides=[2,2],pads=[0,0,0,0],dilations=[1,1]} @ "halve"
      %f = conv(%q, %v) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "last"
      %g = relu(%f)
      %y = reduce_mean(%g) {axes=[2,3],keepdims=false} @ "mean"
      return(%y) {names=[y]}
    }""")
    module.save(str(tmp_path / "m.onnx"))
    result = graphopt.optimize(tmp_path / "m.onnx", "x86", threads=2)
    result.save(tmp_path / "out")
    layers = graphopt.profile(tmp_path / "out", runs=3).layers
    assert [layer.family for layer in layers if layer.us].count(pools.FAMILY) == 2
    assert [layer.nodes[-1] for layer in layers] == ["pool", "halve", "mean"]
    feed = random_inputs(module)
    with graphopt.Session(tmp_path / "out", threads=2) as session:
        got = session.run(feed)["y"]
    want = interpret(module, feed)["y"]
    assert np.abs(got - want).max() <= 2e-5 * np.abs(want).max()
