"""How long a bundle would take on a CPU that isn't here: instructions, its pipes, its memory.

    seconds of a layer = max(cycles / clock, least time that the memory's bandwidth allows)

`cycles` are those of `graphopt.targets.emulator.code`, of the blocks of code that really ran;
clock, pipes and bandwidths are the machine file's. One thread; a cache miss whose data don't limit
the bandwidth isn't seen, so it is rather too short than too long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from graphopt.analysis.work import Work
from graphopt.runtime.manifest import Layer
from graphopt.targets.base import Estimate
from graphopt.targets.emulator.artifact import Artifact
from graphopt.targets.emulator.count import Count, count
from graphopt.targets.machine import Machine
from graphopt.targets.roofline import described

HOW = "estimated from counted instructions, {cpu}'s pipes and bandwidth at {ghz:g} GHz"


def estimate(program: Artifact, feed: Mapping[str, Any], machine: Machine) -> Estimate:
    """What a run for one input takes on one core.

    Raises:
        UnsupportedError: nothing here counts instructions.
    """
    counts = count(program, feed, machine)
    layers = program.manifest.layers
    calls = Counter(layer.kernel for layer in layers)
    footprint = program.manifest.weight_bytes + program.manifest.arena_bytes
    roof = described(machine)

    def seconds(layer: Layer) -> float:
        cycles = counts.get(layer.kernel, Count()).cycles / calls[layer.kernel]
        work = Work(0, layer.data_bytes, layer.weight_bytes, layer.unit)
        return max(1e-9 * cycles / machine.ghz, roof.bound(work, footprint).seconds)

    def instructions(layer: Layer) -> int:
        return counts.get(layer.kernel, Count()).instructions // calls[layer.kernel]

    return Estimate(
        us=tuple(1e6 * seconds(layer) for layer in layers),
        instructions=tuple(map(instructions, layers)),
        beside=counts[""].instructions,
        how=HOW.format(cpu=machine.name, ghz=machine.ghz),
        cpu=machine.name,
    )
