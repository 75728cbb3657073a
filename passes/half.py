"""half: numbers of 16 bits, bfloat16 or float16, where that is faster or smaller.

bfloat16 is what numbers are stored as; they are computed with in float32:

    f(x, w) -> f(x, widen(w')), w' the bfloat16 numbers nearest to w

bfloat16 is the upper half of float32: the same range, and 8 bits of precision instead of 24. What
it means is in the graph: constants of type bf16, and casts. Products and sums stay in float32, so
results are those of the rounded numbers, and nothing that is numerically delicate (softmax, norms,
sums, exponentials) is touched; nor are inputs and outputs. A target whose kernels read bfloat16
reads half the bytes (`graphopt.passes.halves`), which pays where those are waited for: weights that
few rows are multiplied by. The file is half as large everywhere.

float16 is computed in, by targets that do so faster (`graphopt.passes.float16`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from graphopt.errors import InputError
from graphopt.ir.builtin import Const, Fused, Opaque, Return
from graphopt.ir.core import Graph, Module, Op, Use, Value
from graphopt.ir.data import Computed, Data, Inline, nbytes, size
from graphopt.ir.types import Array, DType, TensorType
from graphopt.ops.elementwise import Cast, Elementwise
from graphopt.ops.movement import Reshape, Squeeze, Transpose, Unsqueeze
from graphopt.passes.float16 import compute_in_float16
from graphopt.passes.operands import ERROR, round_operands
from graphopt.pipeline import Ahead, Context, Effect, Pass, PassResult
from graphopt.rewrite import Remark

WEIGHTS = {  # the operands that are weights, of kinds and of ONNX ops that we don't model
    "conv": (1,), "conv_transpose": (1,), "matmul": (0, 1), "gemm": (0, 1), "gather": (0,),
    "squeeze_excite": (1, 2), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2),
}  # fmt: skip
MOVES = (Reshape, Squeeze, Unsqueeze, Transpose)
VECTORS = {"max_pool", "avg_pool", "reduce_mean", "layer_norm", "instance_norm", "batch_norm"}
SMALL = 4096  # bytes of a constant that is rounded at once, not when its numbers are wanted


@dataclass(frozen=True)
class Half(Pass, name="half"):
    """Store weights, and activations if asked, as bfloat16; or compute layers in float16 (f16).

    `smallest` is the least number of elements that is worth it; of activations, 16 times as many.
    `products` rounds what rounded weights are multiplied by, too, where the target multiplies
    bfloat16 faster (AMX, Zen 4), layer by layer, by its prices; true: of every layer. Sums are
    float32's. With f16 it is `products=true` that takes every layer, whatever its price.
    """

    effect: ClassVar[Effect] = "lossy"
    type: Literal["bf16", "f16"] = "bf16"
    activations: bool = False
    products: bool | None = None
    smallest: int = 1024

    def check(self, ahead: Ahead) -> None:
        """Raise InputError for an option that float16 has no use for (see `Pass.check`)."""
        if self.type == "f16" and (self.activations or self.products is False):
            raise InputError("half{type=f16} computes in float16: it takes neither "
                             "activations=true nor products=false")  # fmt: skip

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Round every weight of every graph, then the activations of the main one.

        Raises:
            InputError: an option that float16 has no use for.
        """
        self.check(Ahead(module, ctx))
        if self.type == "f16":
            found = tuple(compute_in_float16(module, ctx, always=bool(self.products)))
            return PassResult(any(r.applied for r in found), found)
        remarks = list(_weights(module.main, self.smallest, ctx))
        if self.activations:

            def reads(op: Op) -> bool:
                return _is_activation(op, 16 * self.smallest)

            remarks += _activations(module.main, reads, ctx)
        if self.products is not False:
            remarks += round_operands(module.main, ctx, store, always=bool(self.products))
        return PassResult(any(r.applied for r in remarks), tuple(remarks))


def nearest(numbers: Array) -> Array:
    """The nearest bfloat16 numbers (of two, the even one); finite ones stay finite."""
    halves = DType.bf16.numpy
    largest = np.frombuffer(b"\x7f\x7f", halves)[0].astype(np.float32)
    with np.errstate(all="ignore"):
        rounded = numbers.astype(halves)
        over = np.isinf(rounded) & np.isfinite(numbers)
        if over.any():
            rounded[over] = np.copysign(largest, numbers[over]).astype(halves)
    return rounded


