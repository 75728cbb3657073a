"""New weights for the layers that read removed channels: what is left makes up for these.

    W' = W C[:,K] (C[K,K])^-1 on the columns K that are left,  b' = b + (W - W') E[x]

C is the Gram matrix of what the layer reads, its diagonal raised (ridge regression of the layer's
own result: Luo et al. 2017, arXiv 1707.06342, section 3.2.2; He et al. 2017, arXiv 1707.06168).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphopt.ir.builtin import Const
from graphopt.ir.core import Op, Value
from graphopt.ir.data import Computed, Data
from graphopt.ir.types import Array
from graphopt.lazy import Lazy
from graphopt.ops.linalg import Gemm
from graphopt.passes.layers.unfold import unrows
from graphopt.passes.prune.scores import Inputs, centred, weight
from graphopt.passes.quantize.swap import swap
from graphopt.rewrite import const

linalg: Any = Lazy("scipy.linalg")


@dataclass(frozen=True)
class Repair:
    """What a layer needs: `there` says of each column of each group whether it is left."""

    inputs: Inputs
    there: Array

    def weights(self, w: Array) -> Array:
        """W' of W, float64 [groups, M / groups, K]; 0 where columns are gone."""
        made = np.zeros_like(w)
        for i, (part, there) in enumerate(zip(w, self.there, strict=True)):
            k, gram = np.flatnonzero(there), self.inputs.gram(i)
            right = part @ gram[:, k]
            made[i][:, k] = linalg.solve(gram[np.ix_(k, k)], right.T, assume_a="pos").T
        return made


def repair(op: Op, plan: Repair) -> None:
    """Give a layer the weights that make up for columns that go; they are computed when wanted."""
    old, data = op.operand(1), const(op.operand(1))
    assert data
    w = weight(op)
    solved = Computed(data.dtype, data.shape, lambda: unrows(op, plan.weights(w), data.shape))
    _put(op, 1, solved, old.hint)
    if centred(op):
        _move_mean(op, w, solved, plan)


def _move_mean(op: Op, w: Array, solved: Data, plan: Repair) -> None:
    """Let the bias take up what the mean of the result changes by."""
    old = op.operands[2]
    given, kind, factor = const(old), op.kind, 1.0
    if old is not None and given is None:
        return
    if isinstance(kind, Gemm):
        op.kind = kind = replace(kind, beta=1.0 if given is None else kind.beta)
        factor = kind.alpha / kind.beta if kind.beta else 0.0

    def moved() -> Array:
        change = w - weight(op, solved)
        shift = np.einsum("gmk,gk->gm", change, plan.inputs.mean).reshape(-1) * factor
        return shift if given is None else given.numpy().astype(np.float64).reshape(-1) + shift

    outputs = w.shape[0] * w.shape[1]
    shape = given.shape if given is not None and given.shape[-1:] == (outputs,) else (outputs,)
    _put(op, 2, Computed(solved.dtype, shape, moved), old.hint if old else "")


def _put(op: Op, index: int, data: Data, name: str) -> None:
    graph = op.graph
    assert graph
    new: Value = graph.insert(Op(Const(data), hints=[name]), op).result
    swap(op, index, new)
