"""The static memory plan: arena offsets of temporary buffers, from their lifetimes."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.targets.program import ALIGN


@dataclass(frozen=True)
class Lifetime:
    """A buffer of `nbytes` that is alive from step `first` to step `last`, both included."""

    nbytes: int
    first: int
    last: int


def plan(lifetimes: list[Lifetime]) -> tuple[list[int], int]:
    """Give each buffer an offset so that buffers alive together never overlap.

    Greedy by size: the largest first, each at the lowest offset that is free for its whole life
    (Pisarchyk and Lee, arXiv 2001.03288, algorithm 3). Returns the offsets and the arena's size;
    both are multiples of ALIGN bytes.
    """
    order = sorted(
        range(len(lifetimes)), key=lambda i: (-lifetimes[i].nbytes, lifetimes[i].first, i)
    )
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
