"""Kinds that read or write elements where a tensor of indices, or a diagonal, says.

Negative indices count from the end. An index out of range is an error to numpy and ONNX Runtime;
kernels keep it in range instead, so that memory stays safe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from graphopt.ir.core import OpKind
from graphopt.ir.types import Array, Dim, DType, TensorType, ValueType
from graphopt.ops.shapes import agree, normal_axis, tensors

_where: Any = np.where  # untyped, as its overloads are half unknown to checkers
Reduction = Literal["set", "add", "mul", "min", "max"]
UPDATES: dict[str, Callable[[Array, Any, Array], None]] = {
    "set": lambda y, at, v: y.__setitem__(at, v),
    "add": np.add.at,
    "mul": np.multiply.at,
    "min": np.minimum.at,
    "max": np.maximum.at,
}


def _along(x: Array, indices: Array, axis: int) -> tuple[Array, ...]:
    """The full index of x[.., indices, ..] where indices has x's rank."""
    at: list[Array] = list(np.ogrid[tuple(slice(d) for d in indices.shape)])
    at[axis] = indices
    return tuple(at)


@dataclass(frozen=True)
class GatherElements(OpKind, name="gather_elements"):
    """y[i, j, ..] = x[i, indices[i, j, ..], ..]: the index along `axis` alone is replaced."""

    axis: int = 0
    operands = ("x", "indices")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The shape of the indices."""
        x, i = tensors(*types)
        _same_rank(x, i, self.axis)
        return (TensorType(x.dtype, i.shape),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """numpy's indexing."""
        x, i = arrays
        assert x is not None and i is not None
        return (x[_along(x, i, self.axis)],)


def _same_rank(x: TensorType, i: TensorType, axis: int) -> None:
    """Raise ValueError unless x and indices agree in rank, and the axis is one of theirs."""
    if x.shape is None or i.shape is None:
        return
    if len(x.shape) != len(i.shape):
        raise ValueError(f"indices {i} don't have the rank of {x}")
    normal_axis(axis, len(x.shape))


