"""Running the passes under the user's limit on the loss: once, and again where that was too much.

Passes choose by one half of the samples, and the other half tells the result (`graphopt.judge`).
What a later pass repairs needn't be within the limit before it, where a goal says how much to do.
If too much is lost in the end, or a goal is given up for the distance that choices keep from the
limit, the passes run once more on the original: each is held to the limit, they choose by all of
these samples, and goals needn't keep a distance. (What any pass of the first attempt has looked at
isn't among them: all passes of the second choose by the same samples.)
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

    def excess(self, limit: float) -> float:
        """Points over a limit."""
        lost = self.over(limit)
        return lost.drop.mean - limit if lost else 0.0

    @property
    def gave_up(self) -> bool:
        """Whether a goal was given up for the limit."""
        return any(r.settled and r.settled.missed for r in self.records)

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
        """The attempt with its losses; or a second one, where it isn't what the user asks for.

        Of two that lose too much it is the one that loses less.

        Raises:
            GraphoptError: a pass fails.
        """
        limit, one = self.asked.max_drop, self._measured(one, self.judge)
        if limit is None or not self._may_gain(one, limit):
            return one
        self.asked.progress("run the passes again", 0, 1)
        judge = replace(self.judge, whole=True)
        again = self._measured(self._run(judge, lenient=False), judge)
        if again.excess(limit) > one.excess(limit):
            if self.hooks:  # what they saw last is to be what the user gets
                self.judge.seen.used = 0
                self._run(self.judge, lenient=True)
            return one
        return replace(again, notes=(_told(one, again, limit),))

    def _may_gain(self, one: Attempt, limit: float) -> bool:
        """Whether a second attempt could be nearer to what the user asks for."""
        repaired = any(p.repairs for p in self.passes)
        over = one.over(limit) and one.chose and (repaired or self.judge.halved)
        return bool(over) or one.gave_up

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


def _told(one: Attempt, again: Attempt, limit: float) -> str:
    """Why there was a second attempt, and what it chose by."""
    lost = one.over(limit)
    if lost:
        why = (f"lost {lost.drop.mean:.2f} points on {lost.samples} samples, over the limit of "
               f"{limit:g}")  # fmt: skip
    else:
        why = f"gave up a goal to keep a distance from the limit of {limit:g}"
    return (f"the first attempt {why}; so passes ran again, each held to the limit, and chose by "
            f"the {again.losses[0].samples} samples that tell the result")  # fmt: skip
