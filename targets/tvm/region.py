# pyright: basic
# TVM ships no types.
"""A fused region as TE: every value is an expression of its logical index.

A kernel's arguments are placeholders of their *physical* shapes; `Region.at(value, index)` reads a
value at a *logical* index, through its layout, computing elementwise and movement ops on the way.
The op that a kernel is built around (its anchor) is bound by its family with `bind`.

Padded lanes: an output whose channels don't fill its blocks gets zeros there, whatever was
computed, so that every blocked tensor in memory is finite and zero in its padding.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import tvm
from tvm import te, tirx

from graphopt.errors import UnsupportedError
from graphopt.ir.builtin import Const
from graphopt.ir.core import Graph, Op, Value
from graphopt.ir.layout import parse_layout, physical_shape
from graphopt.ir.types import Array, DType, TensorType
from graphopt.ops.elementwise import Cast, Elementwise
from graphopt.ops.quant import Lookup, Scaled
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import bfloat, expr, formulas, movement, neon
from graphopt.targets.tvm.bfloat import tvm_dtype
from graphopt.targets.tvm.legal import is_anchor

Expr = Any
Index = Sequence[Expr]
Reader = Callable[[Index], Expr]
K = TypeVar("K")
ZERO = tirx.const(0, "int32")


def knobs_text(knobs: Any) -> str:
    """A dataclass of knobs as one line of text."""
    return json.dumps(dataclasses.asdict(knobs), sort_keys=True)


@dataclass
class Frame:
    """Values computed once in one branch of an expression."""

    seen: dict[tuple[Value, tuple[int, ...]], tuple[Expr, Index]] = field(default_factory=dict)
    lets: list[tuple[Expr, Expr]] = field(default_factory=list)


class Region:
    """The values of one region, readable at logical indices."""

    def __init__(self, graph: Graph, machine: Machine, knobs: str = "") -> None:
        """Make placeholders of the arguments; `knobs` are the choice of a template, as text."""
        self.graph, self.machine, self.knobs = graph, machine, knobs
        self.choices: list[str] = []
        self.result: Any = None  # the buffer of the result, where a kernel's loops are written out
        self.analyzer = tvm.sym.Analyzer()
        self.frames: list[Frame] = []
        self.lazy = True  # whether repeated values may be let-bound
        self.clamping = False
        self.stages: list[str] = []
        self.readers: dict[Value, Reader] = {}
        self.args = [self._placeholder(i, a) for i, a in enumerate(graph.args)]
        self.tensors: dict[Value, Any] = {}
        for arg, stored in zip(graph.args, self.args, strict=True):
            tensor = bfloat.readable(stored, static(arg).dtype)
            self.hold(arg, tensor)
            self.bind_tensor(arg, tensor, static(arg).layout)

    def _placeholder(self, i: int, arg: Value) -> Any:
        t = static(arg)
        shape = physical_shape(shape_of(arg), t.layout) or (1,)
        return te.placeholder(shape, dtype=bfloat.stored_dtype(t.dtype), name=f"p{i}")

    def hold(self, arg: Value, tensor: Any) -> None:
        """Say which tensor an argument is, and what it is as float32 where it is shorter."""
        self.tensors[arg] = tensor
        wide = bfloat.floats(tensor, static(arg).dtype)
        self.tensors |= {v: wide for v, a in widenings(self.graph).items() if a is arg}

    def parameter(self, value: Value) -> int | None:
        """Which argument holds a value as it is, or as bfloat16; None: none does."""
        held = widenings(self.graph).get(value, value)
        return self.graph.args.index(held) if held in self.graph.args else None

    @property
    def anchor(self) -> Op | None:
        """The op that the kernel is built around, if any."""
        return next((op for op in self.graph if is_anchor(op)), None)

    def pick(self, choices: Sequence[K]) -> K:
        """The knobs of a template: those asked for, else the first, which is the best by rule.

        Raises:
            UnsupportedError: those asked for are no choice here.
        """
        self.choices = [knobs_text(k) for k in choices]
        if not self.knobs:
            return choices[0]
        if self.knobs not in self.choices:
            raise UnsupportedError(f"the kernel has no schedule with the knobs {self.knobs}")
        return choices[self.choices.index(self.knobs)]

    def bind(self, value: Value, reader: Reader) -> None:
        """Say how a value is read at a logical index."""
        self.readers[value] = reader

    def bind_tensor(self, value: Value, tensor: Any, tag: str) -> None:
        """Say that a value is stored in a tensor, by a layout tag."""
        shape = shape_of(value)
        self.bind(value, lambda index: self._load(tensor, tag, shape, index))

    def words(self, value: Value) -> Any:
        """An argument of short elements, seen as 32-bit words of several along its innermost axis.

        Four of 8 bits, or two of bfloat16, which `value` may be as float32. From now on its
        elements are parts of those words. Call it before anything else reads it.
        """
        arg = widenings(self.graph).get(value, value)
        i, dtype, tag = self.graph.args.index(arg), static(arg).dtype, static(arg).layout
        per = 32 // dtype.bits
        *outer, inner = physical_shape(shape_of(arg), tag)
        tensor = te.placeholder((*outer, inner // per), dtype="int32", name=f"p{i}")

        def element(index: Index) -> Expr:
            *at, last = self.physical(tag, index)
            word = tensor(*at, tirx.floordiv(last, per))
            shift = tirx.floormod(last, per) * dtype.bits
            stored = bfloat.stored_dtype(dtype)
            found = tirx.Cast(stored, tirx.shift_right(word, shift))  # keeps the low bits
            return bfloat.widened(found) if dtype is DType.bf16 else found

        self.args[i] = self.tensors[arg] = tensor
        self.bind(arg, element)
        return tensor

    def _load(self, tensor: Any, tag: str, shape: tuple[int, ...], index: Index) -> Expr:
        if not shape:
            return tensor(ZERO)
        return tensor(*self.place(tensor, tag, index))

    def place(self, tensor: Any, tag: str, index: Index) -> list[Expr]:
        """Where a logical index is stored in a tensor; some element of it, where it is past it."""
        at = self.physical(tag, index)
        if not self.clamping:
            return at
        return [self._clamped(i, int(d)) for i, d in zip(at, tensor.shape, strict=True)]

    def _clamped(self, i: Expr, size: int) -> Expr:
        bound: Any = self.analyzer.const_int_bound(i)
        inside = bound.max_value < size and bound.min_value >= 0
        return i if inside else tirx.max(tirx.min(i, tirx.const(size - 1, "int32")), ZERO)

    def physical(self, tag: str, index: Index) -> list[Expr]:
        """Where a logical index is stored."""
        if not tag:
            return list(index)
        layout = parse_layout(tag)
        simple = self.analyzer.simplify
        at = [simple(_over(index[a], layout.block(a))) for a in layout.order]
        for i, (a, size) in enumerate(layout.blocks):
            part = _over(index[a], layout.step(i))
            at.append(simple(tirx.floormod(part, size)))
        return at

    def logical(self, tag: str, at: Index) -> list[Expr]:
        """The logical index of a physical position (the inverse of `physical`)."""
        if not tag:
            return list(at)
        layout = parse_layout(tag)
        found: dict[int, Expr] = dict(zip(layout.order, at, strict=False))
        for (axis, size), inner in zip(layout.blocks, at[len(layout.order) :], strict=True):
            found[axis] = found[axis] * tirx.const(size, "int32") + inner
        return [found[a] for a in range(len(layout.order))]

    def at(self, value: Value, index: Index) -> Expr:
        """The expression of a value at a logical index."""
        if value in self.readers:
            return self.readers[value](index)
        key = (value, tuple(map(id, index)))
        for frame in self.frames:
            if key in frame.seen:
                return frame.seen[key][0]
        return self._keep(key, index, self._compute(value, index))

    def _keep(self, key: tuple[Value, tuple[int, ...]], index: Index, found: Expr) -> Expr:
        """Bind a value with several uses to a variable, so that it is computed once."""
        if not self.lazy or not self.frames or key[0].use_count < 2 or simple(found):
            return found
        var = tirx.Var(f"v{len(self.frames[-1].lets)}", found.ty)
        self.frames[-1].lets.append((var, found))
        self.frames[-1].seen[key] = (var, index)
        return var

    def _compute(self, value: Value, index: Index) -> Expr:
        op = value.op
        if op is None:
            raise UnsupportedError("a region uses a value from outside")
        if isinstance(op.kind, Const):
            return table(op.kind.data.numpy(), tvm_dtype(static(value).dtype), index)
        if isinstance(op.kind, Lookup):
            return self._lookup(op, index)
        if isinstance(op.kind, Scaled):
            given = [*self.scaled(op, op.kind, index)]
            narrow = neon.is_neon(self.machine)
            return formulas.scalar(op.kind, formulas.by_shorts(op.kind, given) if narrow else given)
        if isinstance(op.kind, Elementwise):
            operands = [self._operand(v, value, index) for v in op.operands if v]
            return formulas.scalar(op.kind, operands)
        if op.kind.name == "batch_norm":
            return self._batch_norm(op, index)
        return movement.move(self, op, value, index)

    def _batch_norm(self, op: Op, index: Index) -> Expr:
        """(x - mean) * (scale / sqrt(var + epsilon)) + bias, by channel."""
        kind: Any = op.kind
        x = self.at(op.operand(0), index)
        scale, bias, mean, var = (self.at(op.operand(i), [index[1]]) for i in range(1, 5))
        factor = scale / tirx.sqrt(var + expr.like(var, kind.epsilon))
        return (x - mean) * factor + bias

    def _lookup(self, op: Op, index: Index) -> Expr:
        """An element of a table, which must be an argument."""
        x, table = op.operand(0), op.operand(1)
        if table not in self.readers:
            raise UnsupportedError("a table inside a region")
        return formulas.scalar(op.kind, [self.at(x, index), self.at(table, [ZERO])])

    def scaled(self, op: Op, kind: Scaled, index: Index) -> Iterator[Expr]:
        """x, its factors and zero point: scalars, or of the index along the axis."""
        yield self.at(op.operand(0), index)
        for parameter in (v for v in op.operands[1:] if v):
            shape = shape_of(parameter)
            at = [] if not shape else [ZERO if shape == (1,) else index[kind.axis]]
            yield self.at(parameter, at)

    def _operand(self, operand: Value, result: Value, index: Index) -> Expr:
        """Read an operand at the result's index, broadcast as numpy does."""
        return self.at(operand, broadcast(index, shape_of(operand), shape_of(result)))

    def branch(self, make: Callable[[], Expr]) -> Expr:
        """An expression whose repeated values are computed inside it alone."""
        self.frames.append(Frame())
        body = make()
        for var, value in reversed(self.frames.pop().lets):
            body = tirx.Let(var, value, body)
        return body

    def eager(self, make: Callable[[], Expr]) -> Expr:
        """An expression without variables, fit to be an index."""
        before, self.lazy = self.lazy, False
        try:
            return make()
        finally:
            self.lazy = before

    def compute(self, shape: Sequence[int], body: Callable[..., Expr], name: str) -> Any:
        """te.compute with the index variables' ranges known to the simplifier."""

        def bound(*at: Any) -> Expr:
            for var, extent in zip(at, shape, strict=True):
                self.analyzer.bind(var, whole_range(extent))
            return body(*at)

        self.stages.append(name)
        return te.compute(tuple(shape), bound, name=name)

    def reduce_axis(self, extent: int, name: str) -> Any:
        """te.reduce_axis with its range known to the simplifier."""
        axis = te.reduce_axis((0, extent), name=name)
        self.analyzer.bind(axis.var, whole_range(extent))
        return axis

    def store(self, value: Value, name: str, tag: str | None = None) -> Any:
        """A stage that stores a value in its layout (or another), padding zeroed."""
        shape = shape_of(value)
        kept = static(value).layout if tag is None else tag

        def body(*at: Any) -> Expr:
            return self.element(value, self.logical(kept, at) if shape else [], kept)

        return self.compute(physical_shape(shape, kept) or (1,), body, name)

    def element(
        self, value: Value, index: Index, tag: str, read: Reader | None = None, outside: Expr = None
    ) -> Expr:
        """What memory keeps at an index of a layout: 0 (or `outside`) in its padding.

        `read` gives something else at an index than the value itself.
        """
        read = read or (lambda index: self.at(value, index))
        shape, layout = shape_of(value), parse_layout(tag) if tag else None
        split = dict.fromkeys(a for a, _ in layout.blocks) if layout else ()
        ragged = [(a, shape[a]) for a in split if layout and shape[a] % layout.block(a)]
        return self.stored(value, lambda: self._padded(read, index, ragged, outside))

    def stored(self, value: Value, make: Callable[[], Expr]) -> Expr:
        """An expression of a value, made by `make`, as the element that memory keeps."""
        found = self.branch(make)
        return bfloat.narrowed(found) if static(value).dtype is DType.bf16 else found

    def _padded(
        self, read: Reader, index: Index, ragged: list[tuple[int, int]], outside: Expr
    ) -> Expr:
        self.clamping = bool(ragged)
        found = read(index)
        self.clamping = False
        for axis, size in ragged:
            other = expr.like(found, 0) if outside is None else outside
            found = tirx.Select(index[axis] < size, found, other)
        return found

    def outputs(self) -> list[Any]:
        """The stages of the returned values: out0, out1, ..."""
        return [self.store(v, f"out{i}") for i, v in enumerate(self.graph.outputs)]

    def primfunc(self, outputs: Sequence[Any]) -> Any:
        """The TIR function of the arguments and outputs."""
        return te.create_prim_func([*self.args, *outputs])


