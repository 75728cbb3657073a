"""The layout pass: where blocks begin and end, and that the numbers stay the same."""

from __future__ import annotations

import numpy as np

from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.ir.verify import verify
from graphopt.passes.group import is_constant
from graphopt.passes.layout import Layout, assign_layouts
from graphopt.pipeline import Context
from graphopt.targets.catalog import KERNELS

CONV = "{strides=[1,1],pads=[1,1,1,1],dilations=[1,1]}"
ONE = "{strides=[1,1],pads=[0,0,0,0],dilations=[1,1]}"


def laid_out(text: str, lanes: int = 16) -> dict[str, str]:
    """The layout of each named value, after the pass and the verifier."""
    module = parse(text)
    assign_layouts(module.main, lanes)
    verify(module)
    made = [op for op in module.main if op.kind.name != "reorder"]
    return {r.hint: r.tensor.layout for op in made for r in op.results}


def count(module: Module, name: str) -> int:
    return sum(op.kind.name == name for op in module.main)


def test_a_network_stays_in_blocks() -> None:
    tags = laid_out(f"""graph @main(%x: f32[1,3,32,32]) {{
      %w = const rand 1 : f32[32,3,3,3]
      %c = conv(%x, %w) {CONV}
      %r = relu(%c)
      %p = max_pool(%r) {{kernel=[2,2],strides=[2,2],pads=[0,0,0,0],dilations=[1,1]}}
      %v = const rand 2 : f32[64,32,1,1]
      %d = conv(%p, %v) {ONE}
      %s = const rand 3 : f32[64,1,1]
      %e = mul(%d, %s)
      %f = add(%e, %d)
      %m = reduce_mean(%f) {{axes=[2,3]}}
      %q = reshape(%m) {{shape=[1,64]}}
      %u = const rand 4 : f32[64,10]
      %y = matmul(%q, %u)
      return(%y)
    }}""")
    assert all(tags[n] == "aBcd16b" for n in "crpdef")
    assert all(tags[n] == "" for n in "mqysw")


def test_response_normalisation_stays_in_blocks() -> None:
    tags = laid_out(f"""graph @main(%x: f32[1,3,8,8]) {{
      %w = const rand 1 : f32[20,3,3,3]
      %c = conv(%x, %w) {CONV}
      %l = lrn(%c) {{size=5}}
      %v = const rand 2 : f32[20,20,1,1]
      %d = conv(%l, %v) {ONE}
      return(%d)
    }}""")
    assert {tags[n] for n in "cld"} == {"aBcd16b"}


def test_few_channels_that_nothing_wants_in_blocks_are_written_dense() -> None:
    text = """graph @main(%x: f32[1,32,8,8]) {{
      %w = const rand 1 : f32[3,32,1,1]
      %b = const rand 2 : f32[3]
      %c = conv(%x, %w, %b) {one}
      %s = sigmoid(%c)
      {last}
    }}"""
    tags = laid_out(text.format(one=ONE, last="return(%s)"))
    assert (tags["c"], tags["s"]) == ("", "")
    pool = "{kernel=[2,2],strides=[2,2],pads=[0,0,0,0],dilations=[1,1]}"
    tags = laid_out(text.format(one=ONE, last=f"%p = max_pool(%s) {pool}\n return(%p)"))
    assert (tags["c"], tags["s"], tags["p"]) == ("aBcd16b", "aBcd16b", "")  # it writes either


def test_a_global_pool_that_drops_its_axes_reads_blocks() -> None:
    module = parse(f"""graph @main(%x: f32[1,32,8,8]) {{
      %w = const rand 1 : f32[32,32,3,3]
      %c = conv(%x, %w) {CONV}
      %m = reduce_mean(%c) {{axes=[2,3],keepdims=false}}
      return(%m)
    }}""")
    ops = {op.kind.name: op for op in module.main}
    assign_layouts(module.main, 16)
    verify(module)
    assert ops["reduce_mean"].operand(0).tensor.layout == "aBcd16b"
    assert ops["reduce_mean"].result.tensor.layout == ""


def test_weights_are_packed_by_reorders_of_constants() -> None:
    module = parse(f"""graph @main(%x: f32[1,20,8,8]) {{
      %w = const rand 1 : f32[24,20,3,3]
      %b = const rand 2 : f32[24]
      %c = conv(%x, %w, %b) {CONV}
      return(%c)
    }}""")
    assert Layout().run(module, Context(lanes=16)).changed
    verify(module)
    (conv,) = [op for op in module.main if op.kind.name == "conv"]
    assert [v.tensor.layout for v in conv.operands if v] == ["aBcd16b", "ABcd16b16a", "A16a"]
    assert module.main.outputs[0].tensor.layout == ""
    assert count(module, "reorder") == 4


