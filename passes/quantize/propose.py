"""What `quantize` could do to each layer: its gain on the target, and the error that it makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace

from graphopt.analysis.cost import macs
from graphopt.analysis.price import Costs, graph_of, graph_with
from graphopt.choices import Choice
from graphopt.errors import InputError
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Module, Op, OpKind
from graphopt.ir.types import DType, TensorType
from graphopt.ops.linalg import Gemm
from graphopt.ops.nn import Conv
from graphopt.ops.quant import ConvInteger, MatMulInteger
from graphopt.passes.quantize.beside import layers, noise_ratios
from graphopt.passes.quantize.points import candidates
from graphopt.pipeline import Context
from graphopt.spec import nearest

Insert = Callable[[Module, Collection[str]], None]
"""Quantizes layers, each named by its place among the candidates."""

RUNS = 16  # samples that tell a layer's error well enough to rank it


def proposals(
    module: Module, ctx: Context, insert: Insert, skip: tuple[str, ...], activations: bool
) -> list[Choice]:
    """One choice for each layer that could be quantized, in the order of the graph.

    Args:
        module: calibrated, not yet quantized.
        ctx: for samples and prices.
        insert: quantizes layers.
        skip: parts of names of ONNX nodes that stay float.
        activations: whether these become integers, too.

    Raises:
        InputError: `skip` names nothing.
    """
    ops = candidates(module.main)
    _check_skip(skip, ops)
    errors = _errors(module, ctx, insert) if activations else [math.nan] * len(ops)
    found: list[Choice] = []
    for i, (op, error) in enumerate(zip(ops, errors, strict=True)):
        gain, unit = _gain(op, ctx.costs if activations else None)
        one = Choice(str(i), op.loc, "in int8", gain, error, unit)
        if any(part in node for part in skip for node in op.loc.nodes):
            one = replace(one, refused="skipped, as asked")
        elif not ctx.permit("quantize", op.loc):
            one = replace(one, refused="not permitted")
        found.append(one)
    return found


def _check_skip(skip: tuple[str, ...], ops: list[Op]) -> None:
    names = [n for op in ops for n in op.loc.nodes]
    for part in skip:
        if not any(part in n for n in names):
            raise InputError(f"skip: no layer's name has {part!r} in it{nearest(part, names)}")


def _errors(module: Module, ctx: Context, insert: Insert) -> list[float]:
    """The noise-to-signal ratio of each layer, on a few samples; nan where nobody can tell."""
    ops = candidates(module.main)
    if ctx.samples is None:
        return [math.nan] * len(ops)
    copy = clone_module(module)
    insert(copy, {str(i) for i in range(len(ops))})
    found = layers(copy)
    ratios = noise_ratios(module, found, ctx.samples, RUNS)
    by_name = {layer.name: ratio for layer, ratio in zip(found, ratios, strict=True)}
    return [by_name.get(op.result.hint, math.nan) for op in ops]


def _gain(op: Op, costs: Costs | None) -> tuple[float, str]:
    """Seconds saved a run on the target; where nobody can tell, multiply-adds done in integers."""
    made = integer_form(op)
    if costs is None or made is None:
        return float(max(macs(op), 1)), "MACs"
    kind, types = made
    before = costs.price(graph_of([op])).seconds
    return before - costs.price(graph_with(kind, types, [1])).seconds, "s"


def integer_form(op: Op) -> tuple[OpKind, list[TensorType | None]] | None:
    """The integer op in an op's place, and its operands' types; None where sizes are unknown."""
    x, w = (op.operand(i).tensor for i in (0, 1))
    if x.static is None or w.static is None:
        return None
    match op.kind:
        case Conv() as k:
            kind: OpKind = ConvInteger(k.strides, k.pads, k.dilations, k.group)
        case Gemm(trans_b=True):
            kind, w = MatMulInteger(), TensorType(w.dtype, w.static[::-1])
        case _:
            kind = MatMulInteger()
    return kind, [TensorType(DType.u8, x.shape), TensorType(DType.i8, w.shape)]
