"""recurrent: LSTM and GRU layers as a matrix product over the whole sequence, and a scan.

    Y, Y_h, Y_c = LSTM(X, W, R, B, h, c)   (ONNX, one direction)
    xw = X W^T + (Wb + Rb), of all directions at once;  y, h, c = lstm_scan(xw, R, h, c)

Most of the work is then one large product; the scan's kernel keeps the state in the first cache.
Weights may be integers (`passes/quantize/recurrent.py`): then the product is one of these, which
the pass `integers` sums as such where x is dequantized, too, and the scan scales its sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Op, Value
from graphopt.ir.data import Computed, Data
from graphopt.ir.types import Array, DType
from graphopt.ops.elementwise import Add
from graphopt.ops.linalg import MatMul
from graphopt.ops.movement import Concat, Reshape, Slice, Unsqueeze
from graphopt.ops.quant import Dequantize
from graphopt.ops.recurrent import GRUScan, LSTMScan
from graphopt.passes.halves import Widened, moved
from graphopt.passes.integers.read import quantized
from graphopt.passes.table import RulePass
from graphopt.pipeline import Context, Effect
from graphopt.rewrite import Miss, Rewriter, Rule, made_by
from graphopt.rewrite import data as constant

ACTIVATIONS = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh")}
GATES = {"LSTM": 4, "GRU": 3}


@dataclass(frozen=True)
class Recurrent(RulePass, name="recurrent"):
    """Take LSTM and GRU layers apart into products that the target has kernels for."""

    effect: ClassVar[Effect] = "reassociating"

    def rules(self, ctx: Context) -> Iterable[Rule[Any]]:
        """One rule, which asks the target whether it can compute the scan."""
        return (Rule("recurrent-layer", Opaque, Layers(ctx).take_apart),)


@dataclass(frozen=True)
class Layers:
    """The rule, and what it knows of the target."""

    ctx: Context

    def take_apart(self, rw: Rewriter, op: Op, kind: Opaque) -> tuple[Value, ...] | None:
        """lstm(x, w, r, b, h, c) -> lstm_scan(matmul(x, w') + b', r', h, c), by direction."""
        if kind.domain or kind.op_type not in GATES:
            return None
        if op.graph and op.graph.parent:
            raise Miss("it is in a branch or loop, whose body isn't compiled")
        layer, catalog = _check(op, kind), self.ctx.catalog
        direction = str(kind.attr("direction", "forward"))
        ways = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]
        xw = _product(rw, layer, len(ways))
        scans = [_direction(rw, layer, xw, d, reverse) for d, reverse in enumerate(ways)]
        if catalog and any(catalog.family(scan) is None for scan in scans):
            raise Miss("the target has no kernel for its recurrence")
        return tuple(_stacked(rw, scans, i) for i, _ in enumerate(op.results))


@dataclass(frozen=True)
class Weights:
    """Constant weights [D, GH, K]: floats, or s8 integers with a scale [D, GH]."""

    data: Data
    scale: Array | None = None

    @property
    def wide(self) -> Data:
        """As floats, which integers may be read as; without their scale."""
        return self.data if self.scale is None else Widened(self.data)


def _weights(value: Value | None) -> Weights:
    """Constants, as they are or as `reshape(dequantize(s8))` by row (Miss otherwise)."""
    spread = made_by(value, Reshape)
    found = quantized(spread[0].operand(0)) if spread else None
    if spread is None or found is None:
        return Weights(constant(value))
    data, shape = constant(found.integers), spread[0].result.tensor.static
    if data.dtype is not DType.i8 or found.zero.any() or found.axis != 0 or shape is None:
        raise Miss("its weights are integers, but not s8 by rows without a zero point")
    rows = shape[0] * shape[1]
    integers = Computed(DType.i8, shape, lambda: data.numpy().reshape(shape))
    scale = np.broadcast_to(found.scale.reshape(-1), (rows,))
    return Weights(integers, scale.reshape(shape[:2]))


@dataclass(frozen=True)
class Layer:
    """The operands of a layer: x [T, B, I]; w [D, GH, I], r [D, GH, H], b [D, 2GH] constant."""

    op: Op
    kind: Opaque
    gates: int
    hidden: int

    @property
    def before(self) -> bool:
        """Whether a GRU's reset scales the product of the state, not the state."""
        return bool(self.kind.attr("linear_before_reset", 0))

    def operand(self, index: int) -> Value | None:
        """An operand; None where it is absent."""
        return self.op.operands[index] if index < len(self.op.operands) else None

    def weights(self, index: int) -> Weights:
        """The constant w (1) or r (2)."""
        return _weights(self.operand(index))

    def part(self, index: int, direction: int) -> Array:
        """A constant operand's numbers for one direction."""
        return constant(self.operand(index)).numpy()[direction]


def _check(op: Op, kind: Opaque) -> Layer:
    """The layer, if it is of the usual sort (Miss otherwise)."""
    types = [v.tensor if v else None for v in op.operands]
    x = types[0]
    if x is None or x.static is None or len(x.static) != 3 or x.dtype is not DType.f32:
        raise Miss("its input isn't a float32 tensor of known sizes")
    given: Any = kind.attr("activations") or ()
    names = tuple(str(n).lower() for n in given)
    usual = ACTIVATIONS[kind.op_type]
    if names and names != usual * (len(names) // len(usual)):
        raise Miss(f"its activations are {', '.join(names)}")
    if kind.attr("clip") is not None or kind.attr("layout", 0) or kind.attr("input_forget", 0):
        raise Miss("it clips, couples gates, or has the batch first")
    if any(i < len(op.operands) and op.operands[i] for i in (4, 7)):
        raise Miss("it has lengths of sequences or peepholes")
    weights = _weights(op.operands[1]), _weights(op.operands[2])
    return Layer(op, kind, GATES[kind.op_type], weights[1].data.shape[2])


def _product(rw: Rewriter, layer: Layer, directions: int) -> Value:
    """The input's products and biases of all directions, [T, B, D, G, H]."""
    g, h, every = layer.gates, layer.hidden, range(directions)
    x = layer.op.operand(0)
    width = directions * g * h

    def columns(parts: Sequence[Array]) -> Array:
        return np.ascontiguousarray(np.concatenate([parts[0][d] for d in every]).T)

    given = layer.weights(1)
    weights = rw.const(moved([given.data], (given.data.shape[2], width), columns))
    if given.scale is not None:
        weights = rw.make(Dequantize(1), weights, rw.const(given.scale.reshape(-1)))
    bias = np.concatenate([_biases(layer, d)[0] for d in every])
    product = rw.make(Add(), rw.make(MatMul(), x, weights), rw.const(bias))
    return rw.make(Reshape((*(x.tensor.static or ())[:2], directions, g, h)), product)


def _direction(rw: Rewriter, layer: Layer, xw: Value, d: int, reverse: bool) -> Op:
    """The scan of one direction."""
    g, h = layer.gates, layer.hidden
    given, scale = layer.weights(2), None
    of = lambda parts: parts[0][d].reshape(g, h, h)  # noqa: E731
    hidden = rw.const(moved([given.wide], (g, h, h), of))
    if given.scale is not None:
        scale = rw.const(np.ascontiguousarray(given.scale[d].reshape(g, h)))
    start = [_state(rw, layer.operand(i), d) for i in (5, 6)]
    if layer.kind.op_type == "LSTM":
        return rw.op(LSTMScan(reverse, d), xw, hidden, *start, *([scale] if scale else []))
    inside = rw.const(_biases(layer, d)[1]) if layer.before and layer.operand(3) else None
    last = [scale] if scale else []
    return rw.op(GRUScan(reverse, d, layer.before), xw, hidden, inside, start[0], *last)


def _biases(layer: Layer, d: int) -> tuple[Array, Array]:
    """What is added to the product [GH], and inside the reset of a GRU [H]."""
    g, h = layer.gates, layer.hidden
    if layer.operand(3) is None:
        return np.zeros(g * h, np.float32), np.zeros(h, np.float32)
    both = layer.part(3, d).reshape(2, g * h)
    inside = both[1, 2 * h :] if g == GATES["GRU"] else np.zeros(0, np.float32)
    total = both[0] + both[1]
    if layer.before:
        total[2 * h :] = both[0, 2 * h :]
    return total, inside


def _state(rw: Rewriter, given: Value | None, d: int) -> Value | None:
    """A direction's part [B, H] of an initial state [D, B, H]."""
    if given is None:
        return None
    sizes = given.tensor.static
    if sizes is None:
        raise Miss("the sizes of its initial state aren't known")
    one = given if sizes[0] == 1 else rw.make(Slice((d,), (d + 1,), (0,), (1,)), given)
    return rw.make(Reshape(sizes[1:]), one)


def _stacked(rw: Rewriter, scans: list[Op], index: int) -> Value:
    """Result `index` of all directions: y as [T, D, B, H], states as [D, B, H]."""
    axis = 1 if index == 0 else 0
    parts = [rw.make(Unsqueeze((axis,)), scan.results[index]) for scan in scans]
    return parts[0] if len(parts) == 1 else rw.make(Concat(axis), *parts)
