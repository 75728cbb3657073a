"""Writing forms that `fuse` recognises: as the ops they stand for, never more than there were."""

from __future__ import annotations

from graphopt.ir.core import Graph, Op, OpKind
from graphopt.ir.types import TensorType
from graphopt.onnx.emitter import EMITTERS, Emitter, NeedsOpset, emits, kind_of
from graphopt.ops import excite, linalg
from graphopt.ops.reduce import ReduceMean

Strs = list[str]


@emits(linalg.Attention)
def _attention(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """Written as the ops it stands for, which every opset has and every runtime runs."""
    q, k, v, *mask = (n for n in ins if n)
    x = op.operand(0).tensor
    rank = op.operand(1).tensor.rank
    if rank is None:
        raise NeedsOpset(99, "attention of an unknown rank")
    perm = (*range(rank - 2), rank - 1, rank - 2)
    scaled = e.temp("Mul", [q, e.number(kind_of(op).scale, x.dtype)])
    scores = e.temp("MatMul", [scaled, e.temp("Transpose", [k], perm=perm)])
    scores = e.temp("Add", [scores, mask[0]]) if mask else scores
    out_rank = op.result.tensor.rank or rank
    axis = -1 if e.opset >= 13 else out_rank - 1
    e.node("MatMul", [e.temp("Softmax", [scores], axis=axis), v], outs)


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
