"""layout: store activations in channel blocks where that is cheapest, and pack weights for kernels.

Each op offers the ways in which it can read its operands and write its results: dense, or in
`aBcd16b` (16 the vector width); `rules` lists them. A minimum cut chooses among them (`decide`), so
that activations stay in blocks across the network and the bytes of the few conversions, with what
kernels lose to a layout that suits them less, are the least there is. Then (`rewrite`) a `reorder`
stands at each boundary, and before each weight: lowering packs a reordered constant as it compiles.

Why it is exact: a layout is where elements are stored, not what they are. Padded lanes of a blocked
tensor are zero in memory; each kernel writes them so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from graphopt.ir.builtin import Const
from graphopt.ir.core import Graph, Module, Op
from graphopt.ir.types import DType
from graphopt.ops.movement import Reorder
from graphopt.passes.layout.convolutions import channels, points
from graphopt.passes.layout.decide import decide
from graphopt.passes.layout.offer import dense
from graphopt.passes.layout.rewrite import Rewriting
from graphopt.passes.layout.rules import offer
from graphopt.pipeline import Context, Pass, PassResult

NARROW = 4
WORSE = 1.1  # instructions of kernels of blocks of four, by those of eight, with a margin
EIGHTS = {"conv_integer", "matmul_integer", "squeeze_excite"}  # their kernels know no other blocks


@dataclass(frozen=True)
class Layout(Pass, name="layout"):
    """Store activations of convolutions in blocks of channels, and pack weights, for the target.

    `block` is the number of channels of a block; auto: the target's vector width, at least 8.
    """

    block: Literal["auto"] | int = "auto"

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Choose layouts in the main graph."""
        lanes = ctx.lanes if self.block == "auto" else int(self.block)
        if lanes == 0:
            return PassResult(False)
        catalog = ctx.catalog
        dots = DType.i8 if catalog and catalog.signed else DType.u8

        def compiled(op: Op) -> bool:
            if by_words(op) and op.operand(0).tensor.dtype is not dots:
                return False  # the vectors multiply bytes of the other kind
            return catalog is None or catalog.family(op) is not None

        return PassResult(assign_layouts(module.main, lanes, compiled) > 0)


def by_words(op: Op) -> bool:
    """Whether an op's kernel multiplies words of four bytes, if they are of the right kind."""
    if op.kind.name != "conv_integer":
        return op.kind.name == "matmul_integer"
    shape = op.operand(1).tensor.static
    return shape is None or shape[1] > 1 or getattr(op.kind, "group", 1) == 1


def block_for(graph: Graph, lanes: int) -> int:
    """The channels of a block: those of a register, but 8 where it has 4.

    Four, if the padding of blocks of eight would cost the convolutions more than kernels of blocks
    of four do, and all of them are of floats.
    """
    if lanes != NARROW or any(op.kind.name in EIGHTS or _in_halves(op) for op in graph):
        return max(lanes, 2 * NARROW)
    done = padded = 0
    for op in (op for op in graph if op.kind.name in ("conv", "conv_winograd")):
        outs, ins = channels(op)
        done += outs * ins * points(op)
        padded += -(-outs // 8) * 8 * ins * points(op)
    return NARROW if padded > WORSE * done else 2 * NARROW


def _in_halves(op: Op) -> bool:
    """Whether an op is computed in float16, of which registers have eight."""
    return bool(op.results) and op.kind.name == "conv" and op.result.tensor.dtype is DType.f16


def anything(op: Op) -> bool:
    """Every op may take part."""
    return True


def assign_layouts(graph: Graph, lanes: int, compiled: Callable[[Op], bool] = anything) -> int:
    """Choose the layouts of a graph in place, and insert reorders.

    Args:
        graph: its static parts are considered; the rest stays dense.
        lanes: float32 elements of a vector register; `block_for` says what blocks are then.
        compiled: which ops a kernel computes; the others get and give dense tensors.

    Returns:
        The number of reorders inserted.
    """
    block = block_for(graph, lanes)
    ops = [op for op in graph if not isinstance(op.kind, Const | Reorder)]
    offers = {
        op: offer(op, block) if not op.regions and op.results and compiled(op) else dense(op)
        for op in ops
    }
    decided = decide(graph, offers, block)
    rewriting = Rewriting(graph, block)
    for op in ops:
        rewriting.apply(op, offers[op], decided[op])
    return rewriting.count
