"""Squeeze and excitation (arXiv 1709.01507), taken apart by exporters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.ir.core import Op, OpKind, Value
from graphopt.ir.data import Data, size
from graphopt.ir.types import Array
from graphopt.ops.elementwise import (
    Add,
    Cast,
    Clip,
    HardSigmoid,
    Identity,
    Predicate,
    Sigmoid,
    Unary,
)
from graphopt.ops.excite import SqueezeExcite
from graphopt.ops.linalg import Gemm, MatMul
from graphopt.ops.movement import Reshape, Squeeze, Transpose, Unsqueeze
from graphopt.ops.nn import AvgPool, Conv
from graphopt.ops.reduce import ReduceMean
from graphopt.passes.fuse.weights import Linear, linear, wide
from graphopt.passes.shapes import view
from graphopt.rewrite import Miss, Rewriter, Rule, const, rule, sides

VIEWS = (Reshape, Squeeze, Unsqueeze, Transpose)
PRODUCTS = (Conv, Gemm, MatMul)


def width(value: Value) -> int | None:
    """The numbers a sample, where all of them lie along one axis; None for any other value."""
    shape = value.tensor.shape
    if shape is None or len(shape) < 2:
        return None
    sizes = [d for d in shape[1:] if d != 1] or [1]
    return sizes[0] if len(sizes) == 1 and isinstance(sizes[0], int) else None


@dataclass
class Walk:
    """A walk upwards from a gate, along values with `width` numbers a sample and nothing else.

    `at` is where it has come to, `ops` are the ops it has passed.
    """

    at: Value
    width: int
    ops: list[Op] = field(default_factory=list[Op])

    def up(self, op: Op, to: Value) -> None:
        """Pass an op, to one of its operands."""
        self.ops.append(op)
        self.at = to

    def views(self) -> None:
        """Pass ops that only give the numbers another shape."""
        while (op := self.at.op) and isinstance(op.kind, VIEWS):
            if width(op.operand(0)) != self.width:
                return
            self.up(op, op.operand(0))


@dataclass(frozen=True)
class Layer:
    """A product with weights, and a shift by channel after it that has stayed an op."""

    product: Linear
    shift: Data | None

    def weights(self, rw: Rewriter, rank: int) -> Value:
        """The weights of a 1x1 convolution of tensors of a rank, [outputs, inputs, 1...]."""
        p, kind = self.product, self.product.op.kind
        shape = (p.outputs, p.inputs, *(1,) * (rank - 2))
        alpha = kind.alpha if isinstance(kind, Gemm) else 1.0
        turned = isinstance(kind, MatMul) or (isinstance(kind, Gemm) and not kind.trans_b)
        if p.w.shape == shape:
            return p.op.operand(1)

        def numbers() -> Array:
            return alpha * (wide(p.w).T if turned else wide(p.w)).reshape(shape)

        found = rw.computed(p.w, shape, numbers)
        found.hint = p.op.operand(1).hint
        return found

    def bias(self, rw: Rewriter) -> Value | None:
        """The bias, [outputs]; None where there is none."""
        p, shift = self.product, self.shift
        if p.b is None and shift is None:
            return None
        beta = p.op.kind.beta if isinstance(p.op.kind, Gemm) else 1.0
        if p.b is not None and shift is None and beta == 1 and p.b.shape == (p.outputs,):
            return p.op.operands[2]
        added = np.zeros(1) if shift is None else wide(shift)
        return rw.computed(p.w, (p.outputs,), lambda: p.bias() + added.reshape(-1))


def _layer(walk: Walk) -> Layer | None:
    """Pass a layer: a convolution, gemm or matmul that takes all the numbers, and gives all."""
    walk.views()
    shift = _shift(walk)
    op = walk.at.op
    if op is None or not isinstance(op.kind, PRODUCTS):
        return None
    inputs = width(op.operand(0))
    if inputs is None or not _plain(op):
        return None
    found = linear(walk.at)
    shape = op.operand(0).tensor.shape or ()
    if found is None or shape[found.axis] != inputs or found.inputs != inputs:
        return None
    walk.up(op, found.x)
    walk.width = inputs
    return Layer(found, shift)


def _shift(walk: Walk) -> Data | None:
    """Pass the addition of a constant by channel."""
    op = walk.at.op
    if op is None or not isinstance(op.kind, Add):
        return None
    for x, c in sides(op):
        data = const(c)
        if data is None or width(x) != walk.width or size(data) not in (1, walk.width):
            continue
        if len(data.shape) < len(x.tensor.shape or ()) or data.shape[:1] == (1,):
            walk.up(op, x)
            return data
    return None


def _plain(op: Op) -> bool:
    """Whether every output sees every input once, and nothing else."""
    match op.kind:
        case Conv(group=group, pads=pads):
            kernel = (op.operand(1).tensor.shape or (0, 0, 0))[2:]
            return group == 1 and not any(pads) and all(k == 1 for k in kernel)
        case Gemm(trans_a=turned):
            return not turned
        case _:
            return op.operand(1).tensor.rank == 2


def _activation(walk: Walk) -> OpKind | None:
    """Pass the function between the layers."""
    walk.views()
    op = walk.at.op
    if op is None or not isinstance(op.kind, Unary) or isinstance(op.kind, NO_ACTIVATIONS):
        return None
    walk.up(op, op.operand(0))
    return op.kind


NO_ACTIVATIONS = (Cast, Identity, Predicate)


def _mean(walk: Walk) -> Value | None:
    """Pass the mean over all spatial axes; gives x, [N, C, spatial...]."""
    walk.views()
    op = walk.at.op
    if op is None or not isinstance(op.kind, ReduceMean | AvgPool):
        return None
    x = op.operand(0)
    shape: tuple[Any, ...] = x.tensor.shape or ()
    if len(shape) < 3 or shape[1] != walk.width:
        return None
    match op.kind:
        case ReduceMean(axes=axes):
            whole = axes == tuple(range(2, len(shape)))
        case AvgPool(kernel=kernel, pads=pads):
            whole = kernel == shape[2:] and not any(pads)
    walk.up(op, x)
    return x if whole else None


def _gates(value: Value, x: Value) -> bool:
    """Whether a value has the form of a gate of x, [N, C, 1...]."""
    shape, like = value.tensor.shape, x.tensor.shape
    if shape is None or like is None:
        return False
    return shape[1:] == (like[1], *(1,) * (len(like) - 2))


def _check(op: Op, x: Value, walk: Walk) -> None:
    """Decline what would leave an op behind."""
    for inner in walk.ops:
        if inner.result.use_count != 1:
            raise Miss(f"the {inner.kind.name} inside has other users")
    if _gates(op.result, x):
        return
    users = [u.op for u in op.result.uses]
    if not all(isinstance(u.kind, VIEWS) and _gates(u.result, x) for u in users):
        raise Miss(f"its result is used as {op.result.type}")


@rule(Unary)
def squeeze_excite(rw: Rewriter, op: Op, kind: Unary) -> Value | None:
    """g(w2 a(w1 mean(x) + b1) + b2) -> squeeze_excite(x, w1, w2, b1, b2), g a gate.

    The products are 1x1 convolutions, or of matrices; what only changes shapes is in between.
    """
    channels = width(op.operand(0)) if isinstance(kind, Sigmoid | HardSigmoid | Clip) else None
    if channels is None or (isinstance(kind, Clip) and kind != Clip(0.0, 1.0)):
        return None
    walk = Walk(op.operand(0), channels)
    last = _layer(walk)
    function = _activation(walk) if last else None
    first = _layer(walk) if function else None
    x = _mean(walk) if first else None
    if x is None or first is None or last is None or walk.width != channels:
        return None
    _check(op, x, walk)
    for inner in walk.ops:
        rw.absorb(inner)
    layers, rank = (first, last), len(x.tensor.shape or ())
    weights = [layer.weights(rw, rank) for layer in layers]
    biases = [layer.bias(rw) for layer in layers]
    gate = rw.make(SqueezeExcite(str(function), str(kind)), x, *weights, *biases)
    return gate if _gates(op.result, x) else view(rw, gate, op.result.tensor.shape)


RULES: tuple[Rule[Any], ...] = (squeeze_excite,)
