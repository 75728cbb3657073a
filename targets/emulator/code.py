"""AArch64 instructions by what they keep busy, and the cycles of a block of them.

Encoding: Arm Architecture Reference Manual for A-profile, C4.1 (A64 instruction set encoding). A
block takes at least as many cycles as the busiest of a core's resources: all that it begins
(`issue`), vector and float instructions, loads, stores (128 bits each). What waits for what isn't
looked at: a hot loop of a good kernel has independent sums enough.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.targets.machine import Machine

_STRUCTURES, _LITERAL, _PAIR, _REGISTER = 1, 3, 5, 7  # bits 29 to 27
_QUAD = 2  # of bits 31 and 30, in a pair
_COUNTS = {0: 4.0, 2: 4.0, 4: 3.0, 6: 3.0, 8: 2.0, 10: 2.0}  # registers, by bits 15 to 12
SLOW = 8.0  # vector slots of a division or square root


@dataclass(frozen=True)
class Use:
    """What an instruction occupies: slots of each resource."""

    vector: float = 0.0
    load: float = 0.0
    store: float = 0.0


def use(word: int) -> Use:
    """What an instruction occupies besides its place in the issue."""
    group = word >> 25 & 15
    if group & 5 == 4:
        return _memory(word)
    return Use(vector=SLOW if _divides(word) else 1.0) if group & 7 == 7 else Use()


def _memory(word: int) -> Use:
    """Loads and stores: a slot, or two for a pair of 128-bit registers."""
    form, vector, to_register = word >> 27 & 7, word >> 26 & 1, word >> 22 & 1
    if form == _LITERAL:
        return Use(load=1.0)
    slots = 1.0
    if form == _PAIR and vector and word >> 30 == _QUAD:
        slots = 2.0
    if form == _STRUCTURES and vector:
        slots = _registers(word)
    if form == _REGISTER and not vector:
        to_register = word >> 22 & 3  # 2 and 3 extend the sign
    return Use(load=slots) if to_register else Use(store=slots)


def _registers(word: int) -> float:
    """Of ld1 to ld4 and st1 to st4; one element, or a broadcast of one, takes a slot."""
    several = not word >> 24 & 1
    return _COUNTS.get(word >> 12 & 15, 1.0) if several else 1.0


def _divides(word: int) -> bool:
    """fdiv and fsqrt, of vectors and scalars."""
    vector_div = word & 0xBFA0FC00 == 0x2E20FC00
    vector_sqrt = word & 0xBFBFFC00 == 0x2EA1F800
    scalar_div = word & 0xFF20FC00 == 0x1E201800
    scalar_sqrt = word & 0xFF3FFC00 == 0x1E21C000
    return vector_div or vector_sqrt or scalar_div or scalar_sqrt


def cycles(words: Iterable[int], machine: Machine) -> float:
    """The least cycles of a run of a block."""
    total = 0
    vector = load = store = 0.0
    for word in words:
        used = use(word)
        total += 1
        vector, load, store = vector + used.vector, load + used.load, store + used.store
    pipes = machine.pipes
    busy = {"issue": float(total), "vector": vector, "load": load, "store": store}
    return max(slots / pipes[name] for name, slots in busy.items())