def _weights(graph: Graph, smallest: int, ctx: Context) -> Iterator[Remark]:
    """f(x, w) -> f(x, cast(w')), w' nearest to w in bfloat16."""
    for op in [op for op in graph.walk() if isinstance(op.kind, Const)]:
        assert isinstance(op.kind, Const)
        data = op.kind.data
        if data.dtype is not DType.f32 or size(data) < smallest:
            continue
        uses = [use for use in op.result.uses if _is_weight(use)]
        if not uses:
            continue
        users = uses[0].op.loc
        if not ctx.permit("half-weights", users):
            continue
        wide = store(op, data)
        for use in uses:
            use.op.set_operand(use.index, wide)
        if not op.result.uses and op.graph:
            op.graph.erase(op)
        told = f"{_shape(data)}: {nbytes(data)} bytes to {nbytes(data) // 2}, {ERROR}"
        yield Remark("half-weights", users, True, told)


def _is_weight(use: Use) -> bool:
    """Whether a constant is used as a weight."""
    kind = use.op.kind
    name = kind.op_type if isinstance(kind, Opaque) and not kind.domain else kind.name
    return use.index in WEIGHTS.get(name, ())


def store(op: Op, data: Data) -> Value:
    """The constant rounded, and as float32 again, right after the constant."""
    graph = op.graph
    assert graph
    rounded: Data = Computed(DType.bf16, tuple(data.shape), lambda: nearest(data.numpy()))
    if nbytes(data) <= SMALL:
        rounded = Inline(rounded.numpy())
    half = Op(Const(rounded), [], [TensorType(DType.bf16, tuple(data.shape))], loc=op.loc,
              hints=[op.result.hint])  # fmt: skip
    graph.insert(half, before=op.next)
    cast = Op(Cast(DType.f32), [half.result], loc=op.loc, hints=[f"{op.result.hint}_wide"])
    graph.insert(cast, before=half.next)
    return cast.result


def _shape(data: Data) -> str:
    return "x".join(map(str, data.shape))


def _activations(graph: Graph, wanted: Callable[[Op], bool], ctx: Context) -> Iterator[Remark]:
    """y = f(x) -> y = widen(round(f(x))), where y goes from one kernel to another."""
    for op in list(graph):
        if not wanted(op) or not ctx.permit("half-activations", op.loc):
            continue
        uses = [use for use in op.result.uses if not isinstance(use.op.kind, Return)]
        down = Op(Cast(DType.bf16), [op.result], loc=op.loc, hints=[f"{op.result.hint}_half"])
        graph.insert(down, before=op.next)
        up = Op(Cast(DType.f32), [down.result], loc=op.loc, hints=[op.result.hint])
        graph.insert(up, before=down.next)
        for use in uses:
            use.op.set_operand(use.index, up.result)
        yield Remark("half-activations", op.loc, True, f"{op.result.type}, {ERROR}")


def _is_activation(op: Op, smallest: int) -> bool:
    """Whether a result is large, and is read by kernels of their own, in vectors alone.

    A product reads its left side one number at a time, and would have to convert each.
    """
    if isinstance(op.kind, (Const, Fused, Return, Cast, Opaque, *MOVES)) or len(op.results) != 1:
        return False
    t: Any = op.result.type
    if not isinstance(t, TensorType) or t.dtype is not DType.f32 or (t.size or 0) < smallest:
        return False
    users = [use.op for use in op.result.uses]
    if any(isinstance(u.kind, Return | Opaque) or u.graph is not op.graph for u in users):
        return False
    if len(users) == 1 and isinstance(users[0].kind, Elementwise):
        return False  # it is computed with that
    return bool(users) and all(isinstance(u.kind, Elementwise) or _by_vectors(u) for u in users)


def _by_vectors(op: Op) -> bool:
    """Whether an op that isn't element-wise reads vectors of its operand: depthwise ones, pools."""
    kind: Any = op.kind
    if kind.name == "conv":
        return kind.group > 1 and kind.group == (op.operand(1).tensor.static or (0,))[0]
    return kind.name in VECTORS
