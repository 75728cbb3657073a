"""Channel shuffles move down the graph to the convolution that mixes channels again.

A shuffle is reshape, transpose, reshape, where the transpose permutes factors of the channel axis
(ShuffleNet, arXiv 1707.01083). What works channel by channel may come before it, with its weights
in the order that the channels had. A convolution that mixes channels can read them in any order,
so a target may compute the shuffle for nothing there, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.core import Op, Value
from graphopt.ir.data import Data
from graphopt.ir.types import Array, TensorType
from graphopt.ops.elementwise import Unary
from graphopt.ops.movement import Reorder, Reshape, Transpose
from graphopt.ops.nn import Conv
from graphopt.rewrite import Miss, Rewriter, Rule, data, rule

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Shuffle:
    """y[:, c] = x[:, order[c]]; made of `ops`, first to last, which nothing else uses.

    `factors` are those of the channel axis in x, `perm` is their permutation.
    """

    x: Value
    ops: tuple[Op, ...]
    factors: Ints
    perm: Ints

    @property
    def order(self) -> Array:
        """The channel of x that each channel of the result is."""
        channels = np.arange(int(np.prod(self.factors))).reshape(self.factors)
        return channels.transpose(self.perm).reshape(-1)

    def again(self, rw: Rewriter, x: Value) -> Value:
        """The same shuffle of another value; its ops come from the same places."""
        shape = _static(x)
        assert shape is not None
        n = len(self.factors)
        space = range(n + 1, n + len(shape) - 1)
        split = Reshape((shape[0], *self.factors, *shape[2:]))
        turned = Transpose((0, *(p + 1 for p in self.perm), *space))
        moves = [op for op in self.ops if not isinstance(op.kind, Reorder)]
        for kind, old in zip((split, turned, Reshape(shape)), moves, strict=True):
            op = rw.op(kind, x)
            op.loc, x = old.loc, op.result
            x.hint = old.result.hint
        return x


def _static(value: Value) -> Ints | None:
    return value.type.static if isinstance(value.type, TensorType) else None


def channel_shuffle(value: Value) -> Shuffle | None:
    """The shuffle that makes a value, through changes of layout; None for anything else."""
    ops: list[Op] = []
    last = _before(value, ops, Reshape)
    turned = last and _before(last, ops, Transpose)
    first = turned and _before(turned, ops, Reshape)
    if not first:
        return None
    while (op := first.op) and isinstance(op.kind, Reorder) and first.use_count == 1:
        ops.append(op)
        first = op.operand(0)
    kind: Any = next(op.kind for op in ops if isinstance(op.kind, Transpose))
    return _permuted_channels(first, value, tuple(reversed(ops)), turned, kind.perm)


def _before(value: Value, ops: list[Op], kind: type[Reshape | Transpose]) -> Value | None:
    """The operand of the op of a kind that makes a value for one user, through reorders."""
    op = value.op
    while op and isinstance(op.kind, Reorder) and value.use_count == 1:
        ops.append(op)
        value, op = op.operand(0), op.operand(0).op
    if op is None or not isinstance(op.kind, kind) or value.use_count != 1:
        return None
    ops.append(op)
    return op.operand(0)


def _permuted_channels(
    x: Value, y: Value, ops: tuple[Op, ...], turned: Value | None, perm: Ints
) -> Shuffle | None:
    """The shuffle, if nothing but factors of the channel axis is permuted."""
    shape, split = _static(x), _static(turned) if turned else None
    if shape is None or split is None or shape != _static(y) or len(shape) < 3:
        return None
    n = len(split) - len(shape) + 1  # factors of the channel axis
    space = tuple(range(n + 1, len(split)))
    whole = (split[0], split[n + 1 :]) == (shape[0], shape[2:]) and n > 1
    if not whole or (perm[0], perm[n + 1 :]) != (0, space):
        return None
    return Shuffle(x, ops, split[1 : n + 1], tuple(p - 1 for p in perm[1 : n + 1]))


def _reordered(rw: Rewriter, value: Value, of: Data, order: Array) -> Value:
    """The constant with its first axis in another order, under the same name."""
    moved = rw.computed(of, of.shape, lambda: of.numpy()[order])
    moved.hint = value.hint
    return moved


@rule(Unary)
def shuffle_below_unary(rw: Rewriter, op: Op, kind: Unary) -> Value | None:
    """f(shuffle(x)) -> shuffle(f(x)), f element by element."""
    found = channel_shuffle(op.operand(0))
    return found.again(rw, rw.make(kind, found.x)) if found else None


@rule(Conv)
def shuffle_below_depthwise(rw: Rewriter, op: Op, kind: Conv) -> Value | None:
    """conv(shuffle(x), w, b) -> shuffle(conv(x, unshuffled w, b)), one filter a channel."""
    found = channel_shuffle(op.operand(0))
    if found is None:
        return None
    w = data(op.operand(1))
    if w.shape[:2] != (kind.group, 1) or _static(op.result) is None:
        raise Miss("the convolution mixes channels, or makes several of one")
    back = np.argsort(found.order)
    bias = op.operands[2]
    b = None if bias is None else _reordered(rw, bias, data(bias), back)
    return found.again(rw, rw.make(kind, found.x, _reordered(rw, op.operand(1), w, back), b))


RULES: tuple[Rule[Any], ...] = (shuffle_below_unary, shuffle_below_depthwise)
