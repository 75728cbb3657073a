"""What `quantize` could do to each layer: its gain on the target, and the error that it makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from graphopt.analysis.cost import macs
from graphopt.analysis.price import Costs, graph_of, graph_with
from graphopt.choices import Choice
from graphopt.errors import InputError
from graphopt.ir.builtin import Const
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Graph, Module, Op, OpKind, Value
from graphopt.ir.data import Inline
from graphopt.ir.types import DType, TensorType
from graphopt.ops.linalg import Gemm
from graphopt.ops.nn import Conv, ConvTranspose
from graphopt.ops.quant import ConvInteger, MatMulInteger, Requantize
from graphopt.passes.integers.transposed import Phases, phases, spread
from graphopt.passes.layers.names import offered
from graphopt.passes.layers.sensitivity import sensitivities
from graphopt.passes.quantize import bfloat, recurrent, tables
from graphopt.passes.quantize.beside import Layer, noise_ratios
from graphopt.passes.quantize.points import candidates
from graphopt.pipeline import Activations, Context
from graphopt.rewrite import const

INT8 = "in int8"
Insert = Callable[[Module, Sequence[Choice]], None]
"""Makes choices: `Choice.layer` is a place among candidates, tables, and then recurrent layers."""

RUNS = 16  # samples that tell a layer's error well enough to rank it


def proposals(
    module: Module, ctx: Context, insert: Insert, skip: tuple[str, ...], activations: bool,
    fallback: bool, scans: str = "f32",
) -> list[Choice]:  # fmt: skip
    """What could be done to each layer, in the order of the graph: int8, and else bfloat16.

    Then to tables that are gathered from, and to LSTM and GRU layers: int8.

    Args:
        module: calibrated, not yet quantized.
        ctx: for samples and prices.
        insert: makes choices.
        skip: parts of names of ONNX nodes that stay float.
        activations: whether these become integers, too.
        fallback: whether bfloat16 is proposed.
        scans: what is proposed for LSTM and GRU layers: f32 (nothing), weights or product.

    Raises:
        InputError: `skip` names nothing.
    """
    ops, rows = candidates(module.main), tables.tables(module.main)
    _check_skip(skip, [*ops, *rows, *recurrent.recurrents(module.main)])
    costs = ctx.costs.described() if activations and ctx.costs else None
    offers = [[(INT8, *_gain(op, costs)) for op in ops]]
    if fallback and costs:
        offers.append([(*bfloat.offer(op, costs), "s") for op in ops])
    made = [
        [Choice(str(i), ops[i].loc, what, gain, math.nan, unit)
         for i, (what, gain, unit) in enumerate(one)] for one in offers
    ]  # fmt: skip
    if activations and ctx.samples:
        made = [_measured(module, ctx, insert, one) for one in made]
        if ctx.max_drop is not None:
            made = _weighed(module, ops, made, ctx.samples)
    found = [choice for one in zip(*made, strict=True) for choice in one]
    found += [Choice(str(len(ops) + i), op.loc, tables.WHAT, tables.saved(op), tables.error(op),
                     "bytes") for i, op in enumerate(rows)]  # fmt: skip
    if scans != "f32":
        found += _recurrent(module, ctx, insert, scans == "product", len(ops) + len(rows))
    return [_refused(choice, skip, ctx) for choice in found]


def _refused(choice: Choice, skip: tuple[str, ...], ctx: Context) -> Choice:
    """What the user doesn't want."""
    if any(part in node for part in skip for node in choice.loc.nodes):
        return replace(choice, refused="skipped, as asked")
    if not ctx.permit("quantize", choice.loc):
        return replace(choice, refused="not permitted")
    return choice


def _check_skip(skip: tuple[str, ...], ops: list[Op]) -> None:
    names = [n for op in ops for n in op.loc.nodes]
    for part in skip:
        if not any(part in n for n in names):
            raise InputError(f"skip: no layer's name has {part!r} in it{offered(part, names)}")