def _over(index: Expr, size: int) -> Expr:
    return index if size == 1 else tirx.floordiv(index, size)


def widenings(graph: Graph) -> dict[Value, Value]:
    """The values that are arguments of a shorter type as float32, with those arguments."""
    return {
        op.result: op.operand(0) for op in graph
        if isinstance(op.kind, Cast) and op.kind.to is DType.f32
        and op.operand(0) in graph.args and static(op.operand(0)).dtype in bfloat.SHORT
        and static(op.operand(0)).layout == static(op.result).layout
    }  # fmt: skip


def whole_range(extent: int) -> Any:
    """[0, extent)."""
    first: Any = 0
    return tvm.ir.Range(first, extent)  # pyright: ignore[reportArgumentType]


def static(value: Value) -> TensorType:
    """The type of a value, whose shape must be static."""
    if value.tensor.static is None:
        raise UnsupportedError(f"%{value.hint}: {value.tensor} has no static shape")
    return value.tensor


def shape_of(value: Value) -> tuple[int, ...]:
    """The logical static shape."""
    shape = static(value).static
    assert shape is not None
    return shape


def broadcast(index: Index, shape: tuple[int, ...], result: tuple[int, ...]) -> list[Expr]:
    """The index into an operand of `shape` for an index into the broadcast result."""
    tail = list(index)[len(index) - len(shape) :]
    whole = result[len(result) - len(shape) :]
    return [ZERO if d == 1 and r != 1 else i for i, d, r in zip(tail, shape, whole, strict=True)]


def simple(e: Expr) -> bool:
    """Whether an expression costs nothing to repeat."""
    return isinstance(e, tirx.Var | tirx.IntImm | tirx.FloatImm)


def table(array: Array, dtype: str, index: Index) -> Expr:
    """An element of a small constant: an immediate, or a tree of choices."""
    if array.size and (array == array.reshape(-1)[0]).all():
        return expr.const(array.reshape(-1)[0].item(), dtype)
    if array.size > 4096:
        raise UnsupportedError(f"a constant of {array.size} elements inside a region")
    axes = [a for a, d in enumerate(array.shape) if d > 1]
    flat: Expr = ZERO
    for a in axes:
        flat = flat * tirx.const(array.shape[a], "int32") + index[a]
    items = [expr.const(v, dtype) for v in array.reshape(-1).tolist()]
    return _choose(flat, items, 0)


def _choose(i: Expr, items: list[Expr], first: int) -> Expr:
    if len(items) == 1:
        return items[0]
    half = len(items) // 2
    middle = tirx.const(first + half, "int32")
    return tirx.Select(
        i < middle, _choose(i, items[:half], first), _choose(i, items[half:], first + half)
    )
