"""winograd: 3x3 convolutions by minimal filtering, where that is faster.

    conv(x, w, b) of stride 1 -> conv_winograd(x, G w G^T, b)

A quarter of the products, for transforms of the image and of the result, and filters four times as
large. So it pays for many channels on images that aren't small. Its rounding errors are larger, by
some ten times; they are verified with all others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from graphopt.analysis.entropy import stored_share
from graphopt.analysis.price import graph_with
from graphopt.ir.builtin import Const
from graphopt.ir.core import Graph, Op, Value
from graphopt.ir.data import Data, nbytes
from graphopt.ir.types import DType, TensorType
from graphopt.ops.nn import Conv
from graphopt.ops.unary import is_half
from graphopt.ops.winograd import REACH, ConvWinograd, transformed
from graphopt.passes.operands import filled, resized, seconds
from graphopt.passes.table import RulePass
from graphopt.pipeline import Context, Effect
from graphopt.rewrite import Miss, Rewriter, Rule, const

GAIN = 0.95  # of the direct sum's time: what isn't faster than that isn't worth its errors
SMALL = 0.75  # of its bytes: a filter that is stored in fewer stays as it is
BLOCK = 16  # channels that a block has on the machine of widest vectors
NARROW = 8  # the fewest that a block has
WASTE = 4 / 3  # of channels, the most that are computed: 12 fill blocks of 16, and 24


def fills(channels: int, block: int) -> bool:
    """Whether channels fill blocks; of narrow ones the last may be filled by half."""
    whole = -(-channels // block) * block
    narrow = block == NARROW and channels > block
    return channels % 4 == 0 and (narrow or whole <= WASTE * channels)


def computed(channels: int, block: int) -> int:
    """How many channels are computed: whole blocks; half of a narrow one is left out."""
    return channels if block == NARROW else -(-channels // block) * block


@dataclass(frozen=True)
class Winograd(RulePass, name="winograd"):
    """Convolve 3x3 filters with a quarter of the products, where the target's prices say so.

    `always`: wherever it can be, whatever it costs. `coded`: a filter that can be stored in few
    bytes will be, so it stays as it is.
    """

    effect: ClassVar[Effect] = "reassociating"
    always: bool = False
    coded: bool = True

    def rules(self, ctx: Context) -> Iterable[Rule[Any]]:
        """One."""
        return (
            Rule(
                "minimal-filtering", Conv, Filtering(ctx, self.always, self.coded).minimal_filtering
            ),
        )


@dataclass
class Filtering:
    """The rule, and what it knows of the target and of the graph: the bytes of its constants."""

    ctx: Context
    always: bool = False
    coded: bool = True
    footprints: dict[Graph, int] = field(default_factory=dict[Graph, int])

    def minimal_filtering(self, rw: Rewriter, op: Op, kind: Conv) -> Value | None:
        """conv(x, w, b) with w 3x3, stride 1 -> conv_winograd(x, G w G^T, b)."""
        w, x = const(op.operand(1)), op.operand(0).tensor
        if w is None or w.dtype is not DType.f32 or w.shape[2:] != (3, 3) or kind.group != 1:
            return None
        if {*kind.strides, *kind.dilations} != {1} or min(kind.pads) < 0 or max(kind.pads) > 2:
            return None
        block = max(self.ctx.lanes, NARROW) if self.ctx.lanes else BLOCK
        if x.static is None or op.result.tensor.static is None:
            return None
        if not all(fills(d, block) for d in w.shape[:2]):
            return None
        shape = (REACH * REACH, w.shape[0], w.shape[1])
        if not self.always:
            self.gain(op, kind, shape, block)
            if self.coded:
                _dense(w)
        filters = rw.computed(np.zeros(0, np.float32), shape, lambda: transformed(w.numpy()))
        made = rw.make(ConvWinograd(kind.pads), op.operand(0), filters, op.operands[2])
        if self.ctx.catalog and made.op and self.ctx.catalog.family(made.op) is None:
            raise Miss("the target has no kernel for it")
        return made

    def gain(self, op: Op, kind: Conv, filters: tuple[int, int, int], block: int) -> None:
        """Raise Miss unless minimal filtering is faster than the direct sum.

        Both are priced with constants as far away as a run of the whole model leaves them, and as
        convolutions of the channels that are computed: minimal filtering fills the last block on
        both sides, the direct sum in float32 that of its result.
        """
        costs = self.ctx.costs
        if costs is None or op.graph is None:
            raise Miss("nothing tells what it costs")
        far = self.footprint(op.graph)
        x, w, b = (v and v.tensor.logical for v in op.operands)
        outs, ins = (computed(d, block) for d in filters[1:])
        if is_half(op.operand(0)):  # it may be multiplied as bfloat16
            direct = seconds(op, costs, far, half=True, alone=filled(op, short=True))
        else:
            whole = [x, resized(w, 0, outs), resized(b, 0, outs)]
            direct = costs.price(graph_with(kind, whole, (1, 2)), far).seconds
        filtered = TensorType(DType.f32, (filters[0], outs, ins))
        types = [resized(x, 1, ins), filtered, resized(b, 0, outs)]
        minimal = costs.price(graph_with(ConvWinograd(kind.pads), types, (1, 2)), far).seconds
        if minimal > GAIN * direct:
            raise Miss(f"by minimal filtering it would take {minimal / direct:.2f} of the time")

    def footprint(self, graph: Graph) -> int:
        """The bytes of a graph's constants before any filters are transformed."""
        if graph not in self.footprints:
            data = (o.kind.data for o in graph if isinstance(o.kind, Const))
            self.footprints[graph] = sum(map(nbytes, data))
        return self.footprints[graph]


def is_compact(w: Data) -> bool:
    """Whether a filter is made small by many zeros or few values: transformed, it isn't."""
    return stored_share(w) < SMALL


def _dense(w: Data) -> None:
    """Raise Miss for a filter that would lose that it is small."""
    if is_compact(w):
        told = f"the filter is stored in {stored_share(w):.2f} of its bytes, which it would lose"
        raise Miss(told)
