"""Repair a compressed module layer by layer, each with what the layers before it give by then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir.builtin import Const
from graphopt.ir.core import Loc, Op, Use, Value
from graphopt.ir.data import Inline
from graphopt.ir.types import Array
from graphopt.ops.linalg import Gemm
from graphopt.passes.layers.gram import row_length
from graphopt.passes.layers.unfold import columns, places, positions, rows, unrows
from graphopt.passes.reconstruct.live import Live, Runs
from graphopt.passes.reconstruct.sites import NAME, Layer, Site, results
from graphopt.passes.reconstruct.solve import Problem, Solution, solve
from graphopt.rewrite import const
from graphopt.rewrite.driver import Permission

EACH = 32  # columns for each of a row's numbers
FEWEST = 8192  # of those
COLUMNS = 256 << 20  # bytes of a layer's columns
HELD = 4  # one of so many columns or runs judges what the others were fitted to
NONE = "no change lowers the error on the samples held out"
LONGEST = 6144  # numbers in a row: its Gram matrix and a factor are 0.6 GB in float64
MOST = 2e11  # multiply-adds of solving rows with zeros of their own
FEW = 256  # values that a weight of at least twice as many numbers has: they are shared


@dataclass
class Pair:
    """A compressed module and the original on the same samples, both at the same site."""

    compressed: Live
    original: Live

    def step(self) -> tuple[Runs, list[Runs], Runs]:
        """What the next site's layer reads, what is added to its result, and the target."""
        x, *others = self.compressed.step()
        (target,) = self.original.step()
        return x, others, target


def questions(found: Sequence[Site]) -> tuple[list[list[Value]], list[list[Value]]]:
    """What is asked at each site of the compressed module and of the original."""
    here = [[site.layer.op.operand(0), *site.others] for site in found]
    return here, [[site.target] for site in found]


def repair(
    pair: Pair, found: Sequence[Site], ridges: tuple[float, ...], permit: Permission
) -> Iterator[tuple[Site, Solution | str]]:
    """Solve sites in order and change the weights of their layers before the next is looked at.

    Yields:
        Each site, and what was done or why nothing was.
    """
    for i, site in enumerate(found):
        gathered = _gather(site, *pair.step(), np.random.default_rng(i))
        done = gathered if isinstance(gathered, str) else solve(gathered, ridges) or NONE
        if isinstance(done, Solution):
            if permit(NAME, site.layer.op.loc):
                _change(site, done)
            else:
                done = "not permitted"
        yield site, done


