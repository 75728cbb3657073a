"""Normalisations that exporters took apart, and what can be folded into them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.ir.core import Op, Value
from graphopt.ir.data import Data, Splat
from graphopt.ir.types import Array
from graphopt.ops.elementwise import Add, Div, Mul, Pow, Reciprocal, Sqrt, Sub
from graphopt.ops.nn import BatchNorm, InstanceNorm, LayerNorm, RMSNorm
from graphopt.ops.reduce import ReduceMean
from graphopt.passes.fuse.weights import Lazy, per_channel, wide
from graphopt.passes.shapes import rank, same_shape
from graphopt.rewrite import Miss, Rewriter, Rule, const, made_by, only_use, rule, scalar, sides
from graphopt.rewrite import data as constant

Found = tuple[Value, Value, list[Op]]  # numerator, variance + epsilon, the ops between


def _root(value: Value) -> tuple[Value, list[Op]] | None:
    """v and the ops where value is sqrt(v), or v^0.5."""
    root = made_by(value, Sqrt)
    if root:
        return root[0].operand(0), [root[0]]
    power = made_by(value, Pow)
    if power and scalar(power[0].operand(1)) == 0.5:
        return power[0].operand(0), [power[0]]
    return None


def _inverse_root(value: Value) -> tuple[Value, list[Op]] | None:
    """v and the ops where value is 1/sqrt(v), or v^-0.5."""
    power = made_by(value, Pow)
    if power and scalar(power[0].operand(1)) == -0.5:
        return power[0].operand(0), [power[0]]
    inverse = made_by(value, Reciprocal)
    root = _root(inverse[0].operand(0)) if inverse else None
    return (root[0], [*root[1], inverse[0]]) if inverse and root else None


def _over_root(op: Op) -> list[Found]:
    """How the op may be read as n / sqrt(v)."""
    a, b = op.operand(0), op.operand(1)
    if isinstance(op.kind, Div):
        root = _root(b)
        return [(a, *root)] if root else []
    readings = [(n, _inverse_root(r)) for n, r in ((a, b), (b, a))]
    return [(n, *root) for n, root in readings if root]


def _square(value: Value) -> Value | None:
    """X where value is x * x, or x^2."""
    found = made_by(value, Mul)
    if found and found[0].operand(0) is found[0].operand(1):
        return found[0].operand(0)
    power = made_by(value, Pow)
    return power[0].operand(0) if power and scalar(power[0].operand(1)) == 2 else None


def _mean_square(value: Value) -> tuple[Value, ReduceMean, float, list[Op]] | None:
    """n, the mean, epsilon and the ops where value is mean(n^2) + epsilon."""
    added = made_by(value, Add)
    if added is None:
        return None
    for total, c in sides(added[0]):
        epsilon, mean = scalar(c), made_by(total, ReduceMean)
        squared = _square(mean[0].operand(0)) if mean else None
        if epsilon is not None and mean and squared and mean[1].keepdims:
            power = [op for op in (mean[0].operand(0).op,) if op]
            return squared, mean[1], float(epsilon), [*power, mean[0], added[0]]
    return None


def _normalised(rw: Rewriter, op: Op) -> Value | None:
    """n / sqrt(mean(n^2) + eps), as the kind that does it."""
    for n, v, ops in _over_root(op):
        found = _mean_square(v)
        if found is None or found[0] is not n:
            continue
        for inner in reversed((*found[3], *ops)):
            if inner.result.use_count != 1:
                raise Miss(f"the {inner.kind.name} inside has other users")
            rw.absorb(inner)
        centred = _centred(n, found[1].axes)
        if centred is None:
            return _layer(rw, n, found[1].axes, found[2], rms=True)
        for inner in reversed(centred[0]):
            rw.absorb(inner)
        return _over(rw, centred[1], found[1].axes, found[2])
    return None


def _centred(n: Value, axes: tuple[int, ...]) -> tuple[list[Op], Value] | None:
    """The ops and x where n is x - mean(x) over the same axes."""
    found = made_by(n, Sub)
    mean = made_by(found[0].operand(1), ReduceMean) if found else None
    if found is None or mean is None or mean[0].operand(0) is not found[0].operand(0):
        return None
    same = mean[1] == ReduceMean(axes)
    return ([mean[0], found[0]], found[0].operand(0)) if same else None


def _over(rw: Rewriter, x: Value, axes: tuple[int, ...], epsilon: float) -> Value:
    """Layer norm over the last axes, instance norm over all spatial ones."""
    shape, n = x.tensor.shape, rank(x)
    if axes == tuple(range(2, n)) and n > 3 and shape and isinstance(shape[1], int):
        ones, zeros = (rw.const(Splat(x.tensor.dtype, (shape[1],), v)) for v in (1.0, 0.0))
        return rw.make(InstanceNorm(epsilon), x, ones, zeros)
    return _layer(rw, x, axes, epsilon, rms=False)


def _layer(rw: Rewriter, x: Value, axes: tuple[int, ...], epsilon: float, *, rms: bool) -> Value:
    n = rank(x)
    if axes != tuple(range(axes[0], n)):
        raise Miss(f"it normalises over axes {list(axes)}, not the last ones")
    sizes = tuple(d for d in (x.tensor.shape or ())[axes[0] :] if isinstance(d, int))
    if len(sizes) != len(axes):
        raise Miss("the size of a normalised axis isn't known")
    kind = RMSNorm(axes[0] - n, epsilon) if rms else LayerNorm(axes[0] - n, epsilon)
    return rw.make(kind, x, rw.const(Splat(x.tensor.dtype, sizes, 1.0)))


@rule(Div)
def norm(rw: Rewriter, op: Op, kind: Div) -> Value | None:
    """n / sqrt(mean(n^2) + eps) -> rms_norm(n), or layer_norm(x) or instance_norm(x).

    The last two where n = x - mean(x).
    """
    return _normalised(rw, op)


@rule(Mul)
def norm_multiplied(rw: Rewriter, op: Op, kind: Mul) -> Value | None:
    """n * (1 / sqrt(mean(n^2) + eps)) -> rms_norm(n), layer_norm(x) or instance_norm(x)."""
    return _normalised(rw, op)


def _ones(value: Value) -> bool:
    data = const(value)
    return isinstance(data, Splat) and data.value == 1


def _as_parameter(rw: Rewriter, c: Value, like: Value, op: Op, y: Value) -> Value:
    """C in the shape of the parameter `like` of a normalisation of the last axes."""
    if not same_shape(op.result, y):
        raise Miss(f"it broadcasts {y.type} to {op.result.type}")
    if c.type == like.type:
        return c
    data, shape = constant(c), like.tensor.static or ()
    extra = len(data.shape) - len(shape)
    if any(d != 1 for d in data.shape[: max(extra, 0)]):
        raise Miss("the constant varies along an axis that isn't normalised")

    def spread() -> Array:
        return np.broadcast_to(data.numpy().reshape(data.shape[max(extra, 0) :]), shape)

    return rw.computed(data, shape, spread)


@rule(Mul)
def scale_into_layer_norm(rw: Rewriter, op: Op, kind: Mul) -> Value | None:
    """layer_norm(x, 1) * c -> layer_norm(x, c), also rms_norm; c a vector of the last axes."""
    for y, c in sides(op):
        maker = y.op
        if maker is None or not isinstance(maker.kind, LayerNorm | RMSNorm):
            continue
        no_bias = isinstance(maker.kind, RMSNorm) or maker.operands[2] is None
        if not _ones(maker.operand(1)) or not no_bias:
            return None
        only_use(y)
        scale = _as_parameter(rw, c, maker.operand(1), op, y)
        rw.absorb(maker)
        return rw.make(maker.kind, maker.operand(0), scale)
    return None


@rule(Add)
def bias_into_layer_norm(rw: Rewriter, op: Op, kind: Add) -> Value | None:
    """layer_norm(x, s) + c -> layer_norm(x, s, c), c a vector of the last axes."""
    for y, c in sides(op):
        found = made_by(y, LayerNorm)
        if found is None or found[0].operands[2] is not None:
            continue
        only_use(y)
        bias = _as_parameter(rw, c, found[0].operand(1), op, y)
        rw.absorb(found[0])
        return rw.make(found[1], found[0].operand(0), found[0].operand(1), bias)
    return None


Combine = Callable[[Array, Array, Array], tuple[Array, Array]]


def _rescaled(rw: Rewriter, op: Op, combine: Combine) -> Value | None:
    """A batch or instance norm times, or plus, a constant by channel."""
    for y, c in sides(op):
        maker, by = y.op, const(c)
        if maker is None or by is None or not isinstance(maker.kind, BatchNorm | InstanceNorm):
            continue
        only_use(y)
        if not same_shape(op.result, y):
            raise Miss(f"it broadcasts {y.type} to {op.result.type}")
        scale, bias = constant(maker.operand(1)), constant(maker.operand(2))
        k = per_channel(by, y, 1, scale.shape[0])
        rw.absorb(maker)
        new = [_combined(rw, scale, bias, k, combine, i) for i in (0, 1)]
        return rw.make(maker.kind, maker.operand(0), *new, *maker.operands[3:])
    return None


def _combined(rw: Rewriter, scale: Data, bias: Data, k: Lazy, combine: Combine, i: int) -> Value:
    return rw.computed(scale, scale.shape, lambda: combine(wide(scale), wide(bias), k())[i])


@rule(Mul)
def scale_into_norm(rw: Rewriter, op: Op, kind: Mul) -> Value | None:
    """norm(x, s, b) * c -> norm(x, s*c, b*c), of a batch or instance norm, c by channel."""
    return _rescaled(rw, op, lambda s, b, c: (s * c, b * c))


@rule(Add)
def bias_into_norm(rw: Rewriter, op: Op, kind: Add) -> Value | None:
    """norm(x, s, b) + c -> norm(x, s, b+c), of a batch or instance norm, c by channel."""
    return _rescaled(rw, op, lambda s, b, c: (s, b + c))


RULES: tuple[Rule[Any], ...] = (
    norm, norm_multiplied, scale_into_layer_norm, bias_into_layer_norm, scale_into_norm,
    bias_into_norm,
)  # fmt: skip
