# pyright: basic
# TVM ships no types.
"""Squeeze and excitation: sums over space, and two products of a vector, in one call.

    total[n, c]   = sum over space of x[n, c, ..]
    hidden[n, r]  = activation(1/size * sum over c of w1[r, c] * total[n, c] + b1[r])
    gate[n, c]    = gate(sum over r of w2[c, r] * hidden[n, r] + b2[c])

x is read as it is stored, in blocks of channels or dense. The weights are wanted in panels of
`lanes` outputs, [outputs/lanes, inputs, lanes] (tag Abcd16a). A product of a vector is a chain of
dependent additions, so the inputs are dealt out to `ways` sums, which are added at the end.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from graphopt.ir.core import Op, Value
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import formulas, loops, rows
from graphopt.targets.tvm.kernels import conv, matmul
from graphopt.targets.tvm.region import Region, shape_of, static

Expr = Any
Reader = Callable[[Expr, Expr], Expr]  # of (sample, channel)
SUMS = 8  # independent additions that hide the latency of one: two a cycle, four cycles each
ZERO = tirx.const(0, "int32")


@dataclass(frozen=True)
class Sums:
    """`outputs` sums of `inputs` terms a sample, as the matrix product whose rows are the ways."""

    name: str
    batch: int
    outputs: int
    inputs: int
    knobs: matmul.Knobs

    @property
    def shape(self) -> matmul.Shape:
        """The sizes, for the schedule of a matrix product."""
        ways, columns = self.knobs.rows, self.panels * self.knobs.lanes
        return matmul.Shape((self.batch,), ways, columns, self.inputs // ways, False, True, False)

    @property
    def panels(self) -> int:
        """Vectors of outputs."""
        return -(-self.outputs // self.knobs.lanes)

    def stage(self, region: Region, term: Callable[..., Expr]) -> Reader:
        """The stage [sample, way, panel, lane] of sums of term(sample, input, panel, lane).

        Returns:
            A reader of the sum of an output: its ways, added.
        """
        k = self.knobs
        axis = region.reduce_axis(self.inputs // k.rows, f"{self.name}_k")

        def body(*at: Any) -> Any:
            sample, way, panel, lane = at
            return te.sum(term(sample, axis.var * k.rows + way, panel, lane), axis=[axis])

        sums = region.compute((self.batch, k.rows, self.panels, k.lanes), body, self.name)

        def read(sample: Expr, c: Expr) -> Expr:
            at = [tirx.floordiv(c, k.lanes), tirx.floormod(c, k.lanes)]
            parts = [sums(sample, way, *at) for way in range(k.rows)]
            return functools.reduce(lambda a, b: a + b, parts)

        return read


def plan(op: Op, machine: Machine) -> tuple[Sums, Sums, Sums]:
    """The sums over space, and of the two products, with their schedules by rule.

    Panels side by side share the vector's elements; space has nothing to share.
    """
    lanes = max(machine.lanes, 8)
    batch, channels, *space = shape_of(op.operand(0))
    squeezed = shape_of(op.operand(1))[0]

    def sums(name: str, outputs: int, inputs: int, most: int) -> Sums:
        wide = loops.divisors(-(-outputs // lanes), most)[0]
        ways = loops.divisors(inputs, SUMS // wide)[0]
        return Sums(name, batch, outputs, inputs, matmul.Knobs(lanes, ways, wide))

    points = math.prod(space)
    total = sums("total", channels, points, SUMS // loops.divisors(points, SUMS)[0])
    return total, sums("first", squeezed, channels, SUMS), sums("last", channels, squeezed, SUMS)


def blocked(op: Op, s: Sums) -> bool:
    """Whether x is stored in blocks of as many channels as the sums have lanes."""
    return conv.channel_block(op.operand(0)) == s.knobs.lanes


def totals(region: Region, op: Op, s: Sums) -> Reader:
    """The stages of the sums over space, also of the channels that only fill blocks.

    Space is one axis here: in memory its points lie one after the other.
    """
    x = op.operand(0)
    space = shape_of(x)[2:]

    def point(sample: Expr, c: Expr, i: Expr) -> Expr:
        below = [math.prod(space[a + 1 :]) for a in range(len(space))]
        at = [tirx.floormod(tirx.floordiv(i, b), d) for b, d in zip(below, space, strict=True)]
        return region.at(x, [sample, c, *map(region.analyzer.simplify, at)])

    if not blocked(op, s):
        whole = (s.batch, s.outputs, s.inputs)
        read = rows.reduce(region, "total", whole, [2], lambda at: point(*at), rows.SUM, 2)
        return lambda sample, c: read([sample, c])
    parts = s.stage(region, lambda n, i, panel, lane: point(n, panel * s.knobs.lanes + lane, i))
    return region.compute((s.batch, s.panels * s.knobs.lanes), parts, "whole")


def product(region: Region, s: Sums, w: Value, vector: Reader) -> Reader:
    """The stage of a product of weights and a vector."""
    rank = len(shape_of(w))
    tag = f"Ab{conv.LETTERS[2:rank]}{s.knobs.lanes}a"
    packed = conv.packed(region, w, tag, f"pack_{s.name}")
    point = [ZERO] * (rank - 2)
    return s.stage(region, lambda n, i, panel, lane: vector(n, i) * packed(panel, i, *point, lane))


def finished(s: Sums, bias: Value | None) -> int:
    """How many outputs are finished: all panels, where the bias is stored so too; else just them.

    Those that only fill the last panel have weights of zero, and nobody reads them.
    """
    whole = bias is None or static(bias).layout == f"A{s.knobs.lanes}a"
    return s.panels * s.knobs.lanes if whole else s.outputs


def shifted(region: Region, value: Expr, bias: Value | None, c: Expr) -> Expr:
    """A value plus the bias of a channel."""
    return value if bias is None else value + region.at(bias, [c])


def compute(region: Region, op: Op, plan: tuple[Sums, Sums, Sums]) -> None:
    """Bind the op's result to the stages total, whole, first, hidden, last."""
    kind: Any = op.kind
    activation, gate = kind.functions()
    w1, w2, (b1, b2) = op.operand(1), op.operand(2), op.operands[3:]
    total, first, last = plan
    share = tirx.const(1.0 / total.inputs, "float32")
    sums = product(region, first, w1, totals(region, op, total))

    def hidden(sample: Expr, c: Expr) -> Expr:
        return formulas.scalar(activation, [shifted(region, sums(sample, c) * share, b1, c)])

    kept = region.compute((first.batch, finished(first, b1)), hidden, "hidden")
    found = product(region, last, w2, kept)
    region.bind(op.result, lambda at: formulas.scalar(
        gate, [shifted(region, found(at[0], at[1]), b2, at[1])]))  # fmt: skip


def build(region: Region) -> Any:
    """The scheduled function of a squeeze and excitation and its epilogue."""
    op = region.anchor
    assert op is not None
    steps = plan(op, region.machine)
    compute(region, op, steps)
    (output,) = region.graph.outputs
    stage = region.store(output, "out0")
    sch = loops.schedule(region.primfunc([stage]))
    tiled = {s.name: s for s in (steps if blocked(op, steps[0]) else steps[1:])}
    work = math.prod(shape_of(op.operand(0)))
    for name in region.stages:
        block = sch.get_sblock(name)
        if name in tiled:
            s, k = tiled[name].shape, tiled[name].knobs
            parallel = loops.parallel_worth(s.macs // 2 if name == "total" else s.macs)
            matmul.product_tiles(sch, s, k, parallel=parallel, name=name)
        elif name.startswith("total"):
            loops.reduction_stage(sch, block, region.machine, work=work)
        elif name.startswith("pack"):
            loops.padding_stage(sch, block, region.machine, vector=False)
        else:
            loops.simple_stage(sch, block, region.machine, work=0)
    return sch.mod["main"]
