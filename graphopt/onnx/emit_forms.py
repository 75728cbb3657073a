"""Writing forms that `fuse` recognises: as the ops they stand for, never more than there were."""

from __future__ import annotations

from graphopt.ir.core import Graph, Op, OpKind, Use
from graphopt.ir.types import Dim, DType, TensorType, same
from graphopt.onnx.emitter import EMITTERS, Emitter, NeedsOpset, emits, kind_of
from graphopt.ops import excite, linalg
from graphopt.ops import movement as mv
from graphopt.ops.reduce import ReduceMean

Strs = list[str]
Dims = tuple[Dim, ...]


@emits(mv.Transpose)
def _transpose(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """Left out where only attentions read it, as keys: they write the transpose that they need."""
    perm = kind_of(op).perm
    e.turned[outs[0]] = ins[0], perm
    uses = op.result.uses
    if not uses or not all(u.op.graph is op.graph and _writes_keys(e, u) for u in uses):
        e.node("Transpose", ins, outs, perm=perm)
        e.transposes.setdefault((ins[0], perm), outs[0])


def _writes_keys(e: Emitter, use: Use) -> bool:
    """Whether a use is that of the keys of an attention that is written as its ops."""
    return isinstance(use.op.kind, linalg.Attention) and use.index == 1 and not _native(e, use.op)


def _transposed(e: Emitter, x: str, rank: int) -> str:
    """x with its last two axes exchanged: what x is the transpose of, or one transpose of that."""
    every = tuple(range(rank))
    source, perm = e.turned.get(x, (x, every))
    turned = (*perm[:-2], perm[-1], perm[-2])
    if turned == every:
        return source
    if (source, turned) not in e.transposes:
        e.transposes[source, turned] = e.temp("Transpose", [source], perm=turned)
    return e.transposes[source, turned]


@emits(linalg.Attention)
def _attention(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """One node from opset 23 on where that can say it; else the ops that it stands for."""
    q, k, v, *mask = (n for n in ins if n)
    scale, rank = kind_of(op).scale, op.operand(1).tensor.rank
    if rank is None:
        raise NeedsOpset(99, "attention of an unknown rank")
    if _native(e, op):
        e.node("Attention", [q, k, v, *mask], outs, scale=scale)
        return
    scaled = q if scale == 1 else e.temp("Mul", [q, e.number(scale, op.operand(0).tensor.dtype)])
    scores = e.temp("MatMul", [scaled, _transposed(e, k, rank)])
    scores = e.temp("Add", [scores, mask[0]]) if mask else scores
    axis = -1 if e.opset >= 13 else (op.result.tensor.rank or rank) - 1
    weights = e.temp("Softmax", [scores], axis=axis)
    if kind_of(op).rounded:
        if e.opset < 13:
            raise NeedsOpset(13, "a cast to bfloat16")
        half = e.temp("Cast", [weights], to=DType.bf16.onnx)
        weights = e.temp("Cast", [half], to=op.result.tensor.dtype.onnx)
    e.node("MatMul", [weights, v], outs)


NATIVE_FLOATS = (DType.f16, DType.f32, DType.f64)


def _native(e: Emitter, op: Op) -> bool:
    """Whether ONNX's Attention says it: rank 4, as many heads everywhere, a mask of whole rows.

    It multiplies q and k by the root of the scale, which must be positive.
    """
    q, k, v, mask = (x and x.tensor for x in op.operands)
    if e.opset < 23 or not q or q.dtype not in NATIVE_FLOATS or kind_of(op).scale <= 0:
        return False
    if kind_of(op).rounded:
        return False
    q, k, v = (x.shape if x and x.shape and len(x.shape) == 4 else None for x in (q, k, v))
    if not q or not k or not v or not isinstance(q[1], int):
        return False
    alike = all(_same(q[:2], x[:2]) for x in (k, v))
    return alike and (mask is None or _whole_rows(mask, op.operand(0).tensor, (q[2], k[2])))


def _whole_rows(mask: TensorType, q: TensorType, sizes: Dims) -> bool:
    """Whether the mask has a number of the type of q for each pair of a query and a key."""
    shape = mask.shape or ()
    return mask.dtype is q.dtype and 2 <= len(shape) <= 4 and _same(shape[-2:], sizes)


def _same(a: Dims, b: Dims) -> bool:
    return all(same(x, y) for x, y in zip(a, b, strict=True))


@emits(excite.SqueezeExcite)
def _squeeze_excite(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """Five nodes and what the activations take: mean, convolution, activation, twice the last."""
    x, w1, w2, b1, b2 = ins
    type_, rank = op.operand(0).tensor, op.operand(1).tensor.rank
    if rank is None:
        raise NeedsOpset(99, "squeeze_excite of an unknown rank")
    means = _inner(e, ReduceMean(tuple(range(2, rank))), type_, x)
    first, last = kind_of(op).functions()
    vector = TensorType(type_.dtype, op.result.tensor.shape)
    ones = (1,) * (rank - 2)
    hidden = _inner(e, first, vector, e.temp("Conv", [means, w1, b1], kernel_shape=ones))
    _part(e, last, vector, e.temp("Conv", [hidden, w2, b2], kernel_shape=ones), outs)


def _inner(e: Emitter, kind: OpKind, type_: TensorType, x: str) -> str:
    """Write kind(x) inside a form, and give the name of its result."""
    out = e.values.fresh(f"{e.at or kind.name}_{kind.name}")
    _part(e, kind, type_, x, [out])
    return out


def _part(e: Emitter, kind: OpKind, type_: TensorType, x: str, outs: Strs) -> None:
    """Write outs = kind(x), for x of a type."""
    EMITTERS[type(kind)](e, Op(kind, Graph([type_]).args), [x], outs)
