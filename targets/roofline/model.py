"""Roofline: the least time that a computation can take on a machine.

    seconds >= max(operations / peak, bytes / bandwidth)

(Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009), with a peak for each element type and
a bandwidth for each size of working set, since data come from the cache that holds them.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from graphopt.analysis.work import Work


@dataclass(frozen=True)
class Bound:
    """The least seconds, and which of the two roofs it is."""

    seconds: float
    by: Literal["compute", "memory"]


@dataclass(frozen=True)
class Roofline:
    """What `threads` threads of a CPU can do together.

    Attributes:
        cpu: the CPU, as its system names it.
        threads: how many threads worked.
        peaks: 1e9 operations a second, by element type (`f32`, `i8`), 2 a multiply-add.
        bandwidth: pairs of a working set in bytes (of all threads together), ascending, and the
            1e9 bytes a second that pass, reading or copying, whichever is faster.
        steady: whether measuring it again gave the same peaks; if not, the machine had other work,
            and could do more.
    """

    cpu: str
    threads: int
    peaks: dict[str, float]
    bandwidth: tuple[tuple[int, float], ...]
    steady: bool = True

    def peak(self, unit: str) -> float:
        """Operations a second; a type that wasn't measured has the highest peak of its width.

        That is what integer instructions reach at most, so that the bound stays one.
        """
        if unit in self.peaks:
            return 1e9 * self.peaks[unit]
        wide = unit[-2:] == "64"
        return 1e9 * self.peaks["f64" if wide and "f64" in self.peaks else "f32"]

    def bytes_a_second(self, working_set: int) -> float:
        """Bandwidth for data of this many bytes in all, between sizes by their logarithm."""
        sizes = [size for size, _ in self.bandwidth]
        i = bisect_left(sizes, working_set)
        if i in (0, len(sizes)):
            return 1e9 * self.bandwidth[min(i, len(sizes) - 1)][1]
        (left, low), (right, high) = self.bandwidth[i - 1 : i + 1]
        part = math.log(working_set / left) / math.log(right / left)
        return 1e9 * (low + part * (high - low))

    def bound(self, work: Work, footprint: int = 0) -> Bound:
        """The least time of some work.

        Args:
            work: operations and bytes. Activations are as near as the working set of this work
                allows, since the work before it left them there.
            footprint: bytes that the whole model touches in a run. Constants were last read a run
                ago, so they are as far as that many bytes are.
        """
        compute, memory = self.parts(work, footprint)
        return Bound(compute, "compute") if compute >= memory else Bound(memory, "memory")

    def parts(self, work: Work, footprint: int = 0) -> tuple[float, float]:
        """The seconds that the operations take, and those that the bytes take."""
        far = max(footprint, work.bytes)
        memory = work.data_bytes / self.bytes_a_second(work.bytes)
        memory += work.weight_bytes / self.bytes_a_second(far)
        return work.flops / self.peak(work.unit), memory

    def joined(self, other: Roofline) -> Roofline:
        """The best of two measurements: what else a machine does can only make one slower."""
        peaks = {u: max(rate, other.peaks.get(u, 0.0)) for u, rate in self.peaks.items()}
        rates = dict(other.bandwidth)
        points = tuple((n, max(rate, rates.get(n, 0.0))) for n, rate in self.bandwidth)
        return replace(self, peaks=peaks, bandwidth=points)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Roofline:
        """The inverse of `to_json`; ValueError, KeyError or TypeError if it isn't that."""
        return Roofline.read(json.loads(text))

    @staticmethod
    def read(fields: Mapping[str, Any]) -> Roofline:
        """A roofline from its fields; ValueError, KeyError or TypeError if they aren't."""
        peaks = {str(k): _positive(v) for k, v in fields["peaks"].items()}
        points = tuple((int(size), _positive(rate)) for size, rate in fields["bandwidth"])
        if "f32" not in peaks or not points or list(points) != sorted(points):
            raise ValueError("a roofline has the peak of f32 and ascending working sets")
        steady = bool(fields.get("steady", True))
        return Roofline(str(fields["cpu"]), int(fields["threads"]), peaks, points, steady)


def parse_probe(cpu: str, threads: int, lines: Iterable[str]) -> Roofline:
    """Read what probe.c prints; ValueError, KeyError or TypeError if it isn't that."""
    peaks: dict[str, float] = {}
    rates: dict[int, float] = {}
    for line in lines:
        what, which, number = line.split()
        rate = _positive(number) / 1e9
        if what == "peak":
            peaks[which] = rate
        else:
            rates[int(which)] = max(rate, rates.get(int(which), 0.0))
    points = sorted(rates.items())
    return Roofline.read({"cpu": cpu, "threads": threads, "peaks": peaks, "bandwidth": points})


def _positive(value: Any) -> float:
    number = float(value)
    if not 0 < number < math.inf:
        raise ValueError(f"{value} is not a positive number")
    return number
