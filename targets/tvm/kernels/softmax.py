# pyright: basic
# TVM ships no types.
"""Softmax and log softmax along one axis: maximum, exponentials, sum, then the result."""

from __future__ import annotations

import math
from typing import Any

from graphopt.targets.tvm import expr, rows
from graphopt.targets.tvm.kernels import norm
from graphopt.targets.tvm.region import Region, shape_of


def compute(region: Region) -> int:
    """Bind the op's result; give the scalar operations it takes."""
    op = region.anchor
    assert op is not None
    x, shape = op.operand(0), shape_of(op.operand(0))
    kind: Any = op.kind
    axis = kind.axis % len(shape)
    inner = axis if axis == len(shape) - 1 and not x.tensor.layout else None

    def kept(at: Any) -> list[Any]:
        return [i for a, i in enumerate(at) if a != axis]

    def element(at: Any) -> Any:
        return region.at(x, at)

    top = rows.reduce(region, "top", shape, [axis], element, rows.LARGEST, inner)
    if op.kind.name == "log_softmax":

        def term(at: Any) -> Any:
            return expr.exp(None, region.at(x, at) - top(kept(at)))

        total = rows.reduce(region, "total", shape, [axis], term, rows.SUM, inner)
        region.bind(op.result, lambda at: region.at(x, at) - top(kept(at)) - expr.log(
            None, total(kept(at))))  # fmt: skip
    else:
        e = region.compute(shape, lambda *at: expr.exp(None, region.at(x, at) - top(kept(at))), "e")
        total = rows.reduce(region, "total", shape, [axis], lambda at: e(*at), rows.SUM, inner)
        region.bind(op.result, lambda at: e(*at) / total(kept(at)))
    return 20 * math.prod(shape)


def build(region: Region) -> Any:
    """The scheduled function of a softmax and its epilogue."""
    work = compute(region)
    return norm.apply(region, work, plain=("e",))
