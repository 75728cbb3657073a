"""Grouping, lowering and the memory plan, on text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graphopt.ir import Module
from graphopt.ir.parser import parse
from graphopt.ir.verify import verify
from graphopt.ops.movement import Part
from graphopt.passes.group import Group
from graphopt.pipeline import Context
from graphopt.targets.catalog import KERNELS
from graphopt.targets.lower import kernel_text, lower
from graphopt.targets.memory import Lifetime, lower_bound, plan
from graphopt.targets.program import (
    Arena,
    Buffer,
    Dynamic,
    FallbackCall,
    Input,
    KernelCall,
    Output,
    Program,
)

CONV = "{strides=[1,1],pads=[1,1,1,1],dilations=[1,1]}"


def lowered(text: str) -> tuple[Module, Program]:
    module = parse(text)
    verify(module)
    Group().run(module, Context(catalog=KERNELS))
    verify(module)
    return module, lower(module, salt="", reason=KERNELS.reason, segment=lambda g, m: b"onnx")


def body(module: Module) -> list[list[str]]:
    return [
        [o.kind.name for o in op.regions[0] if o.kind.name not in ("const", "return")]
        for op in module.main if op.kind.name == "fused"
    ]  # fmt: skip


def test_bias_residual_and_activation_join_the_convolution() -> None:
    module, program = lowered(f"""graph @g(%x: f32[1,16,8,8]) {{
      %w = const rand 1 : f32[16,16,3,3]
      %six = const dense [6.0] : f32[]
      %a = conv(%x, %w) {CONV} @ "conv"
      %b = add(%a, %x) @ "add"
      %c = min(%b, %six) @ "min"
      %d = conv(%c, %w) {CONV} @ "conv2"
      return(%d) {{names=[y]}} }}""")
    assert body(module) == [["conv", "add", "min"], ["conv"]]
    assert [s.nodes for s in program.steps] == [("conv", "add", "min"), ("conv2",)]
    assert len(program.kernels) == 2
    assert all(isinstance(s, KernelCall) for s in program.steps)


def test_a_result_with_two_users_is_not_fused_away() -> None:
    module, _ = lowered(f"""graph @g(%x: f32[1,16,8,8]) {{
      %w = const rand 1 : f32[16,16,3,3]
      %a = conv(%x, %w) {CONV}
      %b = relu(%a)
      %c = add(%b, %a)
      return(%c) {{names=[y]}} }}""")
    assert body(module)[0] == ["conv"]


def test_equal_computations_share_one_kernel_whatever_their_names() -> None:
    module, program = lowered(f"""graph @g(%x: f32[1,16,8,8]) {{
      %w = const rand 1 : f32[16,16,3,3]
      %v = const rand 2 : f32[16,16,3,3]
      %a = conv(%x, %w) {CONV} @ "one"
      %b = conv(%a, %v) {CONV} @ "two"
      return(%b) {{names=[y]}} }}""")
    texts = {kernel_text(op) for op in module.main if op.kind.name == "fused"}
    assert len(texts) == 1
    assert len(program.kernels) == 1
    assert len(program.steps) == 2


def test_views_cost_nothing_and_outputs_are_copies_where_they_must_be() -> None:
    _, program = lowered("""graph @g(%x: f32[2,8]) {
      %a = relu(%x)
      %v = reshape(%a) {shape=[16]}
      %b = relu(%v)
      return(%b, %x, %b, %v) {names=[b,x,again,v]} }""")
    copies = [s for s in program.steps if isinstance(s, KernelCall)]
    assert len(copies) == 5  # two relus, and copies of x, b and v
    assert [type(program.buffers[b].place) for b in program.outputs] == [Output] * 4
    assert isinstance(program.buffers[program.inputs[0]].place, Input)


def test_whole_blocks_of_single_pixels_are_views() -> None:
    _, program = lowered("""graph @g(%x: f32[1,32,1,1:aBcd16b], %z: f32[1,20,1,1:aBcd16b]) {
      %a = relu(%x) : f32[1,32,1,1:aBcd16b]
      %d = reorder(%a) : f32[1,32,1,1]
      %f = reshape(%d) {shape=[1,32]}
      %y = softmax(%f)
      %r = reorder(%z) : f32[1,20,1,1]
      return(%y, %r) {names=[y,r]} }""")
    assert [k.family for k in program.kernels] == ["elementwise", "softmax", "elementwise"]


def test_what_has_no_kernel_falls_back_in_few_segments() -> None:
    _, program = lowered("""graph @g(%x: f32[4]) {
      %a = relu(%x) @ "a"
      %n = opaque(%x) {op_type=NonZero} : i64[1,?] @ "n"
      %b = exp(%a) @ "b"
      %m = opaque(%n) {op_type=Foo} : f32[4] @ "m"
      %y = add(%b, %m) @ "y"
      return(%y, %n) {names=[y,n]} }""")
    steps = program.steps
    assert [s.nodes for s in steps] == [("n", "m"), ("a", "b", "y")]
    outside = steps[0]
    assert isinstance(outside, FallbackCall)
    assert outside.nodes == ("n", "m")
    assert dict(outside.reasons).keys() == {"NonZero", "Foo"}
    assert isinstance(program.buffers[program.outputs[1]].place, Dynamic)
    assert isinstance(program.buffers[outside.outputs[1][1]].place, Arena)


def life(nbytes: int, a: int, b: int) -> Lifetime:
    return Lifetime(nbytes, min(a, b), max(a, b))


STEPS = st.integers(0, 12)
LIVES = st.lists(st.builds(life, st.integers(1, 1000), STEPS, STEPS), max_size=25)


@given(LIVES)
def test_buffers_alive_together_never_overlap(lives: list[Lifetime]) -> None:
    offsets, total = plan(lives)
    assert total >= lower_bound(lives)
    for i, (a, at) in enumerate(zip(lives, offsets, strict=True)):
        assert at % 64 == 0
        assert at + a.nbytes <= total
        for b, bt in list(zip(lives, offsets, strict=True))[:i]:
            if a.first <= b.last and b.first <= a.last:
                assert at + a.nbytes <= bt or bt + b.nbytes <= at


def test_a_chain_needs_two_buffers() -> None:
    lives = [Lifetime(6400, i, i + 1) for i in range(50)]
    assert plan(lives)[1] == lower_bound(lives) == 12800


def buffer(program: Program, name: str) -> Buffer:
    """The buffer of a value, by its name."""
    return next(b for b in program.buffers if b.name == name)


JOINED = f"""graph @g(%x: f32[1,16,8,8]) {{
      %w = const rand 1 : f32[16,16,3,3]
      %v = const rand 2 : f32[8,24,3,3]
      %a = conv(%x, %w) {CONV} @ "a"
      %b = max_pool(%x) {{kernel=[3,3],strides=[1,1],pads=[1,1,1,1],dilations=[1,1]}} @ "b"
      %h = slice(%b) {{starts=[0],ends=[8],axes=[1],steps=[1]}} @ "h"
      %c = concat(%a, %h) {{axis=1}} @ "c"
      %d = conv(%c, %v) {CONV} @ "d"
      return(%d) {{names=[y]}} }}"""


def test_the_parts_of_a_concatenation_are_made_in_place() -> None:
    _, program = lowered(JOINED)
    assert [s.nodes for s in program.steps] == [("a",), ("b",), ("h",), ("d",)]
    whole, first, second = (buffer(program, n).place for n in "cah")
    assert isinstance(whole, Arena)
    assert first == whole
    assert second == Arena(whole.offset + 4 * 16 * 64)


def test_a_part_that_the_caller_gets_is_copied() -> None:
    _, program = lowered(JOINED.replace("(%d) {names=[y]}", "(%d, %a) {names=[y,a]}"))
    assert ("c",) in [s.nodes for s in program.steps]


def test_parts_that_end_in_padding_are_copied() -> None:
    _, program = lowered("""graph @g(%x: f32[1,12,8,8:aBcd16b]) {
      %a = relu(%x) : f32[1,12,8,8:aBcd16b] @ "a"
      %b = sigmoid(%x) : f32[1,12,8,8:aBcd16b] @ "b"
      %c = concat(%a, %b) {axis=1} : f32[1,24,8,8:aBcd16b] @ "c"
      %d = reorder(%c) : f32[1,24,8,8] @ "d"
      %e = relu(%c) : f32[1,24,8,8:aBcd16b] @ "e"
      return(%d) {names=[y]} }""")
    assert buffer(program, "c").nbytes == buffer(program, "a").nbytes + buffer(program, "b").nbytes
    assert ("c",) in [s.nodes for s in program.steps]


IMAGES = f"""graph @g(%x: f32[2,16,8,8:aBcd16b]) {{
      %w = const rand 1 : f32[32,16,3,3]
      %v = const rand 2 : f32[16,48,3,3]
      %a = conv(%x, %w) {CONV} : f32[2,32,8,8:aBcd16b] @ "a"
      %b = sigmoid(%x) : f32[2,16,8,8:aBcd16b] @ "b"
      %c = concat(%a, %b) {{axis=1}} : f32[2,48,8,8:aBcd16b] @ "c"
      %d = conv(%c, %v) {CONV} : f32[2,16,8,8:aBcd16b] @ "d"
      return(%d) {{names=[y]}} }}"""


def test_parts_of_several_images_are_made_among_the_others() -> None:
    module, program = lowered(IMAGES)
    assert [s.nodes for s in program.steps] == [("a",), ("b",), ("d",)]
    whole, first, second = (buffer(program, n).place for n in "cab")
    assert isinstance(whole, Arena)
    assert first == whole
    assert second == Arena(whole.offset + 4 * 32 * 64)  # within the first image
    fused = {op.loc.nodes[-1]: op for op in module.main if op.kind.name == "fused"}
    for name, size in (("a", 32), ("b", 16)):
        text = kernel_text(fused[name], Part(1, 48))
        assert "of=48} : f32[2,48,8,8:aBcd16b]\n  return" in text
        assert text in {k.text for k in program.kernels}
        assert f"f32[2,{size},8,8:aBcd16b]" in text
    assert kernel_text(fused["d"]) in {k.text for k in program.kernels}


def test_a_part_of_images_that_something_else_reads_is_copied() -> None:
    more = """%e = relu(%b) : f32[2,16,8,8:aBcd16b] @ "e"
      %f = add(%d, %e) : f32[2,16,8,8:aBcd16b] @ "f"
      return(%f)"""
    _, program = lowered(IMAGES.replace("return(%d)", more))
    assert any("c" in s.nodes for s in program.steps)
    assert not any("part(" in k.text for k in program.kernels)


def test_a_residual_is_written_over_when_nothing_else_reads_it() -> None:
    text = f"""graph @g(%x: f32[1,16,8,8]) {{
      %w = const rand 1 : f32[16,16,3,3]
      %a = conv(%x, %w) {CONV} @ "a"
      %p = conv(%a, %w) {CONV} @ "p"
      %b = conv(%p, %w) {CONV} @ "b"
      %c = add(%b, RESIDUAL) @ "c"
      %d = conv(%c, %w) {CONV} @ "d"
      %e = add(%d, LATER) @ "e"
      return(%e) {{names=[y]}} }}"""
    _, program = lowered(text.replace("RESIDUAL", "%a").replace("LATER", "%x"))
    assert buffer(program, "c").place == buffer(program, "a").place
    for residual, later in (("%a", "%a"), ("%x", "%x")):  # read once more; the caller's memory
        _, program = lowered(text.replace("RESIDUAL", residual).replace("LATER", later))
        assert buffer(program, "c").place != buffer(program, residual[1:]).place


def test_the_operand_of_a_convolution_is_not_written_over() -> None:
    _, program = lowered(f"""graph @g(%x: f32[1,16,8,8]) {{
      %w = const rand 1 : f32[16,16,3,3]
      %a = conv(%x, %w) {CONV} @ "a"
      %b = conv(%a, %w) {CONV} @ "b"
      %c = conv(%b, %w) {CONV} @ "c"
      return(%c) {{names=[y]}} }}""")
    assert buffer(program, "a").place != buffer(program, "b").place


def test_a_reorder_that_moves_nothing_is_a_view() -> None:
    text = """graph @g(%x: f32[2,{c},4,4:aBcd16b]) {{
      %m = reduce_mean(%x) {{axes=[2,3]}} : f32[2,{c},1,1:aBcd16b]
      %d = reorder(%m) : f32[2,{c},1,1]
      %y = sigmoid(%d) @ "y"
      return(%y) {{names=[y]}} }}"""
    _, program = lowered(text.format(c=32))
    assert len(program.steps) == 2
    assert buffer(program, "m").place == buffer(program, "d").place
    _, program = lowered(text.format(c=24))  # whose last block has padding
    assert program.steps[-1].ops == ("reorder", "sigmoid")