def _weighed(
    module: Module, ops: Sequence[Op], made: Sequence[Sequence[Choice]], samples: Activations
) -> list[list[Choice]]:
    """Errors times what of them arrives at the outputs, so that layers can be compared.

    For a limit alone: without one their order changes nothing.
    """
    by = sensitivities(module, [op.result for op in ops], samples)
    return [[replace(c, error=c.error * s) for c, s in zip(one, by, strict=True)] for one in made]


def _measured(
    module: Module, ctx: Context, insert: Insert, choices: Sequence[Choice]
) -> list[Choice]:
    """With the noise-to-signal ratio of each layer's result on a few samples."""
    assert ctx.samples
    copy = clone_module(module)
    ops = candidates(copy.main)
    able = [c for c in choices if c.gain > 0]
    insert(copy, able)
    changed = [c for c in able if const(ops[int(c.layer)].operand(1)) is None]
    found = [Layer(ops[int(c.layer)], ops[int(c.layer)].result.hint) for c in changed]
    ratios = noise_ratios(module, found, ctx.samples, RUNS) if found else []
    errors = dict(zip(changed, ratios, strict=True))
    return [replace(c, error=errors.get(c, math.nan)) for c in choices]


def _recurrent(
    module: Module, ctx: Context, insert: Insert, product: bool, first: int
) -> list[Choice]:
    """What could be done to LSTM and GRU layers; `first` is the number of the first of them."""
    scans, costs = recurrent.recurrents(module.main), ctx.costs and ctx.costs.described()
    offers = [recurrent.offer(op, costs, product) for op in scans]
    found = [
        Choice(str(first + i), op.loc, what, gain, recurrent.error(op), unit)
        for i, (op, (what, gain, unit)) in enumerate(zip(scans, offers, strict=True))
    ]
    if ctx.samples is None or not found:
        return found
    copy = clone_module(module)
    twins = recurrent.recurrents(copy.main)
    insert(copy, found)
    layers = [Layer(op, recurrent.made(op).hint) for op in twins]
    ratios = noise_ratios(module, layers, ctx.samples, RUNS)
    return [c if math.isnan(r) else replace(c, error=r) for c, r in zip(found, ratios, strict=True)]


def _gain(op: Op, costs: Costs | None) -> tuple[float, str]:
    """Seconds saved a run on the target; where nobody can tell, multiply-adds done in integers."""
    made = integer_form(op)
    if costs is None or made is None:
        return float(max(macs(op), 1)), "MACs"
    before = costs.price(graph_of([op])).seconds
    return before - costs.price(made).seconds, "s"


def integer_form(op: Op) -> Graph | None:
    """What an op becomes in integers, as a graph to be priced; None where sizes are unknown."""
    x, w = (op.operand(i).tensor for i in (0, 1))
    if x.static is None or w.static is None:
        return None
    types = [TensorType(DType.u8, x.shape), TensorType(DType.i8, w.shape)]
    match op.kind:
        case Conv() as k:
            kind: OpKind = ConvInteger(k.strides, k.pads, k.dilations, k.group)
        case ConvTranspose() as k:
            found = phases(k, w.static[2:])
            assert found  # or it was no candidate
            types[1] = TensorType(DType.i8, found.shape(w.static))
            return _spread(op, found, graph_with(found.convolution(), types, [1]))
        case Gemm(trans_b=True):
            kind, types[1] = MatMulInteger(), TensorType(DType.i8, w.static[::-1])
        case _:
            kind = MatMulInteger()
    return graph_with(kind, types, [1])


def _spread(op: Op, found: Phases, graph: Graph) -> Graph:
    """With the requantization after the sums, and the phases put between each other."""
    end, (sums,), shape = graph.last, graph.outputs, op.result.tensor.static
    assert end and shape

    def make(kind: OpKind, *operands: Value) -> Value:
        return graph.insert(Op(kind, operands), end).result

    requantized = make(Requantize(DType.u8), sums, make(Const(Inline(np.ones((), np.float32)))))
    end.set_operand(0, spread(make, found, requantized, shape))
    return graph
