"""The float model with quantized layers beside it: what each layer's own rounding does.

A layer of a quantized model gets inputs that earlier layers have already spoilt. Beside the float
model it gets the float model's, quantized as its own input is, so that the difference of its result
from the float layer's is its own doing (teacher forcing). Differences are reduced inside the
module, so that a run gives a few numbers a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.padding import padded
from graphopt.ir.builtin import Const, Opaque, Return
from graphopt.ir.clone import clone_op
from graphopt.ir.core import Graph, Module, Op, OpKind, Value
from graphopt.ir.data import Inline
from graphopt.ir.types import Array, DType
from graphopt.ops.elementwise import Cast, Mul, Sub
from graphopt.ops.movement import Reshape
from graphopt.ops.quant import Calibrated, Dequantize, Quantize
from graphopt.ops.reduce import ReduceSum
from graphopt.passes.quantize.points import source
from graphopt.passes.quantize.recurrent import KINDS, made
from graphopt.pipeline import Activations
from graphopt.rewrite import const

LAYERS = frozenset({"conv", "conv_transpose", "matmul", "gemm"})
Reduce = Callable[["Beside", Value, Value], Sequence[Value]]
"""Makes the values to watch of a float layer's result and of the quantized one's."""


@dataclass(frozen=True)
class Layer:
    """A quantized op, and the name of its result, which the float model's has, too."""

    op: Op
    name: str


def layers(module: Module) -> list[Layer]:
    """The ops of a quantized module that read an integer activation and integer weights."""
    found: list[Layer] = []
    for op in module.main:
        reads = [_dequantized(v) for v in op.operands[:2]]
        if len(reads) == 2 and all(reads) and op.kind.name in LAYERS:
            found.append(Layer(op, op.result.hint))
    return found


def scans(module: Module) -> list[Layer]:
    """The LSTM and GRU layers of a quantized module whose weights are integers."""
    found: list[Layer] = []
    for op in module.main:
        if isinstance(op.kind, Opaque) and op.kind.op_type in KINDS and len(op.operands) > 2:
            w = op.operand(1).op
            if w and isinstance(w.kind, Reshape) and _dequantized(w.operand(0)):
                found.append(Layer(op, made(op).hint))
    return found


def _dequantized(value: Value | None) -> bool:
    return bool(value and value.op and isinstance(value.op.kind, Dequantize))


