"""What values of a model are on sample inputs: the runs that calibration and repair are made of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphopt import onnx as onnx_io
from graphopt.analysis.moments import Moments, moments
from graphopt.analysis.padding import kept
from graphopt.data import Feed
from graphopt.ir.clone import returning
from graphopt.ir.core import Module, Value
from graphopt.ir.types import Array, TensorType
from graphopt.portions import portions

AT_ONCE = 256 << 20  # bytes of values that one run of the model gives back


@dataclass
class SampleRuns:
    """Runs modules in ONNX Runtime, its optimizer off, on samples that can be gone through again.

    `feeds` gives them from the start each time; `runs` is how many there are; `data` says what they
    are. `used` is the largest number that anybody has looked at: what is measured on the others
    isn't flattered by them. `mask` is the input that tells what is padding (see `padding`),
    `origin` the model before any pass, whose BatchNorms tell of values without samples. `made_up`:
    nobody gave the samples.
    """

    feeds: Callable[[], Iterable[Feed]]
    runs: int
    data: str
    used: int = 0
    mask: str | None = None
    origin: Module | None = None
    made_up: bool = False

    def expected(self) -> Mapping[str, Moments]:
        """What the original's BatchNorms tell of its values, by name."""
        return moments(self.origin.main) if self.origin else {}

    def watch(
        self, module: Module, values: Sequence[Value], runs: int | None = None, own: bool = False
    ) -> Iterator[tuple[int, Array]]:
        """Pairs of an index into `values` and its array without padded rows, run after run.

        Values that together take more than AT_ONCE bytes a run are seen in several goes over the
        samples, each running the ops that its values need.

        Args:
            module: what is run; it may be changed afterwards, not meanwhile.
            values: float values of its main graph.
            runs: how many of the samples' runs; None: all.
            own: the values are to be this module's, not the original's of the same name, which
                those who make samples up may know better.
        """
        for part in portions(range(len(values)), lambda i: bytes_of(values[i]), AT_ONCE):
            reference = onnx_io.Reference(returning(module, [values[i] for i in part]))
            for feed in self.take(runs):
                found = reference.run(feed)
                mask = feed.get(self.mask) if self.mask else None
                for i, array in zip(part, found.values(), strict=True):
                    yield i, kept(values[i], array, mask)

    def take(self, runs: int | None = None) -> Iterator[Feed]:
        """What runs of the model take, the first `runs` (None: all), from the start each time."""
        wanted = min(self.runs, runs or self.runs)
        self.used = max(self.used, wanted)
        return itertools.islice(self.feeds(), wanted)


def bytes_of(value: Value) -> int:
    """Bytes of a value; sizes known only in a run count as 1."""
    if not isinstance(value.type, TensorType):
        return 0
    dims = (d if isinstance(d, int) else 1 for d in value.type.shape or ())
    return math.prod(dims) * 4