def _gather(
    site: Site, x: Runs, others: list[Runs], target: Runs, random: np.random.Generator
) -> Problem | str:
    """Columns of all runs."""
    op, k = site.layer.op, row_length(site.layer.op)
    if k > LONGEST:
        return f"rows of more than {LONGEST} weights"
    mask = _mask(op)
    if mask is not None and _work(mask) > MOST:
        return "too many rows with zeros of their own"
    room = COLUMNS // (4 * getattr(op.kind, "group", 1) * k)
    wanted = max(min(max(EACH * k, FEWEST), room) // len(x), 1)
    parts = [
        _columns(site, x[i], [o[i] for o in others], target[i], wanted, random)
        for i, _ in enumerate(x)
    ]
    fitted, held = _held_out(parts)
    xs, ys, ts = (np.concatenate(p, -1) for p in zip(*fitted, *held, strict=True))
    bias, mean = site.layer.bias is not None, np.zeros(xs.shape[:2])
    if bias:  # sums of products of what lies far from 0 would lose digits
        mean = xs.mean(-1, dtype=np.float64)
        xs -= mean[..., None].astype(np.float32)
    fit = sum(part[0].shape[-1] for part in fitted)
    return Problem(xs, mean, ys, ts, fit, bias, site.low, site.high, mask)


Part = tuple[Array, ...]


def _held_out(parts: Sequence[Part]) -> tuple[list[Part], list[Part]]:
    """Columns to fit to and others: whole runs, where there are enough of them."""
    if len(parts) >= HELD:
        fitted = [p for i, p in enumerate(parts) if i % HELD != HELD - 1]
        return fitted, list(parts[HELD - 1 :: HELD])
    flags: list[Array] = [np.arange(p[0].shape[-1]) % HELD == HELD - 1 for p in parts]
    pairs = list(zip(parts, flags, strict=True))
    return [tuple(a[..., ~f] for a in p) for p, f in pairs], [
        tuple(a[..., f] for a in p) for p, f in pairs
    ]


def _work(mask: Array) -> float:
    """Multiply-adds of solving those rows that have some zeros, not only zeros."""
    counts = mask.sum(-1)
    some = counts[(counts > 0) & (counts < mask.shape[-1])].astype(np.float64)
    return float((some**3).sum() / 3)


def _columns(
    site: Site, x: Array, others: list[Array], target: Array, wanted: int,
    random: np.random.Generator,
) -> tuple[Array, Array, Array]:
    """Of one run: what the layer reads, what it gives with the others, what is wanted."""
    layer, op, wanted_now = site.layer, site.layer.op, _left(site, target)
    at = places(positions(op, x), wanted, random)
    read = columns(op, x, at)
    w, b = weights(layer)
    given = w @ read + b[..., None]
    for other in others:
        same = np.broadcast_to(other, wanted_now.shape)
        given = given + results(layer, same, at, len(w))
    return read, given, results(layer, wanted_now, at, len(w))


def _left(site: Site, target: Array) -> Array:
    """The target's channels that are left."""
    return target if site.kept is None else np.take(target, site.kept, site.layer.axis)


def weights(layer: Layer) -> tuple[Array, Array]:
    """Float32 W [groups, M / groups, K] and b [groups, M / groups] of y = W x + b."""
    op = layer.op
    data = const(op.operand(1))
    assert data
    w = rows(op, data.numpy())
    b, factor = np.zeros(w.shape[:2], np.float32), 1.0
    if isinstance(op.kind, Gemm):
        w, factor = w * np.float32(op.kind.alpha), op.kind.beta
    row = const(layer.bias.op.operands[layer.bias.index]) if layer.bias else None
    if row:
        b = row.numpy().reshape(b.shape) * np.float32(factor)
    return w, b


def few_values(w: Array) -> bool:
    """Whether a weight's numbers are shared (clustered): a table of them is what is stored."""
    return w.size >= 2 * FEW and len(np.unique(w)) <= FEW


def _mask(op: Op) -> Array | None:
    """The weights that may change: not exact zeros, none of those that share few values."""
    data = const(op.operand(1))
    assert data
    w = rows(op, data.numpy())
    if few_values(w):
        return np.zeros(w.shape, np.bool_)
    there = w != 0
    return None if there.all() else there


def _change(site: Site, solution: Solution) -> None:
    """Put new constants in the place of a layer's weights and bias."""
    layer, op = site.layer, site.layer.op
    w, b = weights(layer)
    w, b = w + solution.change.w, (b + solution.change.b).reshape(-1)
    if isinstance(op.kind, Gemm):
        w, b = w / op.kind.alpha, b / op.kind.beta
    put(Use(op, 1), unrows(op, w, op.operand(1).tensor.static or ()))
    if layer.bias:
        put(layer.bias, b)


def put(use: Use, array: Array) -> None:
    """Let an operand be a new float32 constant of its old name; the old one goes if it is dead."""
    graph, old = use.op.graph, use.op.operands[use.index]
    assert graph
    name = old.hint if old else ""
    shape = old.tensor.static if old else array.shape
    numbers = np.ascontiguousarray(array.reshape(shape), np.float32)
    made = Op(Const(Inline(numbers)), loc=old.op.loc if old and old.op else Loc(), hints=[name])
    use.op.set_operand(use.index, graph.insert(made, use.op).result)
    if old and old.op and old.op.dead():
        graph.erase(old.op)
