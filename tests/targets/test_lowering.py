# pyright: basic
# TVM ships no types.
"""What the lowered code of kernels must have and must not have, whatever the numbers are."""

from __future__ import annotations

import graphopt.ops
from graphopt.ir.parser import parse
from graphopt.targets import machine
from graphopt.targets.tvm import build

assert graphopt.ops
M = machine.load("avx512")


def conv(ins: int, outs: int, size: int) -> str:
    t = f"f32[1,{outs},{size},{size}:aBcd16b]"
    return f"""graph @k(%x: f32[1,{ins},{size},{size}:aBcd16b],
                        %w: f32[{outs},{ins},1,1:ABcd16b16a]) {{
      %y = conv(%x, %w) {{strides=[1,1],pads=[0,0,0,0],dilations=[1,1]}} : {t}
      return(%y) }}"""


def llvm(text: str) -> str:
    """The LLVM IR of a region's kernel."""
    graph = parse(text).main
    module = build.compile_module({"k": build.primfunc(graph, M, "k")}, M)
    return module.inspect_source("ll")


def test_register_tiles_need_no_memory() -> None:
    """28 accumulators of 64 bytes are more than TVM would leave on the stack."""
    text = llvm(conv(64, 64, 14))
    assert "AllocWorkspace" not in text.partition("define")[2]
    assert "memset" not in text


def test_weights_are_fetched_ahead_where_they_outweigh_the_image() -> None:
    assert "call void @llvm.prefetch" in llvm(conv(256, 256, 7))
    assert "call void @llvm.prefetch" not in llvm(conv(16, 16, 56))