class Beside:
    """A copy of the float model that grows quantized layers."""

    def __init__(self, before: Module, mask: str | None = None) -> None:
        """For a model.

        Args:
            before: the float model, with or without notes of calibration.
            mask: its input that tells which rows are there (see `graphopt.analysis.padding`).
        """
        self.graph = Graph([a.type for a in before.main.args], before.main.name,
                           [a.hint for a in before.main.args])  # fmt: skip
        self.before = before
        self.mapped = dict(zip(before.main.args, self.graph.args, strict=True))
        ops = (op for op in before.main if not isinstance(op.kind, Calibrated))  # of same names
        self.made = {r.hint: op for op in ops for r in op.results if r.hint}
        for op in before.main:
            if not isinstance(op.kind, Return):
                self.graph.insert(clone_op(op, self.mapped))
        self.mask = next((a for a in self.graph.args if mask and a.hint == mask), None)

    def unpadded(self, value: Value, like: Value) -> Value:
        """A value, or one of the same shape, with zeros in the rows that the mask leaves out."""
        there = self.rows(like)
        return value if there is None else self.add(Mul(), value, there)

    def rows(self, like: Value) -> Value | None:
        """The mask as floats [N,T,1...] for a value; None where it has no padded rows."""
        shape = self.mask.tensor.static if self.mask else None
        if self.mask is None or shape is None or not padded(like, shape):
            return None
        ones = (1,) * ((like.tensor.rank or 0) - 2)
        return self.add(Reshape((*shape, *ones)), self.add(Cast(DType.f32), self.mask))

    def add(self, kind: OpKind, *operands: Value) -> Value:
        """One op more."""
        return self.graph.insert(Op(kind, operands)).result

    def const(self, array: Array) -> Value:
        """A constant."""
        return self.add(Const(Inline(array)))

    def layer(self, layer: Layer) -> tuple[Value, Value] | None:
        """The float layer's result and the quantized one's; None where the names don't meet."""
        twin = self.made.get(layer.name)
        if twin is None or twin.kind != layer.op.kind:
            return None
        operands: list[Value | None] = []
        for v, w in zip(layer.op.operands, twin.operands, strict=False):
            x = self.mapped.get(source(w)) if w else None
            varies = x is not None and w is not None and const(w) is None
            operands.append(self._rounded(v, x) if v and x and varies else v and self._copied(v))
        operands += [v and self._copied(v) for v in layer.op.operands[len(twin.operands) :]]
        made = self.graph.insert(Op(layer.op.kind, operands, [r.type for r in twin.results]))
        at = next(i for i, r in enumerate(twin.results) if r.hint == layer.name)
        return self.mapped[twin.results[at]], made.results[at]

    def _rounded(self, value: Value, x: Value) -> Value:
        """A float value as a layer reads it: in integers, in bfloat16, or as it is."""
        op = value.op
        if op and isinstance(op.kind, Cast) and op.operand(0).tensor.dtype is DType.bf16:
            return self.add(op.kind, self.add(Cast(DType.bf16), x))
        if op is None or not isinstance(op.kind, Dequantize):
            return x
        parameters = [self._copied(v) for v in op.operands[1:] if v]
        dtype = op.operand(0).tensor.dtype
        q = self.add(Quantize(dtype, op.kind.axis), x, *parameters)
        return self.add(op.kind, q, *parameters)

    def _copied(self, value: Value) -> Value:
        """A value that depends on constants alone."""
        if value not in self.mapped:
            assert value.op
            for operand in value.op.operands:
                if operand:
                    self._copied(operand)
            self.graph.insert(clone_op(value.op, self.mapped))
        return self.mapped[value]

    def module(self, values: Sequence[Value]) -> Module:
        """The whole, returning these."""
        names = tuple(f"beside/{i}" for i, _ in enumerate(values))
        self.graph.insert(Op(Return(names), values))
        return Module(self.graph, self.before.name, dict(self.before.opsets))


def watch(
    before: Module,
    found: Sequence[Layer],
    reduce: Reduce,
    samples: Activations,
    runs: int | None = None,
) -> Iterator[tuple[int, Array]]:
    """Run the float model and the layers beside it; give pairs of a layer's index and an array.

    The arrays of a layer come in the order in which `reduce` gives the values, run after run.
    """
    beside = Beside(before, samples.mask)
    owners: list[int] = []
    values: list[Value] = []
    for i, layer in enumerate(found):
        pair = beside.layer(layer)
        if pair is None:
            continue
        made = reduce(beside, *pair)
        owners += [i] * len(made)
        values += made
    module = beside.module(values)
    for at, array in samples.watch(module, values, runs):
        yield owners[at], array


def energies(beside: Beside, wanted: Value, got: Value) -> tuple[Value, Value]:
    """The sums of squares of the float result and of the difference."""
    axes = tuple(range(wanted.tensor.rank or 0))
    both = (beside.unpadded(v, wanted) for v in (wanted, beside.add(Sub(), got, wanted)))
    signal, noise = (beside.add(ReduceSum(axes, False), beside.add(Mul(), v, v)) for v in both)
    return signal, noise


def noise_ratios(
    before: Module, found: Sequence[Layer], samples: Activations, runs: int | None = None
) -> list[float]:
    """The noise-to-signal ratio of each layer's result (nan where it can't be told)."""
    sums = np.zeros((len(found), 2))
    turn = [0] * len(found)
    for i, array in watch(before, found, energies, samples, runs):
        sums[i, turn[i] % 2] += float(np.sum(array))
        turn[i] += 1
    return [
        n / s if s else (math.nan if not t else 0.0) for (s, n), t in zip(sums, turn, strict=True)
    ]
