"""Two ops of a sort, one after the other, that one op can do."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

from graphopt.ir.core import Op, OpKind, Value
from graphopt.ir.types import DType
from graphopt.ops.elementwise import Abs, Cast, Ceil, Clip, Floor, Neg, Relu, Round, Sign
from graphopt.ops.movement import Concat, Pad, Slice, Split, Transpose
from graphopt.rewrite import Miss, Rewriter, Rule, made_by, only_use, rule

SIBLINGS = 64  # users of a value that are looked at together


@rule(Transpose)
def transpose_twice(rw: Rewriter, op: Op, kind: Transpose) -> Value | None:
    """transpose(transpose(x, p), q) -> transpose(x, p[q])."""
    inner = made_by(op.operand(0), Transpose)
    if inner is None:
        return None
    perm = tuple(inner[1].perm[q] for q in kind.perm)
    if perm == tuple(range(len(perm))):
        return inner[0].operand(0)
    return rw.make(Transpose(perm), inner[0].operand(0))


_EXACT_FLOAT = {  # significand and exponent range both contained
    DType.f16: {DType.f32, DType.f64}, DType.bf16: {DType.f32, DType.f64}, DType.f32: {DType.f64},
}  # fmt: skip
_SIGNIFICAND = {DType.f16: 11, DType.bf16: 8, DType.f32: 24, DType.f64: 53}


def holds(small: DType, big: DType) -> bool:
    """Whether every number of `small` is one of `big`."""
    if small is big:
        return True
    if small is DType.bool_:
        return big.is_int or big in _SIGNIFICAND
    if small.is_float:
        return big in _EXACT_FLOAT.get(small, set())
    if not small.is_int or small.bits < 8:
        return False
    signed = small.name[0] == "i"
    if big.is_float:
        return small.bits - signed <= _SIGNIFICAND.get(big, 0) and big is not DType.f16
    return big.is_int and big.bits > small.bits and (big.name[0] == "i" or not signed)


@rule(Cast)
def cast_twice(rw: Rewriter, op: Op, kind: Cast) -> Value | None:
    """cast(cast(x: t, wider), u) -> cast(x, u), or x where u is t."""
    inner = made_by(op.operand(0), Cast)
    if inner is None:
        return None
    x = inner[0].operand(0)
    if not holds(x.tensor.dtype, inner[1].to):
        raise Miss(f"{inner[1].to} doesn't hold every {x.tensor.dtype}")
    return x if x.tensor.dtype is kind.to else rw.make(kind, x)


@rule(Relu)
def relu_twice(rw: Rewriter, op: Op, kind: Relu) -> Value | None:
    """relu(relu(x)) -> relu(x)."""
    return op.operand(0) if made_by(op.operand(0), Relu) else None


@rule(Relu)
def relu_of_clip(rw: Rewriter, op: Op, kind: Relu) -> Value | None:
    """relu(clip(x, lo, hi)) -> clip(x, max(lo, 0), max(hi, 0))."""
    inner = made_by(op.operand(0), Clip)
    if inner is None:
        return None
    if all(b is not None and b >= 0 for b in (inner[1].lo, inner[1].hi or 0)):
        return op.operand(0)
    return _clip_of(rw, inner[0], inner[1], Clip(_zero(op), None))


@rule(Clip)
def clip_of_relu(rw: Rewriter, op: Op, kind: Clip) -> Value | None:
    """clip(relu(x), lo, hi) -> clip(x, max(lo, 0), hi)."""
    inner = made_by(op.operand(0), Relu)
    return _clip_of(rw, inner[0], Clip(_zero(op), None), kind) if inner else None


@rule(Clip)
def clip_twice(rw: Rewriter, op: Op, kind: Clip) -> Value | None:
    """clip(clip(x, a, b), lo, hi) -> clip(x, a and b clipped to lo..hi)."""
    inner = made_by(op.operand(0), Clip)
    return _clip_of(rw, inner[0], inner[1], kind) if inner else None


def _zero(op: Op) -> float | int:
    return 0.0 if op.result.tensor.dtype.is_float else 0


def _clip_of(rw: Rewriter, inner: Op, first: Clip, then: Clip) -> Value:
    """One clip that does what `first` and `then` do to the operand of `inner`."""
    for clip in (first, then):
        if clip.lo is not None and clip.hi is not None and clip.lo > clip.hi:
            raise Miss("the bounds are crossed")
    only_use(inner.result)
    rw.absorb(inner)
    merged = Clip(_bounded(first.lo, then, then.lo), _bounded(first.hi, then, then.hi))
    return rw.make(merged, inner.operand(0))


def _bounded(bound: float | int | None, to: Clip, other: float | int | None) -> float | int | None:
    """A bound of the first clip, seen through the second."""
    if bound is None:
        return other
    low = bound if to.lo is None else max(bound, to.lo)
    return low if to.hi is None else min(low, to.hi)


@rule(Clip)
def clip_nothing(rw: Rewriter, op: Op, kind: Clip) -> Value | None:
    """clip(x) without bounds -> x; clip(x, 0) -> relu(x)."""
    if kind.hi is not None:
        return None
    if kind.lo is None:
        return op.operand(0)
    relu = kind.lo == 0 and op.result.tensor.dtype.is_float
    return rw.make(Relu(), op.operand(0)) if relu else None


def _idempotent(kind: type[OpKind]) -> Rule[Any]:
    def fn(rw: Rewriter, op: Op, _: OpKind) -> Value | None:
        """f(f(x)) -> f(x), for abs, ceil, floor, round and sign."""
        return op.operand(0) if made_by(op.operand(0), kind) else None

    return Rule(f"{kind.name}-twice", kind, fn)


@rule(Abs)
def abs_of_negative(rw: Rewriter, op: Op, kind: Abs) -> Value | None:
    """|-x| -> |x|."""
    inner = made_by(op.operand(0), Neg)
    return rw.make(kind, inner[0].operand(0)) if inner else None


@rule(Pad)
def pad_twice(rw: Rewriter, op: Op, kind: Pad) -> Value | None:
    """pad(pad(x, p, v), q, v) -> pad(x, p + q, v)."""
    inner = made_by(op.operand(0), Pad)
    if inner is None:
        return None
    if {inner[1].mode, kind.mode} != {"constant"} or inner[1].value != kind.value:
        raise Miss("the paddings differ in mode or value")
    if min(*inner[1].pads, *kind.pads) < 0:
        raise Miss("one of them crops")
    only_use(op.operand(0))
    rw.absorb(inner[0])
    pads = tuple(a + b for a, b in zip(inner[1].pads, kind.pads, strict=True))
    return rw.make(Pad(pads, "constant", kind.value), inner[0].operand(0))


@rule(Slice)
def slice_twice(rw: Rewriter, op: Op, kind: Slice) -> Value | None:
    """slice(slice(x, a), b) -> slice(x, a and b), where they cut different axes."""
    inner = made_by(op.operand(0), Slice)
    if inner is None:
        return None
    only_use(op.operand(0))
    first, rank = inner[1], op.operand(0).tensor.rank
    if rank is None or {a % rank for a in first.axes} & {a % rank for a in kind.axes}:
        raise Miss("both cut one axis")
    rw.absorb(inner[0])
    both = Slice(
        first.starts + kind.starts, first.ends + kind.ends, first.axes + kind.axes,
        first.steps + kind.steps,
    )  # fmt: skip
    return rw.make(both, inner[0].operand(0))


@rule(Concat)
def concat_twice(rw: Rewriter, op: Op, kind: Concat) -> Value | None:
    """concat(concat(a, b), c) -> concat(a, b, c), along one axis."""
    rank, flat, found = op.result.tensor.rank, list[Value](), False
    for v in (v for v in op.operands if v):
        inner = made_by(v, Concat)
        same = inner and rank and inner[1].axis % rank == kind.axis % rank
        if inner and same and v.use_count == 1:
            flat += [w for w in inner[0].operands if w]
            rw.absorb(inner[0])
            found = True
        else:
            flat.append(v)
    return rw.make(kind, *flat) if found else None


@rule(Concat)
def concat_of_split(rw: Rewriter, op: Op, kind: Concat) -> Value | None:
    """concat(split(x)) -> x, all parts in order along one axis."""
    first = made_by(op.operand(0), Split)
    if first is None or tuple(op.operands) != first[0].results:
        return None
    rank = op.result.tensor.rank
    same = rank and first[1].axis % rank == kind.axis % rank
    return first[0].operand(0) if same else None


@rule(Split)
def split_of_concat(rw: Rewriter, op: Op, kind: Split) -> tuple[Value, ...] | None:
    """split(concat(a, b)) -> a, b, where the parts are the pieces."""
    inner = made_by(op.operand(0), Concat)
    rank = op.operand(0).tensor.rank
    if inner is None or not rank or inner[1].axis % rank != kind.axis % rank:
        return None
    parts = tuple(v for v in inner[0].operands if v)
    sizes = [v.tensor.shape[kind.axis] if v.tensor.shape else None for v in parts]
    if sizes != list(kind.sizes):
        raise Miss("the parts are not the pieces that were concatenated")
    return parts


@rule(Slice)
def slices_to_split(rw: Rewriter, op: Op, kind: Slice) -> Value | None:
    """x[0:a], x[a:b], x[b:] -> split(x), one result each (`cse` makes the splits one)."""
    x, axis = op.operand(0), kind.axes[0] if kind.axes else 0
    mine, size = _cut(op, axis), x.tensor.shape and x.tensor.shape[axis]
    if mine is None or x.use_count > SIBLINGS:
        return None
    cuts = sorted({cut for u in x.uses for cut in _cuts(u.op, axis)})
    if len(cuts) < 2 or cuts[0][0] != 0 or cuts[-1][1] != size:
        return None
    if any(a[1] != b[0] for a, b in pairwise(cuts)) or any(_cut_again(u.op) for u in x.uses):
        return None
    parts = rw.op(Split(axis, tuple(end - start for start, end in cuts)), x)
    return parts.results[cuts.index(mine)]


def _cut_again(op: Op) -> bool:
    """Whether it is a slice that `slice_twice` merges with the next one."""
    uses = op.result.uses if isinstance(op.kind, Slice) else ()
    return any(isinstance(u.op.kind, Slice) for u in uses)


def _cuts(op: Op, axis: int) -> list[tuple[int, int]]:
    """The parts along one axis that an op takes: of a slice one, of a split several."""
    if isinstance(op.kind, Split) and op.kind.axis == axis:
        ends = list(accumulate(op.kind.sizes))
        return list(zip([0, *ends], ends, strict=False))
    cut = _cut(op, axis)
    return [] if cut is None else [cut]


def _cut(op: Op, axis: int) -> tuple[int, int] | None:
    """The bounds of a slice along one axis of known size, step 1; None for anything else."""
    kind = op.kind
    if not isinstance(kind, Slice) or kind.axes != (axis,) or kind.steps != (1,):
        return None
    shape = op.operand(0).tensor.shape
    size = shape[axis] if shape else None
    if not isinstance(size, int):
        return None
    start, end, _ = slice(kind.starts[0], kind.ends[0]).indices(size)
    return (start, end) if start < end else None


RULES: tuple[Rule[Any], ...] = (
    transpose_twice, cast_twice, relu_twice, relu_of_clip, clip_of_relu, clip_twice, clip_nothing,
    *map(_idempotent, (Abs, Ceil, Floor, Round, Sign)), abs_of_negative, pad_twice, slice_twice,
    concat_twice, concat_of_split, split_of_concat, slices_to_split,
)  # fmt: skip
