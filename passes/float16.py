"""Which layers compute in float16: `half{type=f16}`.

    conv(x, w, b) -> widen(conv(narrow(x), w', b')),  w', b' the float16 numbers nearest to w, b

Operands, results and sums of these layers are float16's; the types say so. The narrowed operand
replaces x for everything that reads it, so that memory holds float16. Then casts go: through what
only moves or picks elements, which is exact,

    relu(widen(h)) -> widen(relu(h))

and around one addition or product whose result is narrowed, since rounding to float32 first does no
harm: it has 24 bits, as many as twice float16's and two (Figueroa, When is double rounding
innocuous?, SIGNUM 30(3), 1995):

    narrow(add(widen(a), widen(b))) -> add(a, b)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphopt.analysis.price import Costs, graph_of, graph_with
from graphopt.ir.builtin import Const, Opaque, Return
from graphopt.ir.core import Graph, Module, Op, Value
from graphopt.ir.data import Computed, Data, Inline, nbytes
from graphopt.ir.types import Array, DType, TensorType
from graphopt.ops.elementwise import Add, Cast, Clip, Mul, Relu, Sub
from graphopt.ops.movement import Concat, Reshape, Slice, Split, Squeeze, Transpose, Unsqueeze
from graphopt.ops.nn import MaxPool
from graphopt.pipeline import Context
from graphopt.rewrite import Remark

RULE = "float16"
LARGEST = 65504.0
ROOM = 4.0  # times a value on samples, that float16 must hold: other data, and sums on the way
RUNS = 16  # of the samples, that values are looked at
GAIN = 0.95  # of the time in float32: what isn't faster than that isn't worth its error
SMALL = 4096  # bytes of a constant that is rounded at once, not when its numbers are wanted
PICKS = (Relu, MaxPool, Reshape, Squeeze, Unsqueeze, Transpose, Concat, Split, Slice)
SUMS = (Add, Sub, Mul)
TOLD = "summed in float16, each step within 2^-11 of itself"


def compute_in_float16(module: Module, ctx: Context, *, always: bool) -> Iterator[Remark]:
    """Let layers compute in float16: those that are faster so, or, if `always`, all that can."""
    graph = module.main
    layers = [op for op in graph if _is_layer(op)]
    largest = _largest(module, layers, ctx)
    costs = None if always or ctx.costs is None else ctx.costs.described()
    stored: dict[Value, Value] = {}  # constants, by the float32 ones
    far = sum(nbytes(op.kind.data) for op in graph if isinstance(op.kind, Const))
    for op in layers:
        why = _overflow(op, largest)
        if not why and not always:
            why = _slower(op, costs, far) if costs else "nothing tells what it costs"
        if why:
            yield Remark(RULE, op.loc, False, why)
        elif ctx.permit(RULE, op.loc):
            told = f"{op.result.type}: {TOLD}"
            _narrow_layer(op, stored)
            yield Remark(RULE, op.loc, True, told)
    _drop_casts(graph)


def _is_layer(op: Op) -> bool:
    """Whether an op multiplies float32 by constant weights, in a form that has float16 kernels."""
    kind: Any = op.kind
    if kind.name not in ("conv", "matmul", "gemm"):
        return False
    tensors = [v.type for v in (*op.operands, *op.results) if v]
    if not all(isinstance(t, TensorType) and t.dtype is DType.f32 and t.static for t in tensors):
        return False
    if not all(v is None or _constant(v) for v in op.operands[1:]):
        return False
    x, w = op.operand(0).tensor.static or (), op.operand(1).tensor.static or ()
    if kind.name == "conv":
        return bool(kind.group == 1 or w[:2] == (kind.group, 1))
    return len(w) == 2 and len(x) > 1


def _constant(value: Value) -> Data | None:
    return value.op.kind.data if value.op and isinstance(value.op.kind, Const) else None


def _largest(module: Module, layers: Sequence[Op], ctx: Context) -> dict[Value, float]:
    """The largest magnitudes on samples of what layers read and make; nothing without samples."""
    values = list(dict.fromkeys(v for op in layers for v in (op.operand(0), op.result)))
    if not values or ctx.samples is None or not ctx.samples.runs:
        return {}
    found = dict.fromkeys(values, 0.0)
    for i, array in ctx.samples.watch(module, values, min(RUNS, ctx.samples.runs)):
        top = float(np.abs(array).max(initial=0.0))
        found[values[i]] = max(found[values[i]], top if np.isfinite(top) else np.inf)
    return found


def _overflow(op: Op, largest: dict[Value, float]) -> str:
    """Why float16 might not hold a layer's numbers; empty: it does."""
    for i, v in enumerate(op.operands[1:]):
        data = _constant(v) if v else None
        top = float(np.abs(data.numpy()).max(initial=0.0)) if data else 0.0
        if not top <= LARGEST:
            return f"its {'bias' if i else 'weights'} reach {top:.3g}, beyond float16's {LARGEST:g}"
    for what, v in (("reads", op.operand(0)), ("makes", op.result)):
        if not ROOM * largest.get(v, 0.0) <= LARGEST:
            return (f"what it {what} reaches {largest[v]:.3g} on samples, which leaves too little "
                    f"room below float16's {LARGEST:g}")  # fmt: skip
    return ""


