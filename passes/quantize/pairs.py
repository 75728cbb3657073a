"""The quantized weights of a module, each beside the float weight that it stands for."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.builtin import Const
from graphopt.ir.core import Loc, Module, Op, Value
from graphopt.ir.data import Data, Inline
from graphopt.ir.types import Array, DType
from graphopt.ops.quant import Dequantize, Quantize
from graphopt.passes.quantize.points import weighted
from graphopt.passes.quantize.swap import swap
from graphopt.passes.quantize.weights import channel_axis
from graphopt.pipeline import Context, PassResult
from graphopt.rewrite import Remark, const


@dataclass(frozen=True)
class Pair:
    """An op that reads a quantized weight, and the op of the float model that it was.

    `scale`: of the weight, float32 [M]. `reads`: the `dequantize` of its other operand; None where
    that stays float.
    """

    op: Op
    twin: Op
    scale: Array
    reads: Op | None

    @property
    def integers(self) -> Array:
        """The weight's integers, s8."""
        return _data(_maker(self.op.operand(1)).operand(0)).numpy()

    @property
    def weight(self) -> Array:
        """The float weight that they stand for."""
        return _data(self.twin.operand(1)).numpy()

    def rounded(self, x: Array) -> Array:
        """dequantize(quantize(x)) as the op reads it (float32)."""
        if self.reads is None:
            return x
        given = [_data(v).numpy() for v in self.reads.operands[1:] if v]
        (q,) = Quantize(self.reads.operand(0).tensor.dtype).evaluate(x, *given)
        return Dequantize().evaluate(q, *given)[0]

    def replace(self, integers: Array) -> None:
        """Give the op other integers of the same shape."""
        made, graph = _maker(self.op.operand(1)), self.op.graph
        assert graph
        old = made.operand(0)
        stored = Op(Const(Inline(integers)), loc=self.op.loc, hints=[old.hint])
        swap(made, 0, graph.insert(stored, made).result)


def pairs(module: Module, ctx: Context) -> list[Pair]:
    """The layers of the main graph with quantized weights, in order.

    An op's twin is that of `ctx.unquantized` whose result has the same name, since equal names mean
    equal numbers; an op without a twin is left out.
    """
    ops = [op for op in module.main if weighted(op) and _symmetric(op)]
    if ctx.unquantized is None:
        return []
    twins = {op.result.hint: op for op in ctx.unquantized.main if weighted(op)}
    found: list[Pair] = []
    for op in ops:
        twin = twins.get(op.result.hint) if op.result.hint else None
        if twin is None or twin.kind != op.kind or const(twin.operand(1)) is None:
            continue
        if _data(twin.operand(1)).shape == op.operand(1).tensor.shape:
            scale = _data(_maker(op.operand(1)).operand(1)).numpy().reshape(-1)
            found.append(Pair(op, twin, scale, _dequantize(op.operand(0))))
    return found


def _symmetric(op: Op) -> bool:
    """Whether an op's weight is dequantized from s8 by output channel, without a zero point."""
    made = _dequantize(op.operand(1))
    data = const(made.operand(0)) if made else None
    if made is None or data is None or data.dtype is not DType.i8:
        return False
    zero = const(made.operands[2])
    along = made.kind.axis % len(data.shape) if isinstance(made.kind, Dequantize) else 0
    return (zero is None or not zero.numpy().any()) and (
        along == channel_axis(op) or _data(made.operand(1)).numpy().size == 1
    )


def _dequantize(value: Value) -> Op | None:
    """The op that makes floats of a value's integers."""
    made = value.op
    if made is None or not isinstance(made.kind, Dequantize) or const(made.operand(1)) is None:
        return None
    return made


def _maker(value: Value) -> Op:
    assert value.op
    return value.op


def _data(value: Value) -> Data:
    data = const(value)
    assert data is not None
    return data


def nothing(who: str) -> PassResult:
    """What a pass that repairs quantized layers gives where there are none.

    No error: a model may have none that can be quantized, and a limit may take all of them back.
    """
    told = f"nothing is quantized; `{who}` goes after `quantize`"
    return PassResult(False, (Remark(who, Loc(), False, told),))
