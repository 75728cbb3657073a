"""One mechanism for every lossy decision: passes propose, this driver selects, applies, backs off.

A lossy pass makes a `Choice` for each thing that it could do to a layer (one of several ranks, bit
widths, shares of channels): what that gains on the target, how much it loses (measured on samples),
and what may stand in its way. `settle` puts them in order, the least loss for its gain first, and
takes as many as the user's goal needs (all that gain, where there is none) and his limit on the
whole model's measured loss allows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from graphopt.ir.clone import clone_module
from graphopt.ir.core import Loc, Module
from graphopt.loss import Loss, worst
from graphopt.rewrite.driver import Remark

if TYPE_CHECKING:
    from graphopt.pipeline import Context

SECONDS = "s"  # the unit of gains where a target can tell the time
SHOWN = 3  # choices not made that a note names
SPARED = 24  # steps of which each is taken back if the goal is reached without it, the worst first
TRIES = 8  # choices taken back that are tried once more, the largest gain first


@dataclass(frozen=True)
class Choice:
    """Something a lossy pass could do to a layer.

    `layer` tells layers apart: of the choices of one layer at most one is made; `rewrite` says what
    it does, and tells those of a layer apart; `loc` are the ONNX nodes that it changes; `gain` is
    what it saves, in the units of `unit` (seconds a run where the target can tell, else
    multiply-adds, or bytes); `error` the noise that it makes, as a share of the signal (those of
    different layers are held against each other); `saves` what a `Goal` counts; `refused` why it
    can't be made.
    """

    layer: str
    loc: Loc
    rewrite: str
    gain: float
    error: float
    unit: str = SECONDS
    refused: str = ""
    saves: float = 0.0


Apply = Callable[[Module, Sequence[Choice]], None]
"""Makes choices in a module, or in a copy of it."""


@dataclass(frozen=True)
class Goal:
    """What choices are to save together, counted as `Choice.saves`; `what` it is, for messages.

    `together`: what a set of choices saves, where that isn't the sum.
    """

    amount: float
    what: str
    together: Callable[[Sequence[Choice]], float] | None = None

    def saved(self, chosen: Sequence[Choice]) -> float:
        """What choices save together."""
        return self.together(chosen) if self.together else sum(c.saves for c in chosen)


@dataclass(frozen=True)
class Settled:
    """What was chosen, what wasn't and why, and the loss that was measured (None: no limit).

    A goal that isn't reached because no more rewrites gain anything is `short`; one that the user's
    limit on the loss keeps from being reached is `missed`. Both are sentences.
    """

    kept: tuple[Choice, ...]
    left: tuple[Choice, ...]
    loss: Loss | None = None
    measured: int = 0
    short: str = ""
    missed: str = ""

    def notes(self) -> tuple[str, ...]:
        """For the screen: how many were made, which layers stay as they were, what was missed."""
        counts = Counter(_kind(c.rewrite) for c in self.kept)
        made = ", ".join(f"{n} layer{'s' if n > 1 else ''} {what}" for what, n in counts.items())
        changed, seen = {c.layer for c in self.kept}, dict[str, Choice]()
        for c in self.left:
            if c.layer not in changed:
                seen.setdefault(c.layer, c)
        # Several layers may come from one ONNX node.
        names = list(dict.fromkeys(f"{_first(c.loc)} ({c.refused})" for c in seen.values()))
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        kept = f"; kept as they were: {', '.join(names[:SHOWN])}{more}" if names else ""
        told = f"{made or 'no layer changed'}{kept}" if made or kept else ""
        return tuple(filter(None, (told, self.short)))

    def remarks(self) -> tuple[Remark, ...]:
        """One for each choice made, and for each layer's that was refused."""
        made = (Remark(c.rewrite, c.loc, True) for c in self.kept)
        left = (Remark(c.rewrite, c.loc, False, c.refused) for c in self.left)
        return (*made, *left)


def _kind(rewrite: str) -> str:
    """A rewrite without the numbers that differ by layer, which follow a colon."""
    return rewrite.split(":")[0]


def _first(loc: Loc) -> str:
    return loc.nodes[0] if loc.nodes else "?"


@dataclass
class _Trials:
    """Measures sets of choices, each on a copy of the module."""

    module: Module
    apply: Apply
    ctx: Context
    limit: float | None
    spare: bool
    known: dict[frozenset[Choice], Loss | None] = field(
        default_factory=dict[frozenset[Choice], "Loss | None"]
    )

    def loss(self, chosen: Sequence[Choice]) -> Loss | None:
        """The loss that counts, of a set of choices."""
        key = frozenset(chosen)
        if key not in self.known:
            assert self.ctx.judge
            copy = clone_module(self.module)
            self.apply(copy, chosen)
            self.known[key] = worst(self.ctx.judge.losses(copy))
        return self.known[key]

    def fits(self, chosen: Sequence[Choice]) -> bool:
        """Whether a set of choices is within the limit; with a distance (`spare`) or just so."""
        if self.limit is None or self.ctx.judge is None:
            return True
        found = self.loss(chosen)
        if found is None:
            return True
        return found.surely_within(self.limit) if self.spare else found.drop.mean <= self.limit


