"""Running the passes under the user's limit on the loss: once, and again where that was too much.

Passes choose by one half of the samples, and the other half tells the result (`graphopt.judge`).
What a later pass repairs needn't be within the limit before it, where a goal says how much to do.
If too much is lost in the end, the passes run once more on the original: each is held to the limit,
and they choose by all of these samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphopt.ir.clone import clone_module
from graphopt.ir.core import Module
from graphopt.ir.verify import verify
from graphopt.judge import SampleJudge
from graphopt.loss import Loss, worst
from graphopt.pipeline import Context, Hook, Pass, Record, run_pipeline


@dataclass(frozen=True)
class Attempt:
    """What running the passes once gave.

    `before` is the module as it was before the first lossy pass, `losses` what it lost (empty: that
    wasn't measured), `notes` what readers must know of it.
    """

    module: Module
    records: list[Record]
    before: Module | None = None
    losses: tuple[Loss, ...] = ()
    notes: tuple[str, ...] = ()

    def over(self, limit: float | None) -> Loss | None:
        """The loss that is over a limit, if there is one."""
        lost = worst(self.losses)
        return lost if limit is not None and lost and lost.drop.mean > limit else None

    def missed(self, limit: float | None) -> Iterator[str]:
        """What the user asked for and this isn't, a sentence each."""
        if lost := self.over(limit):
            yield (f"the drop is {lost.drop.mean:.2f} points, over the limit of {limit:g} "
                   f"(--max-drop); {lost}")  # fmt: skip
        for r in self.records:
            if r.settled and r.settled.missed:
                yield f"pass {r.number} ({r.text}): {r.settled.missed}"

    @property
    def chose(self) -> bool:
        """Whether passes made choices."""
        return any(r.settled and r.settled.kept for r in self.records)


@dataclass(frozen=True)
class Attempts:
    """Runs passes on a model: `original`, which stays as it is, in the context `asked`.

    `judge` measures losses; `timed` does some work of a stage.
    """

    passes: Sequence[Pass]
    hooks: Sequence[Hook]
    original: Module
    asked: Context
    judge: SampleJudge
    timed: Callable[[str, Callable[[], Any]], Any]

    def first(self) -> Attempt:
        """Run the passes; choices are made by half of the samples, where there are enough."""
        return self._run(self.judge, lenient=True)

    def within(self, one: Attempt) -> Attempt:
        """The attempt with its losses; or a second one, if it lost more than the user allows.

        Raises:
            GraphoptError: a pass fails.
        """
        limit, one = self.asked.max_drop, self._measured(one, self.judge)
        lost = one.over(limit)
        repaired = any(p.repairs for p in self.passes)
        if lost is None or limit is None or not one.chose or not (repaired or self.judge.halved):
            return one
        self.asked.progress("run the passes again", 0, 1)
        judge = replace(self.judge, whole=True)
        again = self._measured(self._run(judge, lenient=False), judge)
        note = (
            f"the first attempt lost {lost.drop.mean:.2f} points on {lost.samples} samples, over "
            f"the limit of {limit:g}; so passes ran again, each held to it, and chose by the "
            f"{again.losses[0].samples} samples that tell the result"
        )
        return replace(again, notes=(note,))

    def _run(self, judge: SampleJudge, lenient: bool) -> Attempt:
        module = clone_module(self.original)
        ctx = self.asked.anew(judge, lenient)
        run = lambda: run_pipeline(self.passes, module, ctx, self.hooks)  # noqa: E731
        records = self.timed("passes", run)
        verify(module)
        return Attempt(module, records, ctx.before)

    def _measured(self, one: Attempt, judge: SampleJudge) -> Attempt:
        self.asked.progress("measure the loss", 0, 1)
        return replace(one, losses=self.timed("verify", lambda: judge.verdict(one.module)))
