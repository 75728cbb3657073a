"""quantize: put `quantize` and `dequantize` around what will be computed in integers.

    conv(calibrated(x), w, b) -> conv(dequantize(quantize(x)), dequantize(w'), dequantize(b'))

That is QDQ, as ONNX tools write it; the target's pass `integers` computes it in integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from graphopt.choices import Choice, settle
from graphopt.errors import InputError
from graphopt.ir.builtin import Const
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Graph, Loc, Module, Op, OpKind, Value
from graphopt.ir.data import Computed, Data, Inline
from graphopt.ir.types import Array, DType
from graphopt.ops.quant import Calibrated, Dequantize, Quantize, limits
from graphopt.passes.layers.names import check_skip
from graphopt.passes.quantize import bfloat, recurrent, tables
from graphopt.passes.quantize.calibrate import Calibrate, erase_notes, notes
from graphopt.passes.quantize.lint import note
from graphopt.passes.quantize.points import Points, candidates, points, reads_integers, source
from graphopt.passes.quantize.propose import INT8, proposals
from graphopt.passes.quantize.swap import swap
from graphopt.passes.quantize.weights import TINY, bias_integers, channel_axis, grid, least_scales
from graphopt.pipeline import Ahead, Context, Effect, Pass, PassResult
from graphopt.rewrite import const

TYPES = {"u8": DType.u8, "s8": DType.i8}


@dataclass(frozen=True)
class QuantizePass(Pass, name="quantize"):
    """Quantize what `calibrate` noted, and the weights that meet it.

    `weights`: a scale for each output channel, or one. `activations`: u8, s8, or f32 (weights
    only, no samples needed). `scheme`: asymmetric (a zero point) or symmetric activations. `bits`
    of weights: 8; 7 can't saturate on CPUs without VNNI. Large tables that are gathered from become
    bytes, too, with a scale for each row. `recurrent`: what becomes of LSTM and GRU layers: their
    weights are bytes, or the input's product is summed in integers besides, where that is faster
    (product); auto: f32, but weights with activations=f32. `skip`: parts of the names of ONNX nodes
    to leave in floats. `fallback`: what else is proposed for a layer where the target gains by it.
    `residual`: how many operands of a residual addition are integers: one, the other being the sum
    that it is fused to; or both (ask `calibrate` for them, too), which ONNX Runtime wants.
    """

    effect: ClassVar[Effect] = "lossy"
    weights: Literal["per_channel", "per_tensor"] = "per_channel"
    activations: Literal["u8", "s8", "f32"] = "u8"
    scheme: Literal["asymmetric", "symmetric"] = "asymmetric"
    bits: int = 8
    skip: tuple[str, ...] = ()
    fallback: Literal["bf16", "f32"] = "bf16"
    residual: Literal["one", "both"] = "one"
    recurrent: Literal["auto", "f32", "weights", "product"] = "auto"

    def check(self, ahead: Ahead) -> None:
        """Raise InputError for what can't be done (see `Pass.check`)."""
        if not 2 <= self.bits <= 8:
            raise InputError(f"bits={self.bits} isn't between 2 and 8")
        graph, activations = ahead.module.main, self.activations != "f32"
        noted = any(isinstance(p, Calibrate) for p in ahead.earlier) or notes(graph)
        if activations and not noted and points(graph).groups:
            raise InputError("nothing is calibrated; put `calibrate` before `quantize`")
        if self.scans() == "product" and not activations:
            raise InputError("recurrent=product needs activations=u8 or s8")
        check_skip(ahead.module, self.skip)

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Rewrite the main graph.

        Raises:
            InputError: nothing was calibrated, or an option out of its range.
        """
        self.check(Ahead(module, ctx))
        ctx.floats = ctx.floats or clone_module(module)
        activations, scans = self.activations != "f32", self.scans()
        left = recurrent.left(module.main) if scans == "f32" else ()
        choices = proposals(module, ctx, self.insert, self.skip, activations,
                            self.fallback == "bf16", scans)  # fmt: skip
        if not choices:
            return PassResult(False, notes=left)
        settled = settle(module, choices, self.insert, ctx)
        warnings = note(module) if self.bits > 7 and self.activations == "u8" else ()
        return PassResult(bool(settled.kept), settled.remarks(), settled,
                          (*settled.notes(), *left, *warnings))  # fmt: skip

    def scans(self) -> Literal["f32", "weights", "product"]:
        """What becomes of LSTM and GRU layers."""
        if self.recurrent != "auto":
            return self.recurrent
        return "weights" if self.activations == "f32" else "f32"

    def insert(self, module: Module, choices: Sequence[Choice]) -> None:
        """Make choices, each named by its place among the layers, tables and recurrent layers."""
        graph, ops = module.main, candidates(module.main)
        rows, scans = tables.tables(graph), recurrent.recurrents(graph)
        every = [*ops, *rows, *scans]
        made = {every[int(c.layer)]: c.rewrite for c in choices}
        tables.lower(graph, [op for op in rows if op in made])
        layers = {op: made[op] for op in ops if op in made}
        chosen = {op for op, rewrite in layers.items() if rewrite == INT8}
        if self.activations == "f32":
            erase_notes(graph)
            for op in (op for op in graph if op in chosen):
                _quantize_weight(self, graph, op)
        else:
            floats = [op for op in ops if op not in chosen]
            floats += [op for op in scans if made.get(op) != recurrent.PRODUCT]
            Inserter(self, graph, points(graph, floats, self.residual == "both")).run()
            halves = {op: None for op in layers if op not in chosen}
            bfloat.lower(halves, [op for op in halves if layers[op] == bfloat.PRODUCTS])
        for op in (op for op in scans if op in made):
            recurrent.lower(op, self.bits, self.weights == "per_channel")

    def parameters(self, low: float, high: float) -> tuple[Array, Array]:
        """The scale and the zero point for a range that includes 0."""
        dtype = TYPES[self.activations]
        least, most = limits(dtype)
        if self.scheme == "symmetric":
            reach = max(-low, high)
            steps = most if least < 0 else (most if low == 0 else most - most // 2 - 1)
            zero = 0 if least < 0 or low == 0 else most // 2 + 1
            scale = np.array(max(reach / steps, TINY), np.float32)
            return scale, np.array(zero, dtype.numpy)
        scale = np.array(max((high - low) / (most - least), TINY), np.float32)
        zero = np.clip(np.rint(-low / scale) + least, least, most)
        return scale, np.array(zero, dtype.numpy)


@dataclass
class Inserter:
    """Makes integers of each noted value, and of the weights of the ops that read them."""

    options: QuantizePass
    graph: Graph
    found: Points

    def run(self) -> None:
        """Values first, then weights and biases, whose scales depend on those."""
        ranges = {value: op.kind for value, op in notes(self.graph).items()}
        erase_notes(self.graph)
        for value in self.found.groups:
            note = ranges.get(value)
            if isinstance(note, Calibrated):
                self._value(value, note)
        for op in filter(self.found.sums, candidates(self.graph)):
            if _scale_of(op.operand(0)) is not None:
                self._weight(op)

    def _value(self, value: Value, note: Calibrated) -> None:
        """Let the users that read integers read dequantize(quantize(value))."""
        users = [u for u in value.uses if reads_integers(self.found, u)]
        if not users:
            return
        before = value.op.next if value.op else self.graph.first
        loc = value.op.loc if value.op else users[0].op.loc
        scale, zero = self.options.parameters(note.low, note.high)
        make = _Maker(self.graph, before, loc)
        operands = [make.const(scale), make.const(zero)]
        q = make(Quantize(TYPES[self.options.activations]), value, *operands)
        x = make(Dequantize(), q, *operands)
        for use in users:
            use.op.set_operand(use.index, x)

    def _weight(self, op: Op) -> None:
        x_scale = _scale_of(op.operand(0))
        bias = const(op.operands[2]) if len(op.operands) > 2 else None
        least = None
        if bias is not None and x_scale is not None and len(bias.shape) == 1:
            least = least_scales(bias.numpy(), x_scale)
        scale = _quantize_weight(self.options, self.graph, op, least)
        if bias is None or x_scale is None:
            return
        unit = (x_scale.reshape(()) * scale).astype(np.float32)
        whole = bias_integers(bias.numpy(), unit) if bias.shape == unit.shape else None
        if whole is None:
            return
        make = _Maker(self.graph, op, op.loc)
        stored = make.data(Inline(whole))
        swap(op, 2, make(Dequantize(0), stored, make.const(unit)))


def _quantize_weight(
    options: QuantizePass, graph: Graph, op: Op, least: Array | None = None
) -> Array:
    """Let an op read its weight through integers; give the scales (float32 [M]).

    None is below `least`.
    """
    w, per_channel = const(op.operand(1)), options.weights == "per_channel"
    assert w is not None
    g = grid(op, w, per_channel, options.bits, 0.0 if least is None else least)
    make = _Maker(graph, op, op.loc)
    stored = make.data(Computed(DType.i8, w.shape, lambda: g.nearest(w.numpy())))
    zero = np.zeros(len(g.scale), np.int8)
    parameters = [make.const(g.scale), make.const(zero)]
    swap(op, 1, make(Dequantize(channel_axis(op)), stored, *parameters))
    return g.scale


def _scale_of(value: Value) -> Array | None:
    """The scale of a dequantized activation; None for floats."""
    op = source(value).op
    if op is None or not isinstance(op.kind, Dequantize):
        return None
    data = const(op.operand(1))
    return data.numpy() if data else None


@dataclass(frozen=True)
class _Maker:
    """Inserts ops before a place."""

    graph: Graph
    before: Op | None
    loc: Loc

    def __call__(self, kind: OpKind, *operands: Value) -> Value:
        return self.graph.insert(Op(kind, operands, loc=self.loc), self.before).result

    def const(self, array: Array) -> Value:
        return self.data(Inline(array))

    def data(self, data: Data) -> Value:
        return self(Const(data))
