# pyright: basic
# TVM ships no types.
"""The scans of LSTM and GRU layers: one step after the other, the state in a small buffer.

For a vector of hidden units, the gates' sums stay in registers while the state passes:

    sums[g] += h[k] * r[unit, k, g]    for k in all units, g in gates

with the weights packed as [units/lanes, k, gate, lanes] (tag Bca16b, or bca). Even and odd k have
sums of their own, so that enough additions are under way at a time.
"""

from __future__ import annotations

import contextlib
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as ir

from graphopt.ir.core import Op
from graphopt.ir.layout import parse_layout
from graphopt.targets.tvm import serial
from graphopt.targets.tvm.intrinsics import call
from graphopt.targets.tvm.region import Region, shape_of, static

PARALLEL_MACS = 1 << 20  # of one step, from which on its units are worth several threads


class Scan:
    """The sizes and buffers of one scan; `at` indexes the state of unit vector u of sequence b."""

    def __init__(self, region: Region, op: Op, results: list[Any]) -> None:
        """Allocate the states and fill them."""
        self.op, self.region = op, region
        self.kind: Any = op.kind
        self.steps, self.batch, self.parts, self.gates, self.units = shape_of(op.operand(0))
        self.lanes = parse_layout(static(op.operand(1)).layout).block(1)
        self.xw, self.r = (region.tensors[op.operand(i)] for i in (0, 1))
        scale = op.operands[4] if len(op.operands) > 4 else None
        self.scale = region.tensors[scale] if scale else None
        self.y, *self.last = results
        self.size = self.batch * self.units
        self.h = ir.alloc_buffer((2 * self.size,), "float32")

    def start(self, buffer: Any, given: Any) -> None:
        """Fill a state with what is given, or zeros."""
        with ir.serial(0, self.size) as i:
            first = self.region.tensors[given][i] if given else tirx.const(0.0, "float32")
            ir.buffer_store(buffer, first, [i])

    def lane(self) -> Any:
        """A loop over the units of a vector."""
        if self.lanes == 1:
            return contextlib.nullcontext(tirx.const(0, "int32"))
        return ir.vectorized(0, self.lanes)

    def at(self, b: Any, u: Any, lane: Any) -> Any:
        """Where a unit's state is."""
        return b * self.units + u * self.lanes + lane

    def input(self, step: Any, b: Any, gate: int, u: Any, lane: Any) -> Any:
        """The input's product for a unit."""
        part = (step * self.batch + b) * self.parts + self.kind.part
        row = part * self.gates + gate
        return self.xw[row * self.units + u * self.lanes + lane]

    def sums(self, gates: list[int], state: Any, b: Any, u: Any) -> Any:
        """A function of (gate, lane): the sum over k of state(b, k) times the gate's weights."""
        odd = 2 if self.units % 2 == 0 else 1
        many, lanes = len(gates), self.lanes
        acc = ir.alloc_buffer((odd * many * lanes,), "float32", scope="local")
        for j in range(odd * many):
            with self.lane() as lane:
                ir.buffer_store(acc, tirx.const(0.0, "float32"), [j * lanes + lane])
        with ir.serial(0, self.units // odd) as k:
            for e in range(odd):
                unit = k * odd + e
                for j, gate in enumerate(gates):
                    with self.lane() as lane:
                        place = (e * many + j) * lanes + lane
                        row = (u * self.units + unit) * self.gates + gate
                        product = state(b, unit) * self.r[row * lanes + lane]
                        ir.buffer_store(acc, acc[place] + product, [place])

        def total(gate: int, lane: Any) -> Any:
            parts = [acc[(e * many + gates.index(gate)) * lanes + lane] for e in range(odd)]
            total = parts[0] if odd == 1 else parts[0] + parts[1]
            return total if self.scale is None else total * self.scale[
                gate * self.units + u * lanes + lane]  # fmt: skip

        return total

    def units_loop(self) -> Any:
        """A loop over vectors of units, on several threads where a step has work for them."""
        macs = self.gates * self.units * self.units
        make = ir.parallel if macs >= PARALLEL_MACS else ir.serial
        return make(0, self.units // self.lanes)

    def run(self, phases: list[Any]) -> None:
        """All steps; a phase gets (step, now, after, b, u): the state is at `now`, then `after`."""
        with ir.serial(0, self.steps) as t:
            step = self.steps - 1 - t if self.kind.reverse else t
            now = tirx.floormod(t, 2) * self.size
            for phase in phases:
                with ir.serial(0, self.batch) as b, self.units_loop() as u:
                    phase(step, now, self.size - now, b, u)
        with ir.serial(0, self.size) as i:
            ir.buffer_store(self.last[0], self.h[(self.steps % 2) * self.size + i], [i])

    def emit(self, step: Any, after: Any, where: Any, h: Any) -> None:
        """Store the new state of a unit, and the result."""
        ir.buffer_store(self.h, h, [after + where])
        ir.buffer_store(self.y, self.h[after + where], [step * self.size + where])


def lstm(s: Scan) -> None:
    """The scan of an LSTM; the cell is kept in the result for it."""
    cell = s.last[1]
    s.start(s.h, s.op.operands[2])
    s.start(cell, s.op.operands[3])

    def phase(step: Any, now: Any, after: Any, b: Any, u: Any) -> None:
        total = s.sums([0, 1, 2, 3], lambda b, k: s.h[now + b * s.units + k], b, u)
        with s.lane() as lane:
            where = s.at(b, u, lane)
            i, o, f, n = (s.input(step, b, g, u, lane) + total(g, lane) for g in range(4))
            new = call("sigmoid", f) * cell[where] + call("sigmoid", i) * call("tanh", n)
            ir.buffer_store(cell, new, [where])
            s.emit(step, after, where, call("sigmoid", o) * call("tanh", cell[where]))

    s.run([phase])


def gru(s: Scan) -> None:
    """The scan of a GRU whose reset scales the product of the state."""
    s.start(s.h, s.op.operands[3])
    bias = s.op.operands[2]

    def phase(step: Any, now: Any, after: Any, b: Any, u: Any) -> None:
        total = s.sums([0, 1, 2], lambda b, k: s.h[now + b * s.units + k], b, u)
        with s.lane() as lane:
            where = s.at(b, u, lane)
            z, reset = (
                call("sigmoid", s.input(step, b, g, u, lane) + total(g, lane)) for g in range(2)
            )
            inner = total(2, lane)
            if bias:
                inner = inner + s.region.tensors[bias][u * s.lanes + lane]
            n = call("tanh", s.input(step, b, 2, u, lane) + reset * inner)
            s.emit(step, after, where, mix(z, n, s.h[now + where]))

    s.run([phase])


def gru_reset_first(s: Scan) -> None:
    """The scan of a GRU whose reset scales the state itself: all resets come before the rest."""
    s.start(s.h, s.op.operands[3])
    update, scaled = (ir.alloc_buffer((s.size,), "float32") for _ in range(2))

    def gates(step: Any, now: Any, after: Any, b: Any, u: Any) -> None:
        total = s.sums([0, 1], lambda b, k: s.h[now + b * s.units + k], b, u)
        with s.lane() as lane:
            where = s.at(b, u, lane)
            z, reset = (
                call("sigmoid", s.input(step, b, g, u, lane) + total(g, lane)) for g in range(2)
            )
            ir.buffer_store(update, z, [where])
            ir.buffer_store(scaled, reset * s.h[now + where], [where])

    def rest(step: Any, now: Any, after: Any, b: Any, u: Any) -> None:
        total = s.sums([2], lambda b, k: scaled[b * s.units + k], b, u)
        with s.lane() as lane:
            where = s.at(b, u, lane)
            n = call("tanh", s.input(step, b, 2, u, lane) + total(2, lane))
            s.emit(step, after, where, mix(update[where], n, s.h[now + where]))

    s.run([gates, rest])


def mix(z: Any, n: Any, h: Any) -> Any:
    """(1 - z) n + z h."""
    return (tirx.const(1.0, "float32") - z) * n + z * h


def build(region: Region) -> Any:
    """The function of one scan."""
    op = serial.the_op(region)
    kind: Any = op.kind
    if kind.name == "lstm_scan":
        form = lstm
    else:
        form = gru if kind.linear_before_reset else gru_reset_first
    return serial.primfunc(region, lambda results: form(Scan(region, op, results)))