@dataclass(frozen=True)
class _Step:
    """One layer going from a choice of its (None: as it is) to one that gains more.

    `late`: it is worth no more, but saves more of what a goal counts.
    """

    old: Choice | None
    new: Choice
    gain: float
    error: float
    late: bool = False

    @property
    def order(self) -> tuple[bool, float]:
        """Where it comes: by loss for its gain; late ones after all others."""
        return self.late, self.error / max(self.gain, 1e-12)


def settle(
    module: Module, choices: Sequence[Choice], apply: Apply, ctx: Context, goal: Goal | None = None
) -> Settled:
    """Select choices and make them in a module.

    The choices of a layer that lie on the lower convex hull of error over gain make a ladder; the
    steps of all ladders are taken in the order of error for gain (the greedy solution of the
    multiple-choice knapsack, Sinha and Zoltners 1979), as many as the goal needs, and fewer if the
    measured loss is over the limit. A goal isn't held to that where the context is lenient and a
    later pass repairs. Choices keep a distance from the limit, but for a goal's where no other
    samples tell the result: what was asked for is given up only if it is over. Where gains are
    seconds they count as much as what the goal counts (see `_ladder`).

    Args:
        module: changed in place.
        choices: all that could be done, in the order of the graph.
        apply: makes a set of them.
        ctx: `max_drop` and `judge` limit the loss; None: it isn't limited.
        goal: what to save; None: every layer gains what it can.
    """
    priced = [_priced(c) for c in choices]
    steps = _ladders([c for c in priced if not c.refused], goal)
    steps = _needed(_finished(steps[: _enough(steps, goal)], steps, goal), goal)
    later = goal is not None and ctx.lenient and ctx.mended
    spare = goal is None or ctx.apart
    trials = _Trials(module, apply, ctx, None if later else ctx.max_drop, spare)
    kept, over, missed = _reached(steps), "", ""
    if not trials.fits(kept):
        kept, over = _retreat(steps, trials)
        if goal and _short(kept, goal) and not _short(_reached(steps), goal):
            missed = unreached(goal.what, goal.saved(kept) / goal.amount, trials.loss(kept))
    position = {c: i for i, c in enumerate(priced)}
    kept.sort(key=lambda c: position[c])
    apply(module, kept)
    left = tuple(_left(priced, kept, over))
    loss = trials.loss(kept) if trials.known else None
    short = "" if missed else _short(kept, goal)
    return Settled(tuple(kept), left, loss, len(trials.known), short, missed)


def _priced(choice: Choice) -> Choice:
    """Refused where it gains nothing."""
    if choice.refused or choice.gain > 0:
        return choice
    return replace(choice, refused="it gains nothing on the target")


def _ladders(able: Sequence[Choice], goal: Goal | None) -> list[_Step]:
    """The steps of all layers, the least error for what they give first."""
    layers: dict[str, list[Choice]] = {}
    for c in able:
        layers.setdefault(c.layer, []).append(c)
    steps = [step for found in layers.values() for step in _ladder(found, goal)]
    return sorted(steps, key=lambda s: s.order)  # stable: a layer's own stay in their order


Worth = Callable[[Choice], float]


def _gain(choice: Choice) -> float:
    return choice.gain


def _both(choice: Choice) -> float:
    """The geometric mean of what a choice gains and of what it saves, in any units."""
    return math.sqrt(max(choice.gain, 0.0) * max(choice.saves, 0.0))


def _saves(choice: Choice) -> float:
    return choice.saves


def _error(choice: Choice) -> float:
    return 0.0 if math.isnan(choice.error) else choice.error


def _ladder(found: Sequence[Choice], goal: Goal | None) -> list[_Step]:
    """A layer's steps.

    Where time counts, a goal is a measure of how much is to be done, not of what it is worth: of
    two forms that save as many multiply-adds the slower one may have the smaller error. By time
    alone, though, a little of it is bought with much error. So both count alike, and after the
    steps that are worth most come those that save still more.
    """
    if goal is None:
        return _hull(found, _gain)
    if any(c.unit != SECONDS for c in found):
        return _hull(found, _saves)
    steps = _hull(found, _both, goal)
    more = _hull(found, _saves, goal, steps[-1].new if steps else None)
    return [*steps, *(replace(s, late=True) for s in more)]


def _hull(
    found: Sequence[Choice], worth: Worth, goal: Goal | None = None, at: Choice | None = None
) -> list[_Step]:
    """Choices from `at` up, each the best next one for its error; with a goal none saves less."""
    steps = list[_Step]()
    left = sorted(found, key=lambda c: (_error(c), -worth(c)))
    while left := [c for c in left if _follows(c, at, worth, goal)]:
        had, error = (worth(at), _error(at)) if at else (0.0, 0.0)
        slopes = [(_error(c) - error) / (worth(c) - had) for c in left]
        least = min(slopes)
        best = max((c for c, s in zip(left, slopes, strict=True) if s <= least), key=worth)
        steps.append(_Step(at, best, worth(best) - had, max(_error(best) - error, 0.0)))
        at = best
    return steps


