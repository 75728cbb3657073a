"""What channels are worth: norms of their weights, or what the layers that read them would lose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from graphopt.ir.core import Module, Op
from graphopt.ir.data import Data
from graphopt.ir.types import Array
from graphopt.ops.linalg import Attention, Gemm, MatMul
from graphopt.ops.nn import Conv
from graphopt.passes.layers.gram import Gram, grams, row_length
from graphopt.passes.layers.store import store
from graphopt.passes.layers.unfold import rows
from graphopt.passes.prune.eliminate import Order, Reading, eliminate, reading
from graphopt.passes.prune.groups import End, Group
from graphopt.passes.prune.rules import weighted
from graphopt.passes.quantize.rounding import damped
from graphopt.pipeline import Activations
from graphopt.rewrite import const

Criterion = Literal["l1", "l2", "reconstruct"]
LONGEST = 6144  # numbers in a row of a weight whose inputs are looked at: a factor has 300 MB


@dataclass(frozen=True)
class Inputs:
    """What a layer reads on samples.

    `grams`: float32 [K, K] of each of its groups, in files; about `mean` (float64 [groups, K]) if
    the layer's bias can take that up. `count`: columns seen. `signal`: the mean square of the
    layer's result at a place, all channels together. `sense`: noise over signal at the model's
    outputs, for noise over signal at the layer's result.
    """

    grams: tuple[Data, ...]
    mean: Array
    count: int
    signal: float
    sense: float = 1.0

    def gram(self, group: int) -> Array:
        """One of them, float64, its diagonal raised."""
        return damped(self.grams[group].numpy().astype(np.float64), self.count)


def weight(op: Op, data: Data | None = None) -> Array:
    """A layer's weight, or one that it could have, as float64 [groups, M / groups, K]."""
    data = data or const(op.operand(1))
    assert data
    return rows(op, data.numpy().astype(np.float64))


def centred(op: Op) -> bool:
    """Whether a layer's bias can take up what changes of its result's mean."""
    return isinstance(op.kind, Conv) or (isinstance(op.kind, Gemm) and op.kind.alpha != 0)


def look(
    module: Module,
    readers: Sequence[Op],
    samples: Activations,
    sense: Mapping[Op, float],
    runs: int,
) -> dict[Op, Inputs]:
    """What layers read on samples; those with longer rows than LONGEST are left out."""
    able = [op for op in dict.fromkeys(readers) if row_length(op) <= LONGEST]
    return {g.op: _inputs(g, sense.get(g.op, 1.0)) for g in grams(module, able, samples, runs)}


def _inputs(gram: Gram, sense: float) -> Inputs:
    op, w = gram.op, weight(gram.op)
    signal, kept = 0.0, list[Data]()
    found = gram.covariances() if centred(op) else gram.moments()
    for one, part, mean in zip(found, w, gram.mean(), strict=True):
        moved = part @ one
        signal += float((moved * part).sum())
        if centred(op):
            signal += float(np.sum((part @ mean) ** 2))
        kept.append(store(one))
    return Inputs(tuple(kept), gram.mean(), gram.count, max(signal, 1e-30), sense)


def columns(end: End, units: Array) -> list[list[Array]]:
    """Where units are in the rows of a reader's weight: for each of its groups, of each unit."""
    layer = weighted(end.op)
    assert layer
    groups = getattr(end.op.kind, "group", 1)
    wide = layer.inputs // groups
    taps = np.arange(row_length(end.op) // wide)
    lines = end.line.reshape(groups, wide)
    found = list[list[Array]]()
    for line in lines:
        places = (np.flatnonzero(line == u) for u in units)
        found.append([(p[:, None] * len(taps) + taps).reshape(-1) for p in places])
    return found


def norms(group: Group, power: int) -> Order:
    """Units by the norms of their weights, in parts of what the mean unit has.

    Of each layer that makes or reads them the power-th powers of the numbers are summed, and
    divided by their mean over units, so that layers count alike however large their numbers are.
    """
    shares = [s for end in (*group.makers, *group.readers) for s in _shares(end, group, power)]
    scores = np.mean(shares, 0) if shares else np.ones(len(group.units))
    order = np.argsort(scores, kind="stable")
    lost = np.concatenate([[0.0], np.cumsum(scores[order])])
    return Order(order, lost / max(float(lost[-1]), 1e-300))


def _shares(end: End, group: Group, power: int) -> Iterator[Array]:
    layer = weighted(end.op) if end.weighted else None
    if layer is None:
        return
    w = np.abs(layer.w.numpy().astype(np.float64)) ** power
    reads = any(end is r for r in group.readers)
    per = _by_input(end.op, w, layer.inputs) if reads else _by_output(end.op, w, layer.outputs)
    found = np.array([per[end.line == u].sum() for u in group.units])
    if found.mean() > 0:
        yield found / found.mean()


def _by_output(op: Op, w: Array, outputs: int) -> Array:
    """Sums of a weight over what each output channel has of it."""
    return rows(op, w).sum(-1).reshape(outputs, -1).sum(-1)


def _by_input(op: Op, w: Array, inputs: int) -> Array:
    """Sums of a weight over what each input channel has of it."""
    groups = getattr(op.kind, "group", 1)
    return rows(op, w).sum(1).reshape(groups, inputs // groups, -1).sum(-1).reshape(-1)


def losses(group: Group, inputs: Mapping[Op, Inputs], most: int) -> Order:
    """Units in the order in which they lose least, what is left making up for them.

    Where a product of activations sums over units (of queries and keys, say), no weights can make
    up for them: their norms have to do.
    """
    if not group.readers and any(_multiplied(end.op) for end in group.makers):
        return norms(group, 2)
    found = [r for end in group.readers for r in _readings(end, group, inputs)]
    return eliminate(found, len(group.units), most)


def _multiplied(op: Op) -> bool:
    """Whether a product of activations can be reached from an op without passing weights."""
    todo, seen = [u.op for u in op.result.uses], set[Op]()
    while todo:
        user = todo.pop()
        if user in seen or weighted(user):
            continue
        if isinstance(user.kind, Attention | MatMul):
            return True
        seen.add(user)
        todo += [u.op for r in user.results for u in r.uses]
    return False


def _readings(end: End, group: Group, inputs: Mapping[Op, Inputs]) -> Iterator[Reading]:
    if not end.weighted:
        return
    known, w = inputs.get(end.op), weight(end.op)
    for i, at in enumerate(columns(end, group.units)):
        if known:
            yield reading(w[i], known.gram(i), at, known.sense / known.signal)
        else:
            yield reading(w[i], np.eye(w.shape[2]), at, 1 / max(float(np.sum(w**2)), 1e-30))
