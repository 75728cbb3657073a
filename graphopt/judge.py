"""How far a changed module's answers are from the original's, on samples kept for that.

Samples that passes have looked at (calibration) would flatter them. Of the others, half serve to
choose by (`losses`), half tell the result (`verdict`), where there are enough of them; or all serve
for both (`whole`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt import onnx as onnx_io
from graphopt.activations import SampleRuns
from graphopt.data import Feed, Samples
from graphopt.ir.core import Module
from graphopt.ir.types import Array
from graphopt.loss import Loss, Meter, hows

APART = 32  # samples that nothing was fitted to, which are enough to measure a loss on
KEPT = 256 << 20  # bytes of the original's answers that are kept from one question to the next

Labelled = tuple[Feed, Array | None]


@dataclass
class SampleJudge:
    """Compares modules with the original.

    `run` answers for the original; `samples` are the user's (None: the feeds of `seen`); `seen`
    says how many runs of them passes have looked at. `notes` says what readers must know.
    """

    original: Module
    run: Callable[[Feed], Mapping[str, Any]]
    samples: Samples | None
    seen: SampleRuns
    notes: list[str] = field(default_factory=list[str])
    whole: bool = False
    _answers: dict[int, Mapping[str, Any]] = field(default_factory=dict[int, Mapping[str, Any]])
    _bytes: int = 0
    _judged: bool = False

    def losses(self, module: Module) -> tuple[Loss, ...]:
        """By output, on the half to choose by."""
        first, last = self._apart()
        self._judged = True
        return self._measure(module, first, self._middle() if self._halves() else last)

    def verdict(self, module: Module) -> tuple[Loss, ...]:
        """By output, on the samples that nothing was chosen by."""
        first, last = self._apart()
        if self.halved:
            first = self._middle()
        elif self.seen.used and not first and self.samples:
            self.notes.append(f"the loss is measured on the samples that the model was fitted to: "
                              f"there are no {APART} others")  # fmt: skip
        return self._measure(module, first, last)

    def _apart(self) -> tuple[int, int]:
        """The range of runs that passes haven't looked at; all, where they are too few."""
        total, used = self.seen.runs, self.seen.used
        return (used, total) if total - used >= APART else (0, total)

    @property
    def halved(self) -> bool:
        """Whether something was chosen by one half, so that the other tells the result."""
        return self._judged and self._halves()

    def _halves(self) -> bool:
        first, last = self._apart()
        return not self.whole and first > 0 and last - first >= 2 * APART

    def _middle(self) -> int:
        first, last = self._apart()
        return (first + last + 1) // 2

    def _feeds(self) -> Sequence[Labelled]:
        if self.samples is None:
            return [(feed, None) for feed in self.seen.feeds()]
        return list(self.samples.labelled(self.original.main))

    def _measure(self, module: Module, first: int, last: int) -> tuple[Loss, ...]:
        run, meter = onnx_io.Reference(module).run, Meter(hows(self.original.main), self.seen.data)
        for i, (feed, labels) in enumerate(self._feeds()[first:last], first):
            meter.add(self._answer(i, feed), run(feed), labels)
        return meter.losses()

    def _answer(self, i: int, feed: Feed) -> Mapping[str, Any]:
        """The original's outputs for a run, kept while there is room."""
        if i in self._answers:
            return self._answers[i]
        found = self.run(feed)
        self._bytes += sum(getattr(v, "nbytes", 0) for v in found.values())
        if self._bytes < KEPT:
            self._answers[i] = found
        return found
