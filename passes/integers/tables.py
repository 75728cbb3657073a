"""Functions of one 8-bit number become tables."""

from __future__ import annotations

import numpy as np

from graphopt.ir.core import Op, Value
from graphopt.ir.types import Array, DType
from graphopt.ops.elementwise import Elementwise
from graphopt.ops.quant import Lookup, Quantize, Scaled
from graphopt.rewrite import Rewriter, const, rule

BYTES = (DType.u8, DType.i8)
MOST = 64  # ops in a chain: what is longer is no activation function


@rule(Quantize)
def lookup(rw: Rewriter, op: Op, kind: Quantize) -> Value | None:
    """quantize(f(dequantize(q))) -> lookup(q, table), f element by element.

    The table is what numpy makes of the ops for each of the 256 numbers, so that every target gets
    the same integers of a function that each computes in its own way.
    """
    if kind.dtype not in BYTES:
        return None
    chain = Chain(op)
    q = chain.variable()
    if q is None:
        return None
    table = chain.table(q)
    for inner in chain.ops:
        if inner is not op:
            rw.absorb(inner)
    if q.tensor.dtype is kind.dtype and np.array_equal(table, every(kind.dtype)):
        return q
    return rw.make(Lookup(), q, rw.const(table))


def every(dtype: DType) -> Array:
    """The 256 numbers of an 8-bit type, in the order of their bytes."""
    return np.arange(256, dtype=np.uint8).view(dtype.numpy)


class Chain:
    """Element-wise ops from the last, which quantizes, up to the 8-bit numbers it depends on."""

    def __init__(self, last: Op) -> None:
        """Take in the ops up to the nearest 8-bit numbers."""
        self.last = last
        self.ops: dict[Op, None] = {}
        self.leaves: dict[Value, None] = {}
        self.known = self._take(last)

    def variable(self) -> Value | None:
        """The one number that all depends on; None where there isn't one."""
        while self.known and len(self.leaves) > 1:
            behind = next((v for v in self.leaves if self._depends(v)), None)
            if behind is None:
                return None
            self._expand(behind)
        while self.known and self._private():
            self._expand(next(iter(self.leaves)))
        return next(iter(self.leaves)) if self.known and len(self.leaves) == 1 else None

    def _take(self, op: Op) -> bool:
        """Take in an op and what floats it depends on; tell whether all of that is known."""
        self.ops[op] = None
        if len(self.ops) > MOST:
            return False
        for i, v in enumerate(op.operands):
            if v is None or _parameter(op, i, v):
                continue
            if v.tensor.dtype in BYTES and const(v) is None and self._alike(v):
                self.leaves[v] = None
            elif v.op not in self.ops and not (self._within(v) and v.op and self._take(v.op)):
                return False
        return True

    def _alike(self, v: Value) -> bool:
        """Whether a value has an element for each of the result."""
        return v.tensor.shape is not None and v.tensor.shape == self.last.result.tensor.shape

    def _within(self, v: Value) -> bool:
        """Whether a value is made element by element of values of its shape, or is but one."""
        near = self._alike(v) or v.tensor.size == 1
        return v.op is not None and isinstance(v.op.kind, Elementwise) and near

    def _expand(self, leaf: Value) -> None:
        """Go on through the op that makes a leaf."""
        del self.leaves[leaf]
        self.known = bool(leaf.op) and self._take(leaf.op)

    def _depends(self, leaf: Value) -> bool:
        """Whether a leaf is made of other leaves."""
        todo, seen = [leaf], {leaf}
        while todo and len(seen) <= MOST:
            v = todo.pop()
            if v is not leaf and v in self.leaves:
                return True
            if v.op and self._within(v):
                new = [o for o in v.op.operands if o and o not in seen]
                todo += new
                seen.update(new)
        return False

    def _private(self) -> bool:
        """Whether the one leaf is itself a function of an 8-bit number, and used here alone."""
        if len(self.leaves) != 1:
            return False
        (leaf,) = self.leaves
        if not leaf.op or not self._within(leaf) or isinstance(leaf.op.kind, Scaled):
            return False
        return all(use.op in self.ops for use in leaf.uses)

    def table(self, q: Value) -> Array:
        """The result for each value of the variable."""
        found: dict[Value, Array] = {q: every(q.tensor.dtype)}

        def value(v: Value | None, table: bool) -> Array | None:
            data = const(v)
            if v is None or data is None:
                return v and number(v)
            return data.numpy() if table else data.numpy().reshape(())

        def number(v: Value) -> Array:
            if v not in found:
                assert v.op
                op, tables = v.op, isinstance(v.op.kind, Lookup)
                arrays = [value(o, tables and i == 1) for i, o in enumerate(op.operands)]
                (found[v],) = op.kind.evaluate(*arrays)
            return found[v]

        return number(self.last.result)


def _parameter(op: Op, index: int, v: Value) -> bool:
    """Whether an operand is a constant for all elements alike."""
    data = const(v)
    if data is None:
        return False
    return data.numpy().size == 1 or (isinstance(op.kind, Lookup) and index == 1)


TABLES = (lookup,)
