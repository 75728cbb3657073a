"""A model for several samples a run, where it lets itself: fewer, larger runs are sooner done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from graphopt import onnx as onnx_io
from graphopt.errors import InputError
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Module, Op, OpKind
from graphopt.ir.types import Array, TensorType
from graphopt.ops.movement import Reshape

Feed = dict[str, Array]
CLOSE = 1e-3  # of the largest number: other kernels may sum in another order


def batched(module: Module, n: int) -> Module | None:
    """A copy whose inputs of leading size 1 take n samples; None where some op can't.

    What it computes is to be checked (`agrees`): an op may well mix samples.
    """
    copy = clone_module(module)
    for arg in copy.main.args:
        shape = arg.tensor.static if isinstance(arg.type, TensorType) else None
        if not shape or shape[0] != 1:
            return None
        arg.type = TensorType(arg.tensor.dtype, (n, *shape[1:]))
    for op in copy.main:
        if not _retype(op, n):
            return None
    return copy


def _retype(op: Op, n: int) -> bool:
    """Give an op the types that follow from its operands'; whether it can have them."""
    if op.regions:
        return False
    types = None
    for kind in _forms(op.kind, n):
        try:
            types = kind.infer(*(v and v.type for v in op.operands))
        except ValueError:
            continue
        op.kind = kind
        break
    if types is None:
        return False
    for result, type_ in zip(op.results, types, strict=True):
        result.type = type_
    return True


def _forms(kind: OpKind, n: int) -> Sequence[OpKind]:
    """An op's kind as it is, and as it would be for n samples."""
    if isinstance(kind, Reshape) and kind.shape[:1] == (1,):
        return (kind, replace(kind, shape=(n, *kind.shape[1:])))
    return (kind,)


def stacked(feeds: Sequence[Feed], n: int) -> list[Feed]:
    """Feeds of n samples each; a last partial batch is left out."""
    whole = range(0, len(feeds) - n + 1, n)
    return [{k: np.concatenate([f[k] for f in feeds[i : i + n]]) for k in feeds[i]} for i in whole]


def agrees(one: Module, many: Module, feeds: Sequence[Feed]) -> bool:
    """Whether a batch gives what its samples give one by one, in all float outputs.

    Args:
        one: takes a sample a run.
        many: takes `feeds` at once.
        feeds: of `one`.
    """
    floats = [v.tensor.dtype.is_float for v in one.main.outputs]
    (batch,) = stacked(feeds, len(feeds))
    try:
        got = list(onnx_io.Reference(many).run(batch).values())
    except InputError:
        return False
    reference = onnx_io.Reference(one)
    singles = [list(reference.run(feed).values()) for feed in feeds]
    pairs = [(np.concatenate([s[i] for s in singles]), got[i]) for i, f in enumerate(floats) if f]
    return bool(pairs) and all(_same(want, have) for want, have in pairs)


def _same(want: Array, have: Array) -> bool:
    if want.shape != have.shape:
        return False
    reach = float(np.abs(want).max(initial=0.0))
    return float(np.abs(want - have).max(initial=0.0)) <= CLOSE * reach