def test_a_reorder_serves_every_user() -> None:
    module = parse(f"""graph @main(%x: f32[1,16,8,8]) {{
      %w = const rand 1 : f32[16,16,3,3]
      %c = conv(%x, %w) {CONV}
      %a = transpose(%c) {{perm=[0,2,3,1]}}
      %b = transpose(%c) {{perm=[0,3,2,1]}}
      return(%a, %b, %c)
    }}""")
    assign_layouts(module.main, 16)
    verify(module)
    assert count(module, "reorder") == 3  # of x, of w, of c once


def test_without_a_target_or_convolutions_nothing_changes() -> None:
    text = "graph @main(%x: f32[1,16,8,8]) { %y = relu(%x)\n return(%y) }"
    assert not Layout().run(parse(text), Context()).changed
    assert not Layout().run(parse(text), Context(lanes=16)).changed


def test_what_no_kernel_computes_is_dense() -> None:
    module = parse(f"""graph @main(%x: f32[1,16,8,8]) {{
      %w = const rand 1 : f32[16,16,3,3]
      %c = conv(%x, %w) {CONV}
      %r = relu(%c)
      return(%r)
    }}""")
    assign_layouts(module.main, 16, lambda op: op.kind.name != "relu")
    verify(module)
    (relu,) = [op for op in module.main if op.kind.name == "relu"]
    assert relu.operand(0).tensor.layout == relu.result.tensor.layout == ""


def test_groups_stay_in_blocks_unless_most_products_would_be_wasted() -> None:
    tags = laid_out("""graph @main(%x: f32[1,40,6,6]) {
      %w = const rand 1 : f32[40,10,1,1]
      %v = const rand 2 : f32[80,1,1,1]
      %c = conv(%x, %w) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1],group=4}
      %d = conv(%c, %v) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1],group=40}
      return(%d)
    }""")
    assert (tags["c"], tags["d"]) == ("aBcd16b", "")


def test_symbolic_sizes_stay_dense() -> None:
    tags = laid_out(f"""graph @main(%x: f32[N,16,8,8]) {{
      %w = const rand 1 : f32[16,16,3,3]
      %c = conv(%x, %w) {CONV}
      return(%c)
    }}""")
    assert tags["c"] == ""


def test_partial_blocks_of_broadcast_operands_are_padded() -> None:
    module = parse(f"""graph @main(%x: f32[1,16,8,8], %k: f32[20,1,1], %g: f32[1,20,1,1]) {{
      %w = const rand 1 : f32[20,16,3,3]
      %c = conv(%x, %w) {CONV}
      %m = mul(%c, %k)
      %n = add(%m, %g)
      return(%n)
    }}""")
    assign_layouts(module.main, 8)
    verify(module)
    mul, add = (next(op for op in module.main if op.kind.name == n) for n in ("mul", "add"))
    assert mul.result.tensor.layout == add.result.tensor.layout == "aBcd8b"
    assert mul.operand(1).tensor.layout == "Abc8a"
    assert add.operand(1).tensor.layout == "aBcd8b"


def test_numbers_are_the_same() -> None:
    from tests.kernelcheck import evaluate

    text = f"""graph @main(%x: f32[1,20,8,8]) {{
      %w = const rand 1 : f32[24,20,3,3]
      %c = conv(%x, %w) {CONV}
      %y = sigmoid(%c)
      return(%y)
    }}"""
    before, after = parse(text).main, parse(text).main
    assign_layouts(after, 16)
    x = np.random.default_rng(0).standard_normal((1, 20, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(evaluate(before, [x])[0], evaluate(after, [x])[0])


def test_numbers_stored_as_bfloat16_stay_in_blocks() -> None:
    module = parse(f"""graph @main(%x: f32[1,3,8,8]) {{
      %w = const rand 1 : f32[20,3,3,3]
      %v = const rand 2 : f32[20,20,3,3]
      %c = conv(%x, %w) {CONV}
      %h = cast(%c) {{to=bf16}}
      %f = cast(%h) {{to=f32}}
      %y = conv(%f, %v) {CONV}
      return(%y)
    }}""")
    assign_layouts(module.main, 16, lambda op: KERNELS.family(op) is not None)
    verify(module)
    reorders = [op for op in module.main if op.kind.name == "reorder" and not is_constant(op.result)]
    assert [op.operand(0).hint for op in reorders] == ["y"]