def _slower(op: Op, costs: Costs, footprint: int) -> str:
    """Why a layer stays as it is by its price; empty: float16 is faster.

    Minimal filtering has a quarter of the products, where float16 only halves their time: by
    counted instructions it takes 0.7 of that, whatever the model of prices makes of it.
    """
    alone = graph_of([op])
    if "winograd" in costs.families(alone):
        return "it is filtered minimally in float32, with a quarter of the products"
    wide = costs.price(alone, footprint).seconds
    halves = [replace(v.tensor.logical, dtype=DType.f16) if v else None for v in op.operands]
    twin = graph_with(op.kind, halves, range(1, len(halves)))
    half = costs.price(twin, footprint).seconds
    return f"in float16 it would take {half / wide:.2f} of the time" if half > GAIN * wide else ""


def _narrow_layer(op: Op, stored: dict[Value, Value]) -> None:
    """Replace a layer by one of float16 between casts."""
    graph = op.graph
    assert graph
    for v in (v for v in op.operands[1:] if v and v not in stored):
        stored[v] = _stored(v)
    operands = [_narrowed(op.operand(0), op), *(v and stored[v] for v in op.operands[1:])]
    made = graph.insert(Op(op.kind, operands, loc=op.loc, hints=[op.result.hint]), op)
    wide = graph.insert(Op(Cast(DType.f32), [made.result], loc=op.loc, hints=[op.result.hint]), op)
    op.result.replace_all_uses_with(wide.result)
    graph.erase(op)


def _narrowed(value: Value, reader: Op) -> Value:
    """A value as float16, and for all in its graph that read it, too, if it is made there."""
    graph = reader.graph
    assert graph
    source = value.op
    if source and isinstance(source.kind, Cast) and source.operand(0).tensor.dtype is DType.f16:
        return source.operand(0)
    for use in value.uses:  # an input that another layer reads, too
        if isinstance(use.op.kind, Cast) and use.op.kind.to is DType.f16 and use.op.graph is graph:
            return use.op.result
    made_here = source is not None and source.graph is graph
    loc, hint = source.loc if source else reader.loc, f"{value.hint}_half"
    before = source.next if source and made_here else reader
    uses = [u for u in value.uses if made_here and u.op.graph is graph
            and not isinstance(u.op.kind, Return | Opaque)]  # fmt: skip
    half = graph.insert(Op(Cast(DType.f16), [value], loc=loc, hints=[hint]), before)
    wide = graph.insert(Op(Cast(DType.f32), [half.result], loc=loc, hints=[value.hint]), half.next)
    for use in uses:
        use.op.set_operand(use.index, wide.result)
    return half.result


