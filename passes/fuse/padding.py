"""A padding before a window op becomes the window op's own."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from graphopt.ir.core import Op, Value
from graphopt.ops.elementwise import Abs, Clip, Exp, HardSigmoid, Relu, Sigmoid
from graphopt.ops.movement import Pad
from graphopt.ops.nn import AvgPool, Conv, MaxPool, Softmax
from graphopt.rewrite import Miss, Rewriter, Rule, made_by, only_use, rule


def _spatial(op: Op, mode_values: tuple[float, ...]) -> tuple[Op, tuple[int, ...]] | None:
    """The pad op before `op` and its spatial widths (begins, then ends).

    Raises:
        Miss: it pads otherwise.
    """
    found = made_by(op.operand(0), Pad)
    if found is None:
        return None
    inner, kind = found
    n = len(kind.pads) // 2
    if kind.mode != "constant" or not any(kind.value == v for v in mode_values):
        raise Miss(f"it pads with {kind.mode if kind.mode != 'constant' else kind.value}")
    if any(kind.pads[:2]) or any(kind.pads[n : n + 2]):
        raise Miss("it pads batch or channels")
    if min(kind.pads) < 0:
        raise Miss("it crops")
    only_use(op.operand(0))
    return inner, kind.pads[2:n] + kind.pads[n + 2 :]


def _sum(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


@rule(Conv)
def pad_into_conv(rw: Rewriter, op: Op, kind: Conv) -> Value | None:
    """conv(pad(x, p), pads=q) -> conv(x, pads=p+q), p of zeros on spatial axes."""
    found = _spatial(op, (0.0,))
    if found is None:
        return None
    rw.absorb(found[0])
    padded = replace(kind, pads=_sum(kind.pads, found[1]))
    return rw.make(padded, found[0].operand(0), *op.operands[1:])


@rule(AvgPool)
def pad_into_avg_pool(rw: Rewriter, op: Op, kind: AvgPool) -> Value | None:
    """avg_pool(pad(x, p)) -> avg_pool(x, pads=p, count_include_pad), p of zeros."""
    found = _spatial(op, (0.0,))
    if found is None:
        return None
    if any(kind.pads) and not kind.count_include_pad:
        raise Miss("the pool doesn't count its own padding, but would have to count this one")
    rw.absorb(found[0])
    padded = replace(kind, pads=_sum(kind.pads, found[1]), count_include_pad=True)
    return _checked(rw, padded, found[0].operand(0))


@rule(MaxPool)
def pad_into_max_pool(rw: Rewriter, op: Op, kind: MaxPool) -> Value | None:
    """max_pool(pad(x, p, -inf)) -> max_pool(x, pads=p); pads of zero too where x >= 0."""
    inner = made_by(op.operand(0), Pad)
    values = (-math.inf, 0.0) if inner and _not_negative(inner[0].operand(0)) else (-math.inf,)
    found = _spatial(op, values)
    if found is None:
        return None
    rw.absorb(found[0])
    padded = replace(kind, pads=_sum(kind.pads, found[1]))
    return _checked(rw, padded, found[0].operand(0))


def _checked(rw: Rewriter, kind: AvgPool | MaxPool, x: Value) -> Value:
    """The pool; ONNX wants every padding smaller than the kernel, so that no window is empty."""
    if any(p >= k for p, k in zip(kind.pads, kind.kernel * 2, strict=True)):
        raise Miss(f"padding {list(kind.pads)} is as wide as the window {list(kind.kernel)}")
    return rw.make(kind, x)


def _not_negative(x: Value) -> bool:
    """Whether the op that makes x never gives a negative number."""
    kind = x.op.kind if x.op else None
    if isinstance(kind, Clip):
        return kind.lo is not None and kind.lo >= 0
    return isinstance(kind, Relu | Sigmoid | HardSigmoid | Exp | Abs | Softmax)


RULES: tuple[Rule[Any], ...] = (pad_into_conv, pad_into_avg_pool, pad_into_max_pool)
