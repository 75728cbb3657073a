# pyright: basic
# TVM ships no types.
"""Integer sums by eight products at once (see `graphopt.targets.tvm.eights`).

    y[o, p] = sum over g, j of x[p, g, j] * w[o, g, j]        j: 8 bytes beside each other

A group g is a tap and a block of channels. A register tile is eight outputs of some pixels (rows of
a matrix). How it is summed, the machine says: `Sums`, or with i8mm `Squares`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as ir

from graphopt.ir.core import Op
from graphopt.targets.tvm import loops, movement, neon, vectors
from graphopt.targets.tvm.eights import EIGHT
from graphopt.targets.tvm.intrinsics import call
from graphopt.targets.tvm.kernels import conv, matmul
from graphopt.targets.tvm.kernels.integer import border
from graphopt.targets.tvm.parameters import declare
from graphopt.targets.tvm.region import Region, shape_of, static

Expr = Any
LANES = 4
Group = tuple[Callable[[int], Expr], Callable[[int], Expr]]  # x of a column, w of an output


def address(load: Expr, dtype: str = "int8") -> Expr:
    """Where an element lies."""
    pointer = tvm.ir.PointerType(tvm.ir.PrimType(dtype))
    return tirx.op.Call("tirx.address_of", [load], ret_ty=pointer)


class Sums:
    """The sums of a tile: of each output of a column a vector of four partial sums.

    Two groups are multiplied before their products, of 16 bits, are added. `most` columns: 16
    vectors, with what they are made of, in 32 registers.
    """

    most = 2

    def __init__(self, columns: int) -> None:
        """All zero."""
        self.columns = columns
        self.acc = self.zeros(columns * EIGHT)

    def zeros(self, count: int) -> Any:
        """Vectors of four sums."""
        acc = ir.alloc_buffer((count, LANES), "int32", scope="local")
        for i in range(count):
            with ir.vectorized(0, LANES) as lane:
                ir.buffer_store(acc, tirx.const(0, "int32"), [i, lane])
        return acc

    def add(self, groups: Sequence[Group]) -> None:
        """The products of groups."""
        for first in range(0, len(groups), 2):
            both = groups[first : first + 2]
            name = "eights" if len(both) == 2 else "eight"
            for o in range(EIGHT):
                for c in range(self.columns):
                    given = [address(f) for x, w in both for f in (x(c), w(o))]
                    self.put(name, c * EIGHT + o, given)

    def put(self, name: str, at: int, given: list[Expr]) -> None:
        """Add what a function gives to a vector."""
        with ir.vectorized(0, LANES) as lane:
            ir.buffer_store(self.acc, call(name, self.acc[at, lane], *given), [at, lane])

    def of(self, column: int, lane: Expr) -> Expr:
        """The sum of output `lane`."""
        return call("folded", address(self.acc[column * EIGHT, 0], "int32"), lane)


class Squares(Sums):
    """The sums of a tile: of two outputs of two columns a vector; a last column may be alone."""

    most = 8

    def __init__(self, columns: int) -> None:
        """All zero."""
        self.columns = columns
        self.acc = self.zeros(-(-columns // 2) * LANES)

    def add(self, groups: Sequence[Group]) -> None:
        """The products of groups."""
        for x, w in groups:
            for c in range(0, self.columns, 2):
                rows = [address(x(i)) for i in (c, min(c + 1, self.columns - 1))]
                for o in range(0, EIGHT, 2):
                    self.put("square", (c * LANES + o) // 2, [*rows, address(w(o))])

    def of(self, column: int, lane: Expr) -> Expr:
        """The sum of output `lane`."""
        name = "second_row" if column % 2 else "first_row"
        return call(name, address(self.acc[column // 2 * LANES, 0], "int32"), lane)


class Kernel:
    """What convolutions and products share: the op, and a loop over independent parts."""

    def __init__(self, region: Region, op: Op, macs: int) -> None:
        """Declare the arguments."""
        self.region, self.op = region, op
        self.parallel = loops.parallel_worth(macs)
        self.sums = Squares if neon.has_squares(region.machine) else Sums
        declare(region)
        (self.output,) = region.graph.outputs
        self.x, self.w = (region.tensors[op.operand(i)] for i in (0, 1))

    def over(self, parts: int) -> Any:
        """A loop over independent parts."""
        return ir.parallel(0, parts) if self.parallel and parts > 1 else ir.serial(0, parts)

    def run(self) -> None:
        """All of it."""
        raise NotImplementedError


class Convolution(Kernel):
    """x [n, ib, h, w, 8], padded here; w [ob, ib, kh, kw, 8, 8]."""

    def run(self) -> None:
        """Rows of blocks of outputs, in parallel."""
        self.s = s = conv.shape(self.op)
        if any(s.pads):
            self.pad()
        blocks, (height, width) = -(-s.outs // EIGHT), s.out
        self.together = rows = self.rows()
        parts = height // rows
        with self.over(s.n * blocks * parts) as i:
            ob = tirx.floormod(tirx.floordiv(i, parts), blocks)
            n = tirx.floordiv(i, blocks * parts)
            part = tirx.floormod(i, parts)
            most = self.sums.most
            vectors.tiles(rows * width, most, lambda at, count: self.tile(n, ob, part, at, count))

    def rows(self) -> int:
        """Rows whose pixels lie beside each other and are summed as one, so that none is alone."""
        s, (height, width) = self.s, self.s.out
        single = all(d == 1 for d in (*s.kernel, *s.strides)) and not any(s.pads)
        if not single or width % 2 == 0:
            return 1
        return 2 if height % 2 == 0 else height

    def pixel(self, part: Expr, column: Expr) -> tuple[Expr, Expr]:
        """The row and column of a pixel of some rows."""
        if self.together == 1:
            return part, column
        at = part * (self.together * self.s.out[1]) + column
        return tirx.floordiv(at, self.s.out[1]), tirx.floormod(at, self.s.out[1])

    def tile(self, n: Expr, ob: Expr, part: Expr, begin: Expr, columns: int) -> None:
        """Some pixels, through the epilogue."""
        s, sums = self.s, self.sums(columns)
        blocks = -(-s.ins // EIGHT)
        together = 2 if blocks % 2 == 0 else 1  # blocks of channels that are summed in one turn
        taps = 1 if together == 2 else s.kernel[1]

        def group(cb: Expr, ky: Expr, kx: Expr) -> tuple[Any, Any]:
            def x(c: int) -> Expr:
                row, column = self.pixel(part, begin + c)
                down = row * s.strides[0] + ky * s.dilations[0]
                return self.x[n, cb, down, column * s.strides[1] + kx * s.dilations[1], 0]

            return x, lambda o: self.w[ob, cb, ky, kx, o, 0]

        with contextlib.ExitStack() as inside:
            turn, ky, outer = (inside.enter_context(ir.serial(0, d)) for d in
                               (blocks // together, s.kernel[0], s.kernel[1] // taps))  # fmt: skip
            sums.add([
                group(turn * together + b, ky, outer if taps == 1 else t)
                for t in range(taps) for b in range(together)
            ])  # fmt: skip
        for c in range(columns):
            vectors.store(self.region, self.op, self.output, [n, ob, *self.pixel(part, begin + c)],
                          lambda lane, c=c: sums.of(c, lane), EIGHT)  # fmt: skip

    def pad(self) -> None:
        """Copy x with its padding."""
        s, source = self.s, self.x
        top, left, bottom, right = s.pads
        rows, columns = s.size[0] + top + bottom, s.size[1] + left + right
        outer, fill = -(-s.ins // EIGHT), border(self.region, self.op)
        outside = tirx.const(fill, "int8") if isinstance(fill, int) else fill
        self.x = ir.alloc_buffer((s.n, outer, rows, columns, EIGHT), "int8")

        def copy(at: tuple[Expr, ...], begin: int, count: int, line: Expr) -> None:
            if not count:
                return
            n, cb, to = at
            with ir.serial(0, count) as c, ir.vectorized(0, EIGHT) as lane:
                value = outside if line is None else source[n, cb, line, c, lane]
                ir.buffer_store(self.x, value, [n, cb, to, begin + c, lane])

        with self.over(s.n * outer * rows) as i:
            row, cb = tirx.floormod(i, rows), tirx.floormod(tirx.floordiv(i, rows), outer)
            at = (tirx.floordiv(i, rows * outer), cb, row)
            with ir.If(tirx.all(row >= top, row < top + s.size[0])):
                with ir.Then():
                    copy(at, 0, left, None)
                    copy(at, left, s.size[1], row - top)
                    copy(at, left + s.size[1], right, None)
                with ir.Else():
                    copy(at, 0, columns, None)


class Product(Kernel):
    """x [.., m, k]; w [n/8, k/8, 8, 8]."""

    def run(self) -> None:
        """Panels of columns, in parallel."""
        own, result = shape_of(self.op.operand(0)), shape_of(self.op.result)
        rows, depth, columns = math.prod(own[:-1]), own[-1], result[-1]
        groups, panels = depth // EIGHT, -(-columns // EIGHT)
        together = 2 if groups % 2 == 0 else 1

        def place(row: Expr) -> list[Expr]:
            return [self.region.analyzer.simplify(i) for i in movement.unflat(row, own[:-1])]

        def tile(panel: Expr, begin: Expr, count: int) -> None:
            sums = self.sums(count)

            def group(g: Expr) -> tuple[Any, Any]:
                x = lambda r: self.x[(*place(begin + r), g * EIGHT)]  # noqa: E731
                return x, lambda o: self.w[panel, g, o, 0]

            with ir.serial(0, groups // together) as turn:
                sums.add([group(turn * together + i) for i in range(together)])
            for r in range(count):
                self.store(place(begin + r), panel, columns, lambda lane, r=r: sums.of(r, lane))

        with self.over(panels) as panel:
            vectors.tiles(rows, self.sums.most, lambda begin, count: tile(panel, begin, count))

    def store(
        self, row: list[Expr], panel: Expr, columns: int, sum_of: Callable[[Expr], Expr]
    ) -> None:
        """Eight columns of a row; one by one where the columns don't fill panels."""
        region, whole = self.region, columns % EIGHT == 0
        made = ir.alloc_buffer((EIGHT,), "int32", scope="local")
        with ir.vectorized(0, EIGHT) as lane:
            ir.buffer_store(made, sum_of(lane), [lane])
        with ir.vectorized(0, EIGHT) if whole else ir.serial(0, EIGHT) as lane:
            column = panel * EIGHT + lane
            with vectors.when(column < columns, not whole):
                region.bind(self.op.result, lambda index: made[lane])
                index = [*row, column]
                found = region.stored(self.output, lambda: region.at(self.output, index))
                ir.buffer_store(region.result, found,
                                region.physical(static(self.output).layout, index))  # fmt: skip


def build(region: Region, op: Op) -> Any:
    """The function of a convolution or product and its epilogue."""
    form, s = ((Convolution, conv.shape) if op.kind.name == "conv_integer"
               else (Product, matmul.shape))  # fmt: skip
    with IRBuilder() as builder, ir.prim_func(s_tir=True):
        ir.func_name("kernel")
        form(region, op, s(op).macs).run()
    return builder.get()