def _stored(value: Value) -> Value:
    """A constant in float16, beside the float32 one."""
    op, data = value.op, _constant(value)
    assert op and op.graph and data
    numbers: Data = Computed(DType.f16, tuple(data.shape), lambda: nearest(data.numpy()))
    if nbytes(data) <= SMALL:
        numbers = Inline(numbers.numpy())
    types = [TensorType(DType.f16, tuple(data.shape))]
    made = Op(Const(numbers), [], types, loc=op.loc, hints=[value.hint])
    return op.graph.insert(made, op.next).result


def nearest(numbers: Array) -> Array:
    """The nearest float16 numbers (of two, the even one)."""
    return numbers.astype(np.float16)


@dataclass(frozen=True)
class _Ends:
    """An op, and the float16 values that all of its operands are widened from."""

    op: Op
    halves: list[Value]


def _drop_casts(graph: Graph) -> None:
    """Compute in float16 what is exact so, or is narrowed at once; erase what nothing reads."""
    for op in list(graph):
        if op.graph is None:
            continue
        if isinstance(op.kind, Cast) and op.kind.to is DType.f16:
            _meet(op)
        elif _picks(op) and (ends := _widened(op)):
            _sink(ends)
    for op in reversed(list(graph)):
        unread = isinstance(op.kind, Cast | Const) and not op.result.uses
        if unread and (isinstance(op.kind, Const) or _is_float16(op)):
            graph.erase(op)


def _is_float16(op: Op) -> bool:
    return DType.f16 in (op.operand(0).tensor.dtype, op.result.tensor.dtype)


def _widened(op: Op) -> _Ends | None:
    """The float16 values that an op reads as float32, if all that it reads are such."""
    makers = [v.op if v else None for v in op.operands]
    casts = [m for m in makers if m and isinstance(m.kind, Cast) and m.kind.to is DType.f32]
    if not makers or len(casts) != len(makers):
        return None
    halves = [m.operand(0) for m in casts]
    return _Ends(op, halves) if all(h.tensor.dtype is DType.f16 for h in halves) else None


def _picks(op: Op) -> bool:
    """Whether each result element of an op is one of its operands', or a bound."""
    if isinstance(op.kind, Clip):
        bounds = (b for b in (op.kind.lo, op.kind.hi) if b is not None)
        return all(float(np.float32(b)) == float(np.float16(b)) for b in bounds)
    return isinstance(op.kind, PICKS)


def _sink(ends: _Ends) -> None:
    """pick(widen(h)) -> widen(pick(h)), of all results."""
    op, graph = ends.op, ends.op.graph
    assert graph
    hints = [r.hint for r in op.results]
    made = graph.insert(Op(op.kind, ends.halves, loc=op.loc, hints=hints), op)
    for old, new in zip(op.results, made.results, strict=True):
        wide = graph.insert(Op(Cast(DType.f32), [new], loc=op.loc, hints=[old.hint]), op)
        old.replace_all_uses_with(wide.result)
    graph.erase(op)


def _meet(narrow: Op) -> None:
    """narrow(widen(h)) -> h; narrow(add(widen(a), widen(b))) -> add(a, b)."""
    maker, graph = narrow.operand(0).op, narrow.graph
    assert graph
    if maker is None or maker.graph is not graph:
        return
    if isinstance(maker.kind, Cast) and maker.operand(0).tensor.dtype is DType.f16:
        narrow.result.replace_all_uses_with(maker.operand(0))
        return
    ends = _widened(maker) if isinstance(maker.kind, SUMS) else None
    if ends is None or maker.result.use_count > 1:
        return
    made = Op(maker.kind, ends.halves, loc=maker.loc, hints=[narrow.result.hint])
    graph.insert(made, maker)
    narrow.result.replace_all_uses_with(made.result)
    graph.erase(narrow)
    graph.erase(maker)
