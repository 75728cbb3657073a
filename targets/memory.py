"""The static memory plan: arena offsets of temporary buffers, from their lifetimes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from graphopt.targets.program import ALIGN

MANY = 1000  # buffers beyond which one order must do


@dataclass(frozen=True)
class Lifetime:
    """A buffer of `nbytes` that is alive from step `first` to step `last`, both included."""

    nbytes: int
    first: int
    last: int


def plan(lifetimes: list[Lifetime]) -> tuple[list[int], int]:
    """Give each buffer an offset so that buffers alive together never overlap.

    Greedy: one after the other in some order, each at the lowest offset that is free for its whole
    life; the largest first (Pisarchyk and Lee, arXiv 2001.03288, algorithm 3). Where that needs
    more than is alive at once, other orders are tried, and the best is taken. Returns the offsets
    and the arena's size; both are multiples of ALIGN bytes.
    """
    bound = lower_bound([replace(life, nbytes=_padded(life.nbytes)) for life in lifetimes])
    best: tuple[list[int], int] | None = None
    for order in _orders(lifetimes):
        found = _place(lifetimes, order)
        best = found if best is None or found[1] < best[1] else best
        if best[1] <= bound or len(lifetimes) > MANY:
            break
    return best or ([], 0)


def _orders(lifetimes: list[Lifetime]) -> Iterator[list[int]]:
    """Orders worth trying: by size, by what a buffer occupies over time, by time, by chance."""
    every = range(len(lifetimes))
    keys: list[Callable[[Lifetime], tuple[int, ...]]] = [
        lambda b: (-b.nbytes, b.first),
        lambda b: (-b.nbytes * (b.last - b.first + 1), b.first),
        lambda b: (b.first - b.last, -b.nbytes),
        lambda b: (b.first, -b.nbytes),
        lambda b: (-b.last, -b.nbytes),
    ]
    for key in keys:
        yield sorted(every, key=lambda i: (*key(lifetimes[i]), i))
    rng = random.Random(0)
    for spread in (0.25,) * 10 + (0.5,) * 10:
        noise = [lifetimes[i].nbytes * (1 + rng.uniform(-spread, spread)) for i in every]
        yield sorted(every, key=lambda i: (-noise[i], i))


def _place(lifetimes: list[Lifetime], order: list[int]) -> tuple[list[int], int]:
    offsets = [0] * len(lifetimes)
    placed: list[int] = []
    total = 0
    for i in order:
        offsets[i] = _lowest(lifetimes[i], [(offsets[j], lifetimes[j]) for j in placed])
        placed.append(i)
        total = max(total, offsets[i] + _padded(lifetimes[i].nbytes))
    return offsets, total


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGN) * ALIGN


def _lowest(new: Lifetime, placed: list[tuple[int, Lifetime]]) -> int:
    """The lowest offset where `new` fits between the placed buffers alive at the same time."""
    at = 0
    for offset, other in sorted(placed, key=lambda p: p[0]):
        if other.last < new.first or new.last < other.first:
            continue
        if at + _padded(new.nbytes) <= offset:
            break
        at = max(at, offset + _padded(other.nbytes))
    return at


def lower_bound(lifetimes: list[Lifetime]) -> int:
    """The most bytes alive at one step: no plan can need less."""
    events: dict[int, int] = {}
    for life in lifetimes:
        events[life.first] = events.get(life.first, 0) + life.nbytes
        events[life.last + 1] = events.get(life.last + 1, 0) - life.nbytes
    alive = peak = 0
    for step in sorted(events):
        alive += events[step]
        peak = max(peak, alive)
    return peak
