"""Grouping of ops into kernels."""

from __future__ import annotations

import numpy as np

from graphopt.analysis.interpret import interpret, random_inputs
from graphopt.ir.builtin import Fused
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.ir.verify import verify
from graphopt.passes.group import MOST_MOVES, Group
from graphopt.passes.layout import Layout
from graphopt.pipeline import Context
from graphopt.targets.catalog import KERNELS


def kernels(module: Module) -> list[list[str]]:
    """The op kinds of each kernel, after grouping, verifying and comparing the numbers."""
    before = clone_module(module)
    Group().run(module, Context(catalog=KERNELS))
    verify(module)
    feed = random_inputs(before)
    pairs = zip(interpret(before, feed).values(), interpret(module, feed).values(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    fused = [op for op in module.main if isinstance(op.kind, Fused)]
    return [[o.kind.name for o in op.regions[0] if o.kind.name != "return"] for op in fused]


def test_a_channel_shuffle_is_one_kernel() -> None:
    module = parse("""graph @main(%a: f32[1,4,6,6], %b: f32[1,4,6,6]) {
      %p = reorder(%a) : f32[1,4,6,6:aBcd8b]
      %q = relu(%p) : f32[1,4,6,6:aBcd8b]
      %r = reorder(%q) : f32[1,4,6,6]
      %c = concat(%r, %b) {axis=1}
      %v = reshape(%c) {shape=[1,2,4,6,6]}
      %t = transpose(%v) {perm=[0,2,1,3,4]}
      %w = reshape(%t) {shape=[1,8,6,6]}
      %x, %y = split(%w) {axis=1,sizes=[4,4]}
      %z = relu(%y)
      return(%x, %z)
    }""")
    shuffle = ["reorder", "concat", "reshape", "transpose", "reshape", "split"]
    assert shuffle in kernels(module)


def test_a_channel_shuffle_joins_the_grouped_convolution_it_feeds() -> None:
    module = parse("""graph @main(%x: f32[1,40,6,6]) {
      %w = const rand 1 : f32[40,10,1,1]
      %v = const rand 2 : f32[40,40,1,1]
      %a = conv(%x, %w) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1],group=4}
      %b = reshape(%a) {shape=[1,4,10,6,6]}
      %c = transpose(%b) {perm=[0,2,1,3,4]}
      %d = reshape(%c) {shape=[1,40,6,6]}
      %e = conv(%d, %w) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1],group=4}
      %f = reshape(%e) {shape=[1,4,10,6,6]}
      %g = transpose(%f) {perm=[0,2,1,3,4]}
      %h = reshape(%g) {shape=[1,40,6,6]}
      %i = conv(%h, %v) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]}
      return(%i)
    }""")
    Layout().run(module, Context(catalog=KERNELS, lanes=16))
    shuffle = ["reorder", "reshape", "transpose", "reshape", "reorder"]
    assert kernels(module) == [["reorder"], ["conv"], [*shuffle, "conv"], shuffle, ["conv"], ["reorder"]]


def test_a_value_with_two_users_is_moved_once() -> None:
    module = parse("""graph @main(%a: f32[2,3,4]) {
      %t = transpose(%a) {perm=[0,2,1]}
      %p = pad(%t) {pads=[0,1,0,0,1,0]}
      %s = slice(%t) {starts=[0],ends=[2],axes=[1],steps=[1]}
      return(%p, %s)
    }""")
    assert kernels(module) == [["transpose"], ["pad"], ["slice"]]


def test_a_view_joins_only_between_movements() -> None:
    module = parse("""graph @main(%a: f32[2,3,4]) {
      %v = reshape(%a) {shape=[6,4]}
      %t = transpose(%v) {perm=[1,0]}
      return(%t)
    }""")
    assert kernels(module) == [["transpose"]]


def test_the_number_of_movements_in_a_kernel_is_limited() -> None:
    lines = [f"%t{i + 1} = transpose(%t{i}) {{perm=[1,0]}}" for i in range(MOST_MOVES + 1)]
    text = "\n".join(["graph @main(%t0: f32[2,3]) {", *lines, f"return(%t{MOST_MOVES + 1})", "}"])
    assert max(map(len, kernels(parse(text)))) <= MOST_MOVES


def test_the_residual_of_integers_is_added_in_the_kernel_of_their_sum() -> None:
    module = parse("""graph @main(%x: u8[1,4,4,4], %r: u8[1,4,4,4], %w: i8[4,4,1,1]) {
      %s = const dense [0.5] : f32[]
      %c = conv_integer(%x, %w) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]}
      %q = requantize(%c, %s) {dtype=u8}
      %f = dequantize(%q, %s)
      %g = dequantize(%r, %s)
      %a = add(%f, %g)
      %y = quantize(%a, %s) {dtype=u8}
      return(%y)
    }""")
    one = ["dequantize", "conv_integer", "requantize", "dequantize", "add", "quantize"]
    assert kernels(module) == [one]