@dataclass(frozen=True)
class GatherND(OpKind, name="gather_nd"):
    """y[b.., i..] = x[b.., *indices[b.., i.., :]]: the last axis of the indices holds an index.

    The first `batch_dims` axes are common to both.
    """

    batch_dims: int = 0
    operands = ("x", "indices")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The indices' shape without its last axis, then what of x the index leaves over."""
        x, i = tensors(*types)
        depth = _depth(x, i, self.batch_dims)
        if depth is None or x.shape is None or i.shape is None:
            return (TensorType(x.dtype, None),)
        return (TensorType(x.dtype, (*i.shape[:-1], *x.shape[self.batch_dims + depth :])),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """numpy's indexing, the common axes by a grid."""
        x, i = arrays
        assert x is not None and i is not None
        return (np.asarray(x[_tuples(i, self.batch_dims)]),)


def _depth(x: TensorType, i: TensorType, batch: int) -> int | None:
    """How many axes an index of GatherND or ScatterND names; None where it is unknown."""
    if x.shape is None or not i.shape:
        return None
    depth = i.shape[-1]
    if not isinstance(depth, int):
        return None
    if not 0 <= batch < len(i.shape) or depth < 1 or batch + depth > len(x.shape):
        raise ValueError(f"indices {i} name more axes than {x} has after {batch}")
    for a, b in zip(x.shape[:batch], i.shape[:batch], strict=True):
        agree(a, b, "a common axis of x and indices")
    return depth


def _tuples(indices: Array, batch: int) -> tuple[Array, ...]:
    """The index arrays that `indices` stands for, with a grid over the common axes."""
    rest = indices.ndim - 1 - batch
    grid: list[Array] = list(np.ogrid[tuple(slice(d) for d in indices.shape[:batch])])
    common = [g.reshape(*g.shape, *(1,) * rest) for g in grid]
    return (*common, *np.moveaxis(indices, -1, 0))


@dataclass(frozen=True)
class ScatterElements(OpKind, name="scatter_elements"):
    """x, but y[i, indices[i, j, ..], ..] = updates[i, j, ..], one after the other.

    `reduction` combines an update with what is there; "set": the last one stays.
    """

    axis: int = 0
    reduction: Reduction = "set"
    operands = ("x", "indices", "updates")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The type of x."""
        x, i, u = tensors(*types)
        _same_rank(x, i, self.axis)
        if i.shape is not None and u.shape is not None:
            if len(i.shape) != len(u.shape):
                raise ValueError(f"updates {u} don't have the rank of indices {i}")
            for a, b in zip(i.shape, u.shape, strict=True):
                agree(a, b, "an axis of indices and of updates")
        return (x,)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """numpy's assignment, or its unbuffered operation."""
        x, i, u = arrays
        assert x is not None and i is not None and u is not None
        y = x.copy()
        i = np.where(i < 0, i + x.shape[self.axis], i)
        UPDATES[self.reduction](y, _along(x, i, self.axis), u)
        return (y,)


@dataclass(frozen=True)
class ScatterND(OpKind, name="scatter_nd"):
    """x, but y[*indices[i.., :]] = updates[i..], one after the other; `reduction` as there."""

    reduction: Reduction = "set"
    operands = ("x", "indices", "updates")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The type of x."""
        x, i, u = tensors(*types)
        depth = _depth(x, i, 0)
        if depth is not None and x.shape is not None and i.shape and u.shape is not None:
            want: tuple[Dim, ...] = (*i.shape[:-1], *x.shape[depth:])
            if len(want) != len(u.shape):
                raise ValueError(f"updates {u} don't fit indices {i} into {x}")
            for a, b in zip(want, u.shape, strict=True):
                agree(a, b, "an axis of the updates")
        return (x,)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """numpy's assignment, or its unbuffered operation."""
        x, i, u = arrays
        assert x is not None and i is not None and u is not None
        y = x.copy()
        UPDATES[self.reduction](y, tuple(np.moveaxis(i, -1, 0)), u)
        return (y,)


@dataclass(frozen=True)
class OneHot(OpKind, name="one_hot"):
    """values[1] where the place along the new axis is the index, else values[0].

    indices: integers of any shape, negative ones from the end, no place for one out of range;
    values: [2], off and on. The new axis, of size `depth`, is `axis` of the result.
    """

    depth: int
    axis: int = -1
    operands = ("indices", "values")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The indices' shape with the new axis."""
        i, values = tensors(*types)
        if i.shape is None:
            return (TensorType(values.dtype, None),)
        at = normal_axis(self.axis, len(i.shape) + 1)
        return (TensorType(values.dtype, (*i.shape[:at], self.depth, *i.shape[at:])),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """A comparison with the places."""
        i, values = arrays
        assert i is not None and values is not None
        axis = self.axis % (i.ndim + 1)
        places = np.arange(self.depth).reshape((-1, *(1,) * (i.ndim - axis)))
        wrapped: Array = np.where(i < 0, i.astype(np.int64) + self.depth, i)
        return (_where(np.expand_dims(wrapped, axis) == places, values[1], values[0]),)


@dataclass(frozen=True)
class Trilu(OpKind, name="trilu"):
    """The upper or lower triangle of the last two axes, diagonal `k` included; zero elsewhere."""

    upper: bool = True
    k: int = 0
    operands = ("x",)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The type of x, which has at least two axes."""
        (x,) = tensors(*types)
        if x.shape is not None and len(x.shape) < 2:
            raise ValueError(f"x is {x}, no matrix")
        return (x,)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """numpy's triu or tril."""
        (x,) = arrays
        assert x is not None
        return (np.triu(x, self.k) if self.upper else np.tril(x, self.k),)


@dataclass(frozen=True)
class ReverseSequence(OpKind, name="reverse_sequence"):
    """Each sequence's first `lengths[b]` elements along the time axis reversed, the rest kept."""

    time_axis: int = 0
    batch_axis: int = 1
    operands = ("x", "lengths")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The type of x."""
        x, lengths = tensors(*types)
        if lengths.dtype is not DType.i64:
            raise ValueError(f"lengths are {lengths}, not int64")
        if sorted((self.time_axis, self.batch_axis)) != [0, 1]:
            raise ValueError("the time and batch axes are 0 and 1")
        if x.shape is not None and len(x.shape) < 2:
            raise ValueError(f"x is {x}, without a batch axis")
        return (x,)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """A gather along the time axis."""
        x, lengths = arrays
        assert x is not None and lengths is not None
        wide = x if self.time_axis == 0 else x.swapaxes(0, 1)
        time: Array = np.expand_dims(np.asarray(range(wide.shape[0])), 1)
        source: Array = _where(time < lengths, lengths - 1 - time, time)
        y = wide[source, np.arange(wide.shape[1])]
        return (np.ascontiguousarray(y if self.time_axis == 0 else y.swapaxes(0, 1)),)
