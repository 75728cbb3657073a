# pyright: basic
# Tables of cases of mixed types.
"""Chains of convolutions in one kernel: against numpy, where they are chosen, what lowering tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.analysis.interpret import interpret, random_inputs
from graphopt.ir.builtin import Fused
from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.targets import machine
from graphopt.targets.catalog import KernelCatalog
from graphopt.targets.lower import kernel_text
from graphopt.targets.tvm import build, chains
from graphopt.targets.x86 import X86
from tests.kernelcheck import block, check, runnable

MACHINE = machine.load("avx512vnni")


def text(ins=0, inner=32, outs=0, size=(9, 9), kernel=3, *, stride=1, pad=None, dilation=1, n=1,
         act="relu", residual=False, b=16):  # fmt: skip
    """The text of a chain; `ins`, `outs` 0: no expansion, no projection. Arguments are x, weights..."""
    reach = (kernel - 1) * dilation
    top, left, bottom, right = (reach // 2,) * 4 if pad is None else pad
    out = (
        (size[0] + top + bottom - reach - 1) // stride + 1,
        (size[1] + left + right - reach - 1) // stride + 1,
    )

    def image(channels, size):
        return f"f32[{n},{channels},{size[0]},{size[1]}:aBcd{b}b]"

    def vector(channels):
        return f"f32[{channels}{f':A{b}a' if channels % b else ''}]"

    point = "{strides=[1,1],pads=[0,0,0,0],dilations=[1,1]}"
    args, ops, last = [f"%x: {image(ins or inner, size)}"], [], "%x"
    if ins:
        args.append(f"%w1: f32[{inner},{ins},1,1:ABcd{b}b{b}a], %b1: {vector(inner)}")
        ops.append(f"%e = conv(%x, %w1, %b1) {point} : {image(inner, size)}")
        ops.append(f"%f = {act}(%e) : {image(inner, size)}")
        last = "%f"
    args.append(f"%w2: f32[{inner},1,{kernel},{kernel}:Abcd{b}a], %b2: {vector(inner)}")
    ops.append(f"""%d = conv({last}, %w2, %b2) {{strides=[{stride},{stride}],pads=[{top},{left},{bottom},{right}],
                   dilations=[{dilation},{dilation}],group={inner}}} : {image(inner, out)}""")
    ops.append(f"%g = {act}(%d) : {image(inner, out)}")
    last = "%g"
    if outs:
        args.append(f"%w3: f32[{outs},{inner},1,1:ABcd{b}b{b}a]")
        ops.append(f"%p = conv(%g, %w3) {point} : {image(outs, out)}")
        last = "%p"
    if residual:
        args.append(f"%r: {image(outs or inner, out)}")
        ops.append(f"%y = add({last}, %r) : {image(outs or inner, out)}")
        last = "%y"
    body = "\n".join(ops)
    return f"graph @k({', '.join(args)}) {{\n{body}\nreturn({last}) }}"


CASES = [
    dict(ins=16, inner=96, outs=32, size=(14, 14), residual=True),
    dict(ins=20, inner=40, outs=24, size=(11, 9), stride=2, act="sigmoid", n=2),
    dict(ins=32, inner=48, outs=16, size=(30, 17), kernel=5, act="silu"),
    dict(ins=16, inner=32, size=(16, 13), kernel=7, stride=2, act="hard_swish"),
    dict(ins=24, inner=64, size=(12, 12), residual=True, n=3),
    dict(ins=16, inner=32, outs=16, size=(7, 9), dilation=2),
    dict(ins=16, inner=32, outs=16, size=(8, 9), pad=(0, 0, 1, 1), stride=2),
    dict(inner=32, outs=64, size=(33, 31), residual=True),
    dict(inner=20, outs=7, size=(9, 10), kernel=5, stride=2, n=2),
    dict(inner=32, outs=24, size=(13, 40), pad=(0, 0, 0, 0), act="clip", dilation=2),
    dict(inner=32, outs=16, size=(6, 6), kernel=1, stride=3, pad=(0, 0, 0, 0)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "name"),
    [(c, m) for i, c in enumerate(CASES) for m in runnable() if i % 4 == 1 or m == runnable()[0]],
    ids=lambda c: c if isinstance(c, str) else "-".join(map(str, c.values())),
)
def test_kernel(case: dict, name: str) -> None:
    check(text(**case, b=block(name)), name)


def test_every_schedule_computes_the_same() -> None:
    graph = parse(text(16, 48, 32, (13, 11), 3)).main
    found = build.choices(graph, MACHINE)
    assert len(found) == len(set(found)) > 3


def test_a_padding_lane_is_never_infinite() -> None:
    """The reciprocal of a padding lane, which is 0, would meet a weight of 0."""
    check(text(20, 20, 20, (6, 6), act="reciprocal"), tolerance=1e-3)


def chain(source: str) -> chains.Chain | None:
    return chains.chain_of(parse(source).main)


@pytest.mark.parametrize("wrong", ["group", "stride", "padding", "users", "movement"])
def test_what_is_no_chain(wrong: str) -> None:
    source = text(16, 32, 16)
    assert chain(source)
    changed = {
        "group": source.replace("group=32", "group=1").replace("f32[32,1,3,3:Abcd16a]", "f32[32,32,3,3:ABcd16b16a]"),
        "stride": text(16, 32, 16, size=(1, 1)).replace("strides=[1,1],pads=[0", "strides=[2,2],pads=[0"),
        "padding": text(16, 32, 16, size=(2, 2), pad=(3, 3, 3, 3)),
        "users": source.replace("%d = conv(%f", "%d = conv(%e"),
        "movement": source.replace("%f = relu(%e)", "%f = reorder(%e)"),
    }[wrong]  # fmt: skip
    assert chain(changed) is None


def pays(name: str = "avx512vnni", **case) -> bool:
    found = chain(text(**case, b=block(name)))
    assert found
    return chains.pays(found, machine.load(name))


def test_it_pays_where_memory_is_waited_for() -> None:
    assert pays(ins=24, inner=144, outs=24, size=(56, 56))
    assert pays(ins=16, inner=96, size=(112, 112), stride=2)
    assert pays(inner=32, outs=16, size=(112, 112))
    assert pays("avx2", ins=24, inner=144, outs=24, size=(56, 56))


def test_it_does_not_pay_where_weights_are_more_or_cores_would_wait() -> None:
    assert not pays(ins=160, inner=960, outs=160, size=(7, 7))
    assert not pays(ins=64, inner=384, outs=64, size=(14, 14))
    assert not pays(inner=4096, outs=16, size=(2, 40))  # two tasks for four cores
    assert not pays(inner=1 << 16, outs=16, size=(4, 40))  # a row of it doesn't fit


def residual(rows: int = 80) -> Module:
    """An inverted residual as the exact pipeline leaves it."""
    return parse(f"""graph @main(%x: f32[1,16,{rows},80]) {{
      %w = const rand 1 : f32[64,16,1,1]
      %u = const rand 2 : f32[64,1,3,3]
      %v = const rand 3 : f32[16,64,1,1]
      %e = conv(%x, %w) {{strides=[1,1],pads=[0,0,0,0],dilations=[1,1]}} @ "expand"
      %f = relu(%e) @ "relu"
      %d = conv(%f, %u) {{strides=[1,1],pads=[1,1,1,1],dilations=[1,1],group=64}} @ "filter"
      %p = conv(%d, %v) {{strides=[1,1],pads=[0,0,0,0],dilations=[1,1]}} @ "project"
      %y = add(%p, %x) @ "add"
      return(%y) {{names=[y]}}
    }}""")


def test_one_step_has_the_work_of_all_and_less_memory() -> None:
    fused, apart = (
        X86("avx512vnni").lower(residual()),
        X86("avx512vnni").lower(residual(), catalog=KernelCatalog()),
    )
    (step,) = [s for s in fused.steps if len(s.nodes) == 5]
    several = [s for s in apart.steps if s.macs]
    assert len(several) == 3
    assert step.macs == sum(s.macs for s in several)
    assert step.work.flops == sum(s.work.flops for s in several)
    assert step.work.data_bytes < sum(s.work.data_bytes for s in several) / 3
    assert fused.arena_bytes < apart.arena_bytes / 2


def test_a_chain_that_the_compiler_refuses_is_computed_by_more_kernels() -> None:
    catalog = KernelCatalog(machine=MACHINE)
    module = residual()
    X86("avx512vnni").lower(module)
    (fused,) = [
        op for op in module.main if isinstance(op.kind, Fused) and op.kind.family == chains.FAMILY
    ]
    again = catalog.refusing(kernel_text(fused), "no")
    shorter = X86("avx512vnni").lower(residual(), catalog=again)
    assert not list(shorter.fallbacks())
    assert kernel_text(fused) not in {k.text for k in shorter.kernels}


def test_a_value_that_something_else_reads_is_stored() -> None:
    source = residual().to_text().replace("return(%y) {names=[y]}", "return(%y, %f) {names=[y,z]}")
    module = parse(source)
    steps = [s.nodes for s in X86("avx512vnni").lower(module).steps]
    assert ("expand", "relu") in steps
    assert ("filter", "project", "add") in steps


def test_end_to_end_on_two_threads(tmp_path: Path) -> None:
    module = residual(53)  # bands of uneven heights
    module.save(str(tmp_path / "m.onnx"))
    result = graphopt.optimize(tmp_path / "m.onnx", "x86", threads=2)
    result.save(tmp_path / "out")
    families = [layer.family for layer in graphopt.profile(tmp_path / "out", runs=3).layers]
    assert families.count("conv_chain") == 1
    feed = random_inputs(module)
    with graphopt.Session(tmp_path / "out", threads=2) as session:
        got = session.run(feed)["y"]
    want = interpret(module, feed)["y"]
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
