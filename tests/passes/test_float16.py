"""half{type=f16}: which layers compute in float16, by what price, and what that means."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.analysis.interpret import interpret, random_inputs
from graphopt.errors import InputError, UnsupportedError
from graphopt.ir.builtin import Const
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.ir.types import DType
from graphopt.job import runs
from graphopt.pipeline import Context, PassResult, parse_pipeline
from graphopt.targets.arm import Arm, whole
from graphopt.targets.program import KernelCall
from graphopt.targets.x86 import X86
from graphopt.verify import tolerance

LAYERS = """graph @main(%x: f32[1,32,28,28], %h: f32[64,64]) {
  %w = const rand 1 : f32[32,32,3,3]
  %v = const rand 2 : f32[64,32,1,1]
  %u = const rand 3 : f32[64,96]
  %c = conv(%x, %w) {strides=[2,2],pads=[1,1,1,1],dilations=[1,1]} @ "strided"
  %r = relu(%c) @ "relu"
  %d = conv(%r, %v) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1]} @ "point"
  %e = matmul(%h, %u) @ "product"
  %s = softmax(%e) {axis=1} @ "softmax"
  return(%d, %s) {names=[d, s]}
}"""
ALWAYS = "type=f16,products=true"
FILTERED = """graph @main(%x: f32[1,64,28,28]) {
  %w = const rand 1 : f32[64,64,3,3]
  %c = conv(%x, %w) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "minimal filtering"
  return(%c) {names=[c]}
}"""


def halved(text: str, target: Arm | X86 | None, options: str = "type=f16") -> tuple[Module, PassResult]:
    module = parse(text)
    (half,) = parse_pipeline(f"half{{{options}}}")
    costs = target.costs(1) if target else None
    return module, half.run(module, Context(costs=costs.described() if costs else None))


def computed(module: Module) -> dict[str, DType]:
    return {str(op.loc).strip('"'): op.result.tensor.dtype for op in module.main
            if op.results and not isinstance(op.kind, Const) and op.kind.name != "cast"}  # fmt: skip


@pytest.mark.parametrize("cpu", ["cortex-a55", "cortex-a76", "neoverse-n1", "neoverse-v1"])
def test_layers_compute_in_float16_where_the_machine_does(cpu: str) -> None:
    module, _ = halved(LAYERS, Arm(cpu))
    assert computed(module) == {
        "strided": DType.f16, "relu": DType.f16, "point": DType.f16, "product": DType.f16,
        "softmax": DType.f32,
    }  # fmt: skip
    program = Arm(cpu).lower(module)
    assert all(isinstance(step, KernelCall) for step in program.steps)
    assert {str(w.load().dtype) for w in program.weights if w.nbytes > 1024} == {"float16"}


@pytest.mark.parametrize("target", [Arm("cortex-a53"), Arm("cortex-a72"), X86("avx512")], ids=str)
def test_it_refuses_where_the_machine_does_not(target: Arm | X86) -> None:
    module, result = halved(LAYERS, target)
    assert DType.f16 not in computed(module).values()
    assert len(result.remarks) == 3
    assert all("of the time" in r.text and not r.applied for r in result.remarks)


def test_minimal_filtering_in_float32_takes_fewer_products_still() -> None:
    for text in (FILTERED, FILTERED.replace("pads=[1,1,1,1]", "pads=[0,0,0,0]")):
        module, result = halved(text, Arm("neoverse-n1"))
        assert not result.changed, result.remarks
        assert computed(module) == {"minimal filtering": DType.f32}


def test_a_library_is_refused_by_name_where_nothing_computes_it() -> None:
    module, _ = halved(LAYERS, None, ALWAYS)
    told = "conv of f16 has no kernel: cortex-a72 doesn't compute in float16"
    with pytest.raises(UnsupportedError, match=told):
        whole(Arm("cortex-a72").lower(clone_module(module)), module)


def test_the_exported_model_computes_what_the_graph_says() -> None:
    """ONNX Runtime sums in float32 and rounds results, as numpy's meaning of these ops does."""
    module, _ = halved(LAYERS.replace("softmax(%e) {axis=1}", "relu(%e)"), None, ALWAYS)
    feed = random_inputs(module)
    want, (got,) = interpret(module, feed), runs(module, [feed])
    for name, x in want.items():
        assert got[name].dtype == np.float32
        # a sum in another order may round to a neighbour, then again in the next layer
        assert np.abs(got[name] - x).max() <= 2.0**-9 * np.abs(x).max()
    assert tolerance(module.main).unit == 2.0**-11


def test_without_prices_nothing_is_chosen() -> None:
    module, result = halved(LAYERS, None)
    assert not result.changed
    assert {r.text for r in result.remarks} == {"nothing tells what it costs"}
    assert DType.f16 not in computed(module).values()


@pytest.mark.parametrize("option", ["activations=true", "products=false"])
def test_options_of_bfloat16_alone(option: str) -> None:
    with pytest.raises(InputError, match="half"):
        halved(LAYERS, None, f"type=f16,{option}")
