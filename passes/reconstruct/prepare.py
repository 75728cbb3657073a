"""What a repair starts from: sites, as many samples as fit into memory, both models to run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt import onnx as onnx_io
from graphopt.ir.clone import clone_module, returning
from graphopt.ir.core import Module, Op, Use, Value
from graphopt.ir.types import TensorType
from graphopt.passes.layers.answers import pairs
from graphopt.passes.reconstruct.batch import Feed, agrees, batched, stacked
from graphopt.passes.reconstruct.live import Live, Plan, plan
from graphopt.passes.reconstruct.repair import HELD, Pair, put, questions
from graphopt.passes.reconstruct.sites import Channels, Site, sites
from graphopt.pipeline import Activations
from graphopt.rewrite import Remark, const

LIVE = 768 << 20  # bytes of values of both models that are kept at once
BATCH = 16  # samples a run, where both models take them


@dataclass
class Work:
    """A copy of a module, which is repaired in its place: `twins` are its ops by the copy's.

    `original` and `feeds` are for as many samples a run as the copy takes.
    """

    sites: list[Site]
    remarks: list[Remark]
    pair: Pair
    twins: dict[Op, Op]
    repaired: Module
    original: Module
    feeds: list[Feed]

    def noise(self) -> float:
        """Noise over signal of what outputs tell, summed over them, on the runs held out.

        Of logits where there are some (see `layers.answers`): what follows them hides small errors.
        """
        held = self.feeds[HELD - 1 :: HELD] or self.feeds
        told = pairs(self.original, self.repaired)
        theirs, ours = (
            onnx_io.Reference(returning(m, [pair[i] for pair in told]))
            for i, m in enumerate((self.original, self.repaired))
        )
        noise, signal = np.zeros(len(told)), np.zeros(len(told))
        for feed in held:
            wanted, got = (list(m.run(feed).values()) for m in (theirs, ours))
            for i, (want, have) in enumerate(zip(wanted, got, strict=True)):
                signal[i] += float(np.square(want, dtype=np.float64).sum())
                noise[i] += float(np.square(want.astype(np.float64) - have).sum())
        return float(np.divide(noise, signal, where=signal > 0, out=np.zeros_like(noise)).sum())

    def copy(self, site: Site) -> None:
        """Give the module what the copy has at a site."""
        for use in (Use(site.layer.op, 1), site.layer.bias):
            data = const(use.op.operands[use.index]) if use else None
            if use and data:
                put(Use(self.twins[use.op], use.index), data.numpy())


def prepared(
    module: Module, before: Module, channels: Channels, samples: Activations, most: int
) -> Work | list[Remark]:
    """Both models on samples, before the first site.

    Args:
        module: compressed.
        before: the original.
        channels: see `Context.channels`.
        samples: of both.
        most: runs to take.

    Returns:
        Remarks alone where no layer has a target.
    """
    found, remarks = sites(module, before, channels)
    if not found:
        return remarks
    asked = questions(found)
    plans = plan(module.main, asked[0]), plan(before.main, asked[1])
    (first,) = samples.take(1)
    each = sum(_peak(m, p, first) for m, p in zip((module, before), plans, strict=True))
    feeds = list(samples.take(max(min(most, LIVE // max(each, 1)), 1)))
    copy, original, feeds = _fewer_runs(clone_module(module), before, feeds)
    twins = dict(zip(copy.main, module.main, strict=True))
    found, remarks = sites(copy, original, channels)
    asked = questions(found)
    lives = [Live(m, plan(m.main, values), feeds)
             for m, values in zip((copy, original), asked, strict=True)]  # fmt: skip
    return Work(found, remarks, Pair(*lives), twins, copy, original, feeds)


def _fewer_runs(
    copy: Module, original: Module, feeds: list[Feed]
) -> tuple[Module, Module, list[Feed]]:
    """Both models for several samples a run, where both can."""
    n = min(BATCH, len(feeds) // HELD)
    if n < 2:
        return copy, original, feeds
    many = [batched(m, n) for m in (copy, original)]
    few = feeds[:n]
    if not all(many) or not all(
        m and agrees(one, m, few) for one, m in zip((copy, original), many, strict=True)
    ):
        return copy, original, feeds
    assert many[0] and many[1]
    return many[0], many[1], stacked(feeds, n)


def _peak(module: Module, p: Plan, feed: Feed) -> int:
    """Bytes that a plan keeps at once of one run; what types don't tell is measured."""
    values = [v for piece in p.pieces for v in (*piece.inputs, *piece.outputs)]
    values += [v for asked in p.asked for v in asked]
    unknown = [v for v in dict.fromkeys(values) if v.op and _bytes(v) is None]
    known = {v: _bytes(v) or 0 for v in values}
    if unknown:
        found = onnx_io.Reference(returning(module, unknown)).run(feed)
        known.update((v, a.nbytes) for v, a in zip(unknown, found.values(), strict=True))
    for arg in module.main.args:
        known[arg] = feed[arg.hint].nbytes
    return p.peak(known)


def _bytes(value: Value) -> int | None:
    """From its type."""
    type_ = value.type
    if not isinstance(type_, TensorType) or type_.static is None:
        return None
    total = type_.dtype.bits // 8
    for d in type_.static:
        total *= d
    return total
