"""What a profile says, as data. `Profile.to_json` is its stable form (docs/profile.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from graphopt.targets.roofline import Roofline

FORMAT = 1
"""The version of the JSON form: raised when a field changes its meaning or goes."""

SEGMENT = "onnxruntime"
"""The family of what isn't compiled."""


@dataclass(frozen=True)
class LayerTimes:
    """One layer: a kernel's call, or a segment in ONNX Runtime.

    Attributes:
        index: its place in the program, from 0.
        name: the last of its ONNX nodes.
        nodes: the ONNX nodes it computes.
        kernel: the function in the library, or `onnxruntime`.
        family: the template of the kernel library that the function was made from.
        us: microseconds, the median of the rounds.
        min_us: the least.
        p90_us: the 90th percentile.
        share: of the sum of all layers' medians.
        macs: multiply-accumulates.
        flops: arithmetic operations, 2 a multiply-add; integer ones as well.
        bytes: that must be read and written, each once.
        unit: the element type of the arithmetic.
        operands: the types of what it reads, as IR text.
        results: the types of what it writes.
        ops: the kinds of its operations in order, such as conv, add, relu.
        roofline_us: the least time that this machine's roofline allows; None where it isn't known.
        bound: whether arithmetic or memory sets that time (`compute`, `memory`).
        instructions: executed under an emulator; None where it ran on a CPU.
    """

    index: int
    name: str
    nodes: tuple[str, ...]
    kernel: str
    family: str
    us: float
    min_us: float
    p90_us: float
    share: float
    macs: int
    flops: int
    bytes: int
    unit: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    ops: tuple[str, ...] = ()
    roofline_us: float | None = None
    bound: str | None = None
    instructions: int | None = None

    @property
    def gflops(self) -> float:
        """1e9 operations a second."""
        return _rate(self.flops, self.us)

    @property
    def gbs(self) -> float:
        """1e9 bytes a second."""
        return _rate(self.bytes, self.us)

    @property
    def intensity(self) -> float | None:
        """Operations a byte; None where nothing moves."""
        return self.flops / self.bytes if self.bytes else None

    @property
    def roofline(self) -> float | None:
        """How much of the roofline it reaches, 1 being all of it."""
        return None if self.roofline_us is None or not self.us else self.roofline_us / self.us

    def to_json(self) -> dict[str, Any]:
        """Its fields and what follows from them."""
        derived = ("gflops", "gbs", "intensity", "roofline")
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}


@dataclass(frozen=True)
class FamilyTimes:
    """The layers of one family, summed; `roofline` is of those that have a bound."""

    family: str
    layers: int
    us: float
    share: float
    macs: int
    gflops: float
    gbs: float
    roofline: float | None


@dataclass(frozen=True)
class Run:
    """One timed run, for a trace: microseconds; `began` counts from the run's start."""

    name: str
    began: tuple[float, ...]
    took: tuple[float, ...]


@dataclass(frozen=True)
class Profile:
    """Where the time of a bundle goes.

    Attributes:
        name: the model's.
        target: what it was compiled for.
        cpu: the CPU it ran on.
        threads: how many threads ran it.
        rounds: timed runs; as many ordinary ones took turns with them.
        run_us: an ordinary run as its caller sees it, median.
        layers: in the order that they run.
        roofline: what the machine can do; None where it couldn't be measured.
        notes: what the reader should know.
        runs: some of the timed runs, as they passed.
        estimate: how times were made that weren't measured; empty: they were.
    """

    name: str
    target: str
    cpu: str
    threads: int
    rounds: int
    run_us: float
    layers: tuple[LayerTimes, ...]
    roofline: Roofline | None = None
    notes: tuple[str, ...] = ()
    runs: tuple[Run, ...] = field(default=(), repr=False)
    estimate: str = ""

    @property
    def layers_us(self) -> float:
        """The sum of the layers' medians."""
        return sum(layer.us for layer in self.layers)

    @property
    def overhead(self) -> float:
        """How much longer an ordinary run takes than the sum of its layers: 0.02 is 2 %.

        That is the call, inputs and outputs, less what reading the clock adds to the layers.
        """
        return self.run_us / self.layers_us - 1 if self.layers_us else 0.0

    @property
    def reached(self) -> float | None:
        """How much of the roofline all layers with a bound reach together."""
        return _reached(self.layers)

    def ranked(self) -> list[LayerTimes]:
        """The layers, slowest first."""
        return sorted(self.layers, key=lambda layer: (-layer.us, layer.index))

    def families(self) -> list[FamilyTimes]:
        """Totals by kernel family, slowest first."""
        groups: dict[str, list[LayerTimes]] = {}
        for layer in self.layers:
            groups.setdefault(layer.family, []).append(layer)
        found = [_family(name, group) for name, group in groups.items()]
        return sorted(found, key=lambda f: (-f.us, f.family))

    def to_json(self) -> dict[str, Any]:
        """The stable form, as plain data."""
        return {
            "graphopt_profile": FORMAT,
            "name": self.name,
            "target": self.target,
            "cpu": self.cpu,
            "threads": self.threads,
            "rounds": self.rounds,
            "run_us": self.run_us,
            "layers_us": self.layers_us,
            "overhead": self.overhead,
            "reached": self.reached,
            "estimate": self.estimate,
            "notes": list(self.notes),
            "roofline": asdict(self.roofline) if self.roofline else None,
            "families": [asdict(f) for f in self.families()],
            "layers": [layer.to_json() for layer in self.layers],
        }


def _family(name: str, layers: Sequence[LayerTimes]) -> FamilyTimes:
    us = sum(layer.us for layer in layers)
    return FamilyTimes(
        family=name,
        layers=len(layers),
        us=us,
        share=sum(layer.share for layer in layers),
        macs=sum(layer.macs for layer in layers),
        gflops=_rate(sum(layer.flops for layer in layers), us),
        gbs=_rate(sum(layer.bytes for layer in layers), us),
        roofline=_reached(layers),
    )


def _reached(layers: Sequence[LayerTimes]) -> float | None:
    pairs = [(n.roofline_us, n.us) for n in layers if n.roofline_us is not None]
    spent = sum(us for _, us in pairs)
    return sum(least for least, _ in pairs) / spent if spent else None


def _rate(count: int, us: float) -> float:
    """Billions a second."""
    return 1e-3 * count / us if us else 0.0
