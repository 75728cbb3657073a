"""What ops that are equivariant to positive scales do to the classes of channels.

Classes are arrays of the values' shapes: int32, a number for each element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphopt.ir.core import Op, OpKind
from graphopt.ir.types import Array
from graphopt.ops import movement as mv
from graphopt.ops.elementwise import Clip, Div, Identity, LeakyRelu, Mul, PRelu, Relu
from graphopt.ops.linalg import Attention
from graphopt.ops.nn import AvgPool, MaxPool
from graphopt.ops.quant import Calibrated
from graphopt.ops.reduce import ReduceMax, ReduceMean, ReduceSum

MOVES = (mv.Reshape, mv.Transpose, mv.Squeeze, mv.Unsqueeze, mv.Slice, mv.Split)
Fresh = Callable[[int], Array]
Given = Sequence[Array | None]


def spread(line: Array, shape: tuple[int, ...], axis: int) -> Array:
    """Classes along an axis, the same along the others."""
    axis %= len(shape)
    laid = line.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return np.broadcast_to(laid, shape)


def thin(classes: Array, like: Array | None = None) -> Array:
    """One of each run of equal classes that are views of one number (of `like`'s, too)."""
    strides = zip(classes.strides, (classes if like is None else like).strides, strict=True)
    return classes[tuple(slice(0, 1) if a == b == 0 else slice(None) for a, b in strides)]


def constant_but(classes: Array, axis: int) -> Array | None:
    """The classes along an axis, if they vary along no other."""
    if not classes.size:
        return None
    classes = thin(classes)
    moved = np.moveaxis(classes, axis, -1)
    line = moved.reshape(-1, moved.shape[-1])[0]
    return line.copy() if (moved == line).all() else None


def handed_on(op: Op, given: Given, fresh: Fresh) -> tuple[list[Array], tuple[int, ...]]:
    """The classes of an op's results, and the operands that they come from.

    Args:
        op: any op.
        given: the classes of its operands, where they have any.
        fresh: makes new classes.

    Returns:
        Nothing, where the op isn't equivariant.
    """
    kind, x = op.kind, given[0] if given else None
    if isinstance(kind, Mul | Div):
        return _scaled(op, given)
    if isinstance(kind, Attention):
        return _weighted_sum(op, given)
    if isinstance(kind, mv.Concat) and all(g is not None for g in given):
        parts = [g for g in given if g is not None]
        return [np.concatenate(parts, kind.axis)], tuple(range(len(given)))
    if x is None:
        return [], ()
    if isinstance(kind, Relu | LeakyRelu | PRelu | Identity | Calibrated) or _from_zero(kind):
        return [x], (0,)
    if isinstance(kind, MOVES):
        return [np.asarray(a) for a in kind.evaluate(x)], (0,)
    return _by_channel(op, x, fresh), (0,)


def _from_zero(kind: OpKind) -> bool:
    """Whether it is max(x, 0)."""
    return isinstance(kind, Clip) and kind.hi is None and kind.lo in (0, None)


def _scaled(op: Op, given: Given) -> tuple[list[Array], tuple[int, ...]]:
    """A product with numbers that stay as they are: those that are broadcast, or a constant."""
    shape = op.result.tensor.static
    places = (0,) if isinstance(op.kind, Div) else (0, 1)
    whole = [i for i in places if (g := given[i]) is not None and g.shape == shape]
    if not whole:
        return [], ()
    chosen = given[whole[0]]
    return ([] if chosen is None else [chosen]), (whole[0],)


def _by_channel(op: Op, x: Array, fresh: Fresh) -> list[Array]:
    """Pools and sums over whole channels, and zeros around them or as more of them."""
    kind, shape = op.kind, op.result.tensor.static if len(op.results) == 1 else None
    line = constant_but(x, 1) if x.ndim > 2 else None
    if line is None or shape is None or len(shape) < 2:
        return []
    match kind:
        case MaxPool() | AvgPool():
            pass
        case ReduceMean() | ReduceMax() | ReduceSum():
            if any(a % x.ndim < 2 for a in kind.axes):
                return []
        case mv.Pad(mode="constant", value=0):
            before, after = kind.pads[1], kind.pads[x.ndim + 1]
            if kind.pads[0] or kind.pads[x.ndim] or min(before, after) < 0:
                return []
            line = np.concatenate([fresh(before), line, fresh(after)])
        case _:
            return []
    return [spread(line, shape, 1)] if shape[1] == len(line) else []


def _weighted_sum(op: Op, given: Given) -> tuple[list[Array], tuple[int, ...]]:
    """Attention gives weighted means of the rows of v (operand 2)."""
    v, shape = given[2], op.result.tensor.static
    if v is None or shape is None or v.ndim != len(shape) or v.shape[:-2] != shape[:-2]:
        return [], ()
    first = v[..., :1, :]
    if not (v == first).all():
        return [], ()
    return [np.broadcast_to(first, shape)], (2,)
