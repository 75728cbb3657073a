"""phased: a transposed convolution of bfloat16 as one convolution that makes all its phases.

    conv_transpose(x, w, b) -> spread(conv(x, w', b'))

(see `graphopt.passes.integers.transposed`). For targets that multiply bfloat16 by a matrix unit,
which has no kernel of its own for it: products are those of a convolution of stride 1. What follows
element by element, as far as a rounding of the result, is computed before the phases are spread, so
that half the bytes move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.ir.builtin import Const
from graphopt.ir.core import Module, Op, OpKind, Value
from graphopt.ir.data import Computed, Data
from graphopt.ir.types import DType
from graphopt.ops.elementwise import Cast, Elementwise
from graphopt.ops.nn import Conv, ConvTranspose
from graphopt.ops.unary import is_half
from graphopt.passes.halves import Widened, moved
from graphopt.passes.integers.transposed import Phases, phases, spread
from graphopt.pipeline import Context, Effect, Pass, PassResult
from graphopt.rewrite import Remark


@dataclass(frozen=True)
class Phased(Pass, name="phased"):
    """Compute all phases of a transposed convolution of bfloat16 by one convolution.

    Weights are the float32 constants that `widen-constants` makes.
    """

    effect: ClassVar[Effect] = "reassociating"

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Rewrite the layers of the main graph whose operand and weights are bfloat16."""
        remarks: list[Remark] = []
        for op in list(module.main):
            made = _phases(op)
            if made is None or not ctx.permit("phased", op.loc):
                continue
            remarks.append(Remark("phased", op.loc, True, f"{made.count} phases"))
            _Layer(op, made).rewrite()
        return PassResult(bool(remarks), tuple(remarks))


def _phases(op: Op) -> Phases | None:
    """How a layer is made of phases; None where it isn't of bfloat16, or has constant sizes."""
    if not isinstance(op.kind, ConvTranspose) or op.kind.group != 1 or not is_half(op.operand(0)):
        return None
    x, w, b = op.operand(0).tensor.static, _constant(op.operand(1)), op.operands[2]
    if x is None or len(x) != 4 or not isinstance(w, Widened) or w.half.dtype is not DType.bf16:
        return None
    if b and not _constant(b):
        return None
    return phases(op.kind, tuple(w.shape[2:]))


def _constant(value: Value) -> Data | None:
    op = value.op
    return op.kind.data if op and isinstance(op.kind, Const) else None


class _Layer:
    """A transposed convolution and what is computed of its result, element by element."""

    def __init__(self, op: Op, made: Phases) -> None:
        self.op, self.made = op, made
        self.after = list(_after(op))
        self.last = self.after[-1] if self.after else op

    def rewrite(self) -> None:
        """Put the convolution, the ops after it and the spreading in its place."""
        op, w, b = self.op, _constant(self.op.operand(1)), self.op.operands[2]
        assert w is not None and op.graph
        shape = self.made.shape(tuple(w.shape))
        parts = [self.const(moved([w], shape, lambda a: self.made.weights(a[0])))]
        line = _constant(b) if b else None
        if line is not None:
            size = self.made.count * line.shape[0]
            parts.append(self.const(Computed(
                line.dtype, (size,), lambda: self.made.channels(line.numpy()))))  # fmt: skip
        ones = (1,) * len(self.made.taps)
        y = self.make(Conv(ones, self.made.pads, ones, 1), op.operand(0), *parts)
        for inner in self.after:
            y = self.make(inner.kind, y)
        result = self.last.result
        size = result.tensor.static
        assert size is not None
        result.replace_all_uses_with(spread(self.make, self.made, y, size))
        for old in reversed([op, *self.after]):
            op.graph.erase(old)

    def const(self, data: Data) -> Value:
        """A constant."""
        return self.make(Const(data))

    def make(self, kind: OpKind, *operands: Value | None) -> Value:
        """An op before the last of the old ones."""
        graph = self.last.graph
        assert graph
        return graph.insert(Op(kind, operands, loc=self.op.loc), self.last).result


def _after(op: Op) -> list[Op]:
    """The ops of one operand that alone read the result, one after another, to its rounding."""
    found: list[Op] = []
    value = op.result
    while value.use_count == 1:
        user = value.uses[0].op
        kind: Any = user.kind
        if not isinstance(kind, Elementwise) or sum(v is not None for v in user.operands) != 1:
            break
        found.append(user)
        if isinstance(kind, Cast):
            return found if kind.to is DType.bf16 else []
        value = user.result
    return []
