"""What BatchNorm tells of values without data: their mean and variance, by channel.

A BatchNorm in inference makes values of mean beta and standard deviation |gamma| of what it was
trained on. Taken as normal, what an activation function makes of them has a mean and a variance by
formula (Nagel et al. 2019, Data-Free Quantization, arXiv 1906.04721, section 4.2.1 and appendix C).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.core import Graph, Op, Value
from graphopt.ir.types import Array
from graphopt.lazy import Lazy
from graphopt.ops.elementwise import Add, Clip, Identity, Relu, Unary
from graphopt.ops.movement import Concat, Reshape, Squeeze
from graphopt.ops.nn import AvgPool, BatchNorm
from graphopt.ops.reduce import ReduceMean
from graphopt.rewrite.match import const

_special: Any = Lazy("scipy.special")
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(96)  # of a standard normal, up to a factor


@dataclass(frozen=True)
class Moments:
    """The mean and the variance of each channel (axis 1), float64 [C].

    `normal`: whether it may be taken as normal, so that functions of it have moments, too.
    """

    mean: Array
    variance: Array
    normal: bool = True


def moments(graph: Graph) -> dict[str, Moments]:
    """Those of the named values that follow from a BatchNorm."""
    found: dict[Value, Moments] = {}
    for op in graph:
        made = _made(op, found) if op.results else None
        if made is not None:
            found[op.results[0]] = made
    return {value.hint: made for value, made in found.items() if value.hint}


def _made(op: Op, found: Mapping[Value, Moments]) -> Moments | None:
    given = [found.get(v) if v else None for v in op.operands]
    match op.kind:
        case BatchNorm():
            scale, bias = (const(op.operand(i)) for i in (1, 2))
            if scale is None or bias is None:
                return None
            gamma = scale.numpy().astype(np.float64)
            return Moments(bias.numpy().astype(np.float64), gamma * gamma)
        case Add() if len(given) == 2 and given[0] and given[1] and _alike(op):
            a, b = given[0], given[1]  # taken as independent, as the paper's appendix does
            return Moments(a.mean + b.mean, a.variance + b.variance)
        case Concat() as kind if kind.axis == 1 and all(given):
            parts = [g for g in given if g]
            mean, variance = (np.concatenate(p) for p in
                              ([g.mean for g in parts], [g.variance for g in parts]))  # fmt: skip
            return Moments(mean, variance, all(g.normal for g in parts))
        case _:
            return _through(op, given[0]) if given and given[0] else None


def _alike(op: Op) -> bool:
    a, b = (op.operand(i).tensor.shape for i in (0, 1))
    return a is not None and a == b


def _through(op: Op, x: Moments) -> Moments | None:
    """What an op of one operand makes of it."""
    match op.kind:
        case Identity():
            return x
        case Relu() if x.normal:
            return clipped(x, 0.0, np.inf)
        case Clip(lo=low, hi=high) if x.normal:
            return clipped(x, -np.inf if low is None else low, np.inf if high is None else high)
        case Unary() if x.normal:
            return _by_quadrature(op, x)
        case AvgPool() as kind if not any(kind.pads):
            return Moments(x.mean, x.variance, normal=False)
        case ReduceMean() as kind if 1 not in kind.axes and min(kind.axes) > 1:
            return Moments(x.mean, x.variance, normal=False)
        case Reshape() | Squeeze() if _keeps_channels(op):
            return x
        case _:
            return None


def _keeps_channels(op: Op) -> bool:
    """Whether axis 1 is the same channels before and after: [N,C,1,1] to [N,C]."""
    a, b = op.operand(0).tensor.static, op.results[0].tensor.static
    return bool(a and b and len(b) > 1 and a[:2] == b[:2])


def clipped(x: Moments, low: float, high: float) -> Moments:
    """The moments of min(max(x, low), high), x normal.

    With a = (low - mean) / s and b = (high - mean) / s, the part between the ends has probability
    P = Phi(b) - Phi(a), mean P mean + s (phi(a) - phi(b)); the ends have Phi(a) and 1 - Phi(b).
    """
    s = np.sqrt(np.maximum(x.variance, 1e-24))
    a, b = (low - x.mean) / s, (high - x.mean) / s
    below, above = _special.ndtr(a), _special.ndtr(-b)
    inside, pa, pb = 1 - below - above, _density(a), _density(b)
    mean = inside * x.mean + s * (pa - pb) + below * _finite(low) + above * _finite(high)
    square = inside * (x.mean**2 + x.variance) + s * (
        pa * (x.mean + _finite(low)) - pb * (x.mean + _finite(high))
    )
    square = square + below * _finite(low) ** 2 + above * _finite(high) ** 2
    return Moments(mean, np.maximum(square - mean**2, 0), normal=False)


def _finite(end: float) -> float:
    """0 in the place of an end that isn't there: what it multiplies is 0."""
    return end if np.isfinite(end) else 0.0


def _density(z: Array) -> Array:
    return np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)


def _by_quadrature(op: Op, x: Moments) -> Moments:
    """The moments of a smooth function, by Gauss and Hermite's rule."""
    points = x.mean[:, None] + np.sqrt(x.variance)[:, None] * NODES
    (y,) = op.kind.evaluate(points.astype(np.float32))
    weights = WEIGHTS / WEIGHTS.sum()
    mean = y.astype(np.float64) @ weights
    return Moments(mean, np.maximum(np.square(y.astype(np.float64)) @ weights - mean**2, 0), False)
