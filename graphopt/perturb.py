"""Copies of a module whose roundings fall another way: what rounding does to its outputs."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from graphopt.ir.builtin import Const, Opaque
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Graph, Module, Op, OpKind, Value
from graphopt.ir.data import Computed, Data, Inline, size
from graphopt.ir.types import Array, DType
from graphopt.ops.elementwise import Add, Cast, Mul
from graphopt.ops.movement import Reshape
from graphopt.ops.quant import DynamicQuantize, Quantize

HALF_STEP = 2.0**-8  # of a number, to the next one in bfloat16 (between that and half of it)


def quantizes(graph: Graph) -> bool:
    """Whether a graph rounds values to few bits as it runs."""
    return any(_rounds(op) for op in graph.walk())


def _rounds(op: Op) -> bool:
    if isinstance(op.kind, DynamicQuantize):
        return True
    if not isinstance(op.kind, Quantize) and not _is_half(op):
        return False
    maker = op.operand(0).op
    return not (maker and isinstance(maker.kind, Const))


def _is_half(op: Op) -> bool:
    """Whether an op rounds float32 to bfloat16."""
    return isinstance(op.kind, Cast) and op.kind.to is DType.bf16 and (
        op.operand(0).tensor.dtype is DType.f32)  # fmt: skip


def perturbed(module: Module, rng: np.random.Generator) -> Module:
    """A copy whose float constants are off by one rounding each, once they are asked for."""
    copy = clone_module(module)
    for op in copy.main.walk():
        if isinstance(op.kind, Const) and _is_weight(op.kind.data):
            op.kind = Const(_noisy(op.kind.data, int(cast("Any", rng.integers(2**32)))))
    return copy


def redrawn(module: Module, rng: np.random.Generator) -> Module:
    """A copy that rounds to few bits as if by chance: quantize(x + r scale), |r| <= 1/2 at random.

    That is what is left of the original's roundings where nothing of them is left: each result is
    one of the two integers next to x / scale, or the one beyond for an x just past the middle.
    """
    copy = perturbed(module, rng)
    for op in [op for op in copy.main.walk() if _rounds(op)]:
        last = _apart(op) if isinstance(op.kind, DynamicQuantize) else op
        _shake(last, int(cast("Any", rng.integers(2**24))), copy.opsets.get("", 1))
    return copy


def _apart(op: Op) -> Op:
    """Quantize by what `dynamic_quantize` finds in an op of its own."""
    assert op.graph
    y, scale, zero = op.results
    new = Op(Quantize(y.tensor.dtype), [op.operand(0), scale, zero])
    y.replace_all_uses_with(new.result)
    return op.graph.insert(new, before=op.next)


def _shake(op: Op, seed: int, version: int) -> None:
    """Move what an op rounds by up to half a step: for bfloat16 about 2^-8 of each number."""
    assert op.graph
    x = op.operand(0)
    attrs = (("high", 0.5), ("low", -0.5), ("seed", float(seed)))
    noise = Op(Opaque("RandomUniformLike", version=version, attrs=attrs), [x], [x.type])
    made = [noise]

    def add(kind: OpKind, *operands: Value) -> Value:
        made.append(Op(kind, operands))
        return made[-1].result

    if isinstance(op.kind, Cast):
        scale = add(Mul(), x, add(Const(Inline(np.asarray(HALF_STEP, np.float32)))))
    else:
        scale = op.operand(1)
    if isinstance(op.kind, Quantize) and scale.tensor.rank == 1 and x.tensor.rank:
        tail = (1,) * (x.tensor.rank - 1 - op.kind.axis % x.tensor.rank)
        scale = add(Reshape((-1, *tail)), scale)
    moved = add(Add(), x, add(Mul(), noise.result, scale))
    for new in made:
        op.graph.insert(new, before=op)
    op.set_operand(0, moved)


def _is_weight(data: Data) -> bool:
    """Floats, and more than one: a single one may be an exponent, say, that has to be exact."""
    return data.dtype.numpy.kind == "f" and size(data) > 1


def _noisy(data: Data, seed: int) -> Data:
    compute = lambda: shaken(data.numpy(), np.random.default_rng(seed))  # noqa: E731
    return Computed(data.dtype, data.shape, compute)


def shaken(value: Any, rng: np.random.Generator) -> Any:
    """Floats multiplied by 1 + r u, r = 1 or -1 at random, u their unit of rounding."""
    if not isinstance(value, np.ndarray) or cast("Array", value).dtype.kind != "f":
        return cast("Any", value)
    array = cast("Array", value)
    signs: Array = 2.0 * rng.integers(0, 2, array.shape, np.int8) - 1
    return np.asarray(array * (1 + signs * np.finfo(array.dtype).eps), array.dtype)