def _follows(choice: Choice, at: Choice | None, worth: Worth, goal: Goal | None) -> bool:
    """Whether a choice is worth more than another, and saves no less."""
    more = worth(choice) > (worth(at) if at else 0.0)
    return more and (goal is None or choice.saves >= (at.saves if at else 0.0))


def _enough(steps: Sequence[_Step], goal: Goal | None) -> int:
    """How many steps the goal needs; all where there is none or it can't be met."""
    if goal is None:
        return len(steps)
    low, high = 0, len(steps)  # more steps save more
    while low < high:
        middle = (low + high) // 2
        if goal.saved(_reached(steps[:middle])) >= goal.amount:
            high = middle
        else:
            low = middle + 1
    return low


def _needed(steps: list[_Step], goal: Goal | None) -> list[_Step]:
    """Steps without the late ones that the goal is reached without: the last may save too much."""
    taken = steps
    for one in steps[: -SPARED - 1 : -1] if goal else ():
        rest = [s for s in taken if s is not one]
        alone = all(s.old is not one.new for s in rest)
        if goal and alone and goal.saved(_reached(rest)) >= goal.amount:
            taken = rest
    return taken


def _finished(taken: list[_Step], every: Sequence[_Step], goal: Goal | None) -> list[_Step]:
    """Steps of which the last is the one of least error that reaches the goal.

    The least error for what it saves is no virtue in the last: it may save far more than is left
    to be saved. (Where gains are seconds they count beyond the goal, too: the last stays.)
    """
    if goal is None or not taken or taken[-1].new.unit == SECONDS:
        return taken
    rest, last = taken[:-1], taken[-1]
    at = {c.layer: c for c in _reached(rest)}
    left = goal.amount - goal.saved(list(at.values()))
    able = [s for s in every if s.error < last.error and at.get(s.new.layer) is s.old
            and s.new.saves - (s.old.saves if s.old else 0.0) >= left > 0]  # fmt: skip
    for one in sorted(able, key=lambda s: s.error)[:SPARED]:
        if goal.saved(_reached([*rest, one])) >= goal.amount:
            return [*rest, one]
    return taken


def _reached(steps: Iterable[_Step]) -> list[Choice]:
    """The choices that layers are at after some steps."""
    at: dict[str, Choice] = {}
    for step in steps:
        at[step.new.layer] = step.new
    return list(at.values())


def _retreat(steps: Sequence[_Step], trials: _Trials) -> tuple[list[Choice], str]:
    """The choices left when enough of the worst steps are taken back, and why others aren't made.

    How many is found by bisection, the drop being taken to fall with the number. Then the largest
    gains among those taken back are tried once more, one by one.
    """
    low, high = 0, len(steps)  # so many taken: within the limit, too many
    limit = f"{trials.limit:g} point{'' if trials.limit == 1 else 's'}"
    if not trials.fits(()):
        found = trials.loss(())
        lost = f"{found.drop.mean:.2f} points of {trials.limit:g} are" if found else "too much is"
        return [], f"{lost} lost without it"
    while high - low > 1:
        middle = (low + high) // 2
        if trials.fits(_reached(steps[:middle])):
            low = middle
        else:
            high = middle
    taken, back = list(steps[:low]), sorted(steps[low:], key=lambda s: (s.late, -s.gain))
    for one in back[:TRIES]:
        if one.old in (None, *_reached(taken)) and trials.fits(_reached([*taken, one])):
            taken.append(one)
    return _reached(taken), f"taken back: the drop would be over {limit}"


def unreached(what: str, share: float, found: Loss | None) -> str:
    """That a limit keeps a goal from being reached: how much of it is, and the loss so far."""
    drop = f" (drop {found.drop.mean:.2f} on the samples that choose)" if found else ""
    return (f"the {what} asked for can't be reached within the limit on the drop: the best found "
            f"has {share:.0%} of them{drop}; ask for less, or raise --max-drop")  # fmt: skip


def _left(priced: Iterable[Choice], kept: Sequence[Choice], over: str) -> Iterable[Choice]:
    """What wasn't chosen, with the reason."""
    made = {c.layer: c for c in kept}
    for c in priced:
        if c.refused:
            yield c
        elif c.layer not in made:
            told = f"{over} (its own error {c.error:.1e})" if over else "not needed"
            yield replace(c, refused=told)
        elif c is not made[c.layer]:
            yield replace(c, refused=f"{made[c.layer].rewrite} instead")


def _short(kept: Iterable[Choice], goal: Goal | None) -> str:
    """How far a goal was missed."""
    saved = goal.saved(list(kept)) if goal else 0.0
    if goal is None or saved >= goal.amount * (1 - 1e-9):
        return ""
    return (f"only {saved / goal.amount:.0%} of the {goal.what} asked for: no other rewrite gains "
            "on the target, or is within the limit")  # fmt: skip
