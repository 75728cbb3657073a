# pyright: basic
# TVM ships no types.
"""Reductions as TE stages that vectorize whichever axes they run over.

A reduction over the innermost stored axis would be a chain of dependent scalar operations, so it is
split: `width` partial results over the bulk, then their reduction, then the few elements left over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from graphopt.targets.tvm import expr
from graphopt.targets.tvm.region import Region

Expr = Any
Element = Callable[[list[Expr]], Expr]


@dataclass(frozen=True)
class Combiner:
    """An associative operation: `pair` of two elements, `start` by TVM element type."""

    pair: Callable[[Expr, Expr], Expr]
    start: Callable[[str], Expr]

    def over(self, value: Expr, axis: Sequence[Any]) -> Any:
        """The te reduction of a value."""
        reducer = te.comm_reducer(self.pair, self.start, name="combine")
        return reducer(value, axis=list(axis))


def _lowest(dtype: str) -> Expr:
    return tirx.const(float("-inf"), dtype) if dtype.startswith("float") else tirx.min_value(dtype)


def _highest(dtype: str) -> Expr:
    return tirx.const(float("inf"), dtype) if dtype.startswith("float") else tirx.max_value(dtype)


SUM = Combiner(lambda a, b: a + b, lambda dtype: tirx.const(0, dtype))
PRODUCT = Combiner(lambda a, b: a * b, lambda dtype: tirx.const(1, dtype))
LARGEST = Combiner(expr.maximum, _lowest)
SMALLEST = Combiner(expr.minimum, _highest)


def reduce(
    region: Region,
    name: str,
    shape: Sequence[int],
    axes: Sequence[int],
    element: Element,
    combiner: Combiner,
    inner: int | None,
) -> Callable[[Sequence[Expr]], Expr]:
    """Reduce an element function over axes; stages `name`, `name_part`, `name_rest`.

    Args:
        region: for the machine and the simplifier.
        name: of the stages.
        shape: the logical shape of the elements.
        axes: which are reduced.
        element: the element at a logical index.
        combiner: how.
        inner: the axis stored innermost, if it is reduced: its bulk is split over lanes.

    Returns:
        A reader of the result at an index of the axes that are kept, in order.
    """
    kept = [a for a in range(len(shape)) if a not in axes]
    outs = [shape[a] for a in kept]
    width = lanes(region, shape[inner]) if inner is not None else 1
    if width == 1:
        whole = [shape[a] for a in axes]
        return _stage(region, name, outs, whole, combiner,
                      lambda out, red: element(_index(kept, out, axes, red)))  # fmt: skip
    assert inner is not None
    bulk = shape[inner] // width

    def partial(out: list[Expr], red: list[Expr]) -> Expr:
        at = _index(kept, out[:-1], axes, red)
        at[inner] = at[inner] * width + out[-1]
        return element(at)

    counts = [bulk if a == inner else shape[a] for a in axes]
    part = _stage(region, f"{name}_part", [*outs, width], counts, combiner, partial)
    total = _stage(region, name, outs, [width], combiner, lambda out, red: part([*out, *red]))
    if bulk * width == shape[inner]:
        return total

    def left(out: list[Expr], red: list[Expr]) -> Expr:
        at = _index(kept, out, axes, red)
        at[inner] = at[inner] + bulk * width
        return element(at)

    counts = [shape[inner] - bulk * width if a == inner else shape[a] for a in axes]
    rest = _stage(region, f"{name}_rest", outs, counts, combiner, left)
    return lambda out: combiner.pair(total(out), rest(out))


def lanes(region: Region, size: int) -> int:
    """How many partial results a reduction over `size` elements keeps."""
    width = region.machine.lanes
    for count in (4 * width, 2 * width, width):
        if size >= 4 * count or (count == width and size >= 2 * width):
            return count
    return 1


def _index(
    kept: Sequence[int], out: Sequence[Expr], axes: Sequence[int], red: Sequence[Expr]
) -> list[Expr]:
    at: list[Expr] = [None] * (len(kept) + len(axes))
    for a, i in zip((*kept, *axes), (*out, *red), strict=True):
        at[a] = i
    return at


def _stage(
    region: Region,
    name: str,
    outs: Sequence[int],
    counts: Sequence[int],
    combiner: Combiner,
    element: Callable[[list[Expr], list[Expr]], Expr],
) -> Callable[[Sequence[Expr]], Expr]:
    reduced = [region.reduce_axis(c, f"{name}_r{i}") for i, c in enumerate(counts)]
    shape = list(outs) or [1]

    def body(*at: Any) -> Any:
        out = list(at) if outs else []
        value = region.branch(lambda: element(out, [r.var for r in reduced]))
        return combiner.over(value, reduced)

    tensor = region.compute(shape, body, name)
    return lambda out: tensor(*(out or [tirx.const(0, "int32")]))


def keep_all(
    shape: Sequence[int], axes: Sequence[int], keepdims: bool
) -> Callable[[Any], list[Any]]:
    """From an index of a reduction's ONNX result to one of the kept axes."""
    gone = set(axes)
    if keepdims:
        return lambda index: [i for a, i in enumerate(index) if a not in gone]
    return lambda index: list(index)
