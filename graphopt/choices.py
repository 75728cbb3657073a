"""One mechanism for every lossy decision: passes propose, this driver selects, applies, backs off.

A lossy pass makes a `Choice` for each thing that it could do: what it would change, what that gains
on the target, how much it loses (measured on samples), and what may stand in its way. `settle`
keeps those that gain, applies them together, measures the whole model's loss where the user limits
it, and while that is over the limit takes choices back, the worst loss for its gain first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from graphopt.errors import LimitError
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Loc, Module
from graphopt.loss import Loss, worst
from graphopt.rewrite.driver import Remark

if TYPE_CHECKING:
    from graphopt.pipeline import Context

SHOWN = 3  # choices not made that a note names
TRIES = 8  # choices taken back that are tried once more, the largest gain first

Apply = Callable[[Module, Collection[str]], None]
"""Makes choices, given by their keys, in a module."""


@dataclass(frozen=True)
class Choice:
    """Something a lossy pass could do.

    `key` tells it from the pass's others; `loc` are the ONNX nodes that it changes; `rewrite` says
    what it does; `gain` is what it saves, in the units of `unit` (seconds a run where the target
    can tell, else multiply-adds, or bytes); `error` the noise-to-signal ratio that it makes where
    it is; `refused` why it can't be made.
    """

    key: str
    loc: Loc
    rewrite: str
    gain: float
    error: float
    unit: str = "s"
    refused: str = ""

    @property
    def badness(self) -> float:
        """Loss for its gain: what is taken back first."""
        return self.error / max(self.gain, 1e-12)


@dataclass(frozen=True)
class Settled:
    """What was chosen, what wasn't and why, and the loss that was measured (None: no limit)."""

    kept: tuple[Choice, ...]
    left: tuple[Choice, ...]
    loss: Loss | None = None
    measured: int = 0

    def notes(self) -> tuple[str, ...]:
        """For the screen: how many were made, which weren't."""
        counts = Counter(c.rewrite for c in self.kept)
        made = ", ".join(f"{n} layer{'s' if n > 1 else ''} in {what}" for what, n in counts.items())
        if not self.left:
            return (made,) if made else ()
        shown = ", ".join(f"{_first(c.loc)} ({c.refused})" for c in self.left[:SHOWN])
        more = f" and {len(self.left) - SHOWN} more" if len(self.left) > SHOWN else ""
        return (f"{made or 'no layer changed'}; kept as they were: {shown}{more}",)

    def remarks(self) -> tuple[Remark, ...]:
        """One for each choice."""
        made = (Remark(c.rewrite, c.loc, True) for c in self.kept)
        left = (Remark(c.rewrite, c.loc, False, c.refused) for c in self.left)
        return (*made, *left)


def _first(loc: Loc) -> str:
    return loc.nodes[0] if loc.nodes else "?"


@dataclass
class _Trials:
    """Measures sets of choices, each on a copy of the module."""

    module: Module
    apply: Apply
    ctx: Context
    known: dict[frozenset[str], Loss | None] = field(
        default_factory=dict[frozenset[str], "Loss | None"]
    )

    def loss(self, chosen: Iterable[Choice]) -> Loss | None:
        """The loss that counts, of a set of choices."""
        keys = frozenset(c.key for c in chosen)
        if keys not in self.known:
            assert self.ctx.judge
            copy = clone_module(self.module)
            self.apply(copy, keys)
            self.known[keys] = worst(self.ctx.judge.losses(copy))
        return self.known[keys]

    def fits(self, chosen: Iterable[Choice]) -> bool:
        """Whether a set of choices is within the limit."""
        found, limit = self.loss(chosen), self.ctx.max_drop
        return found is None or limit is None or found.drop.mean <= limit


def settle(module: Module, choices: Sequence[Choice], apply: Apply, ctx: Context) -> Settled:
    """Select choices and make them in a module.

    Args:
        module: changed in place.
        choices: all that could be done, in the order of the graph.
        apply: makes a set of them.
        ctx: `max_drop` and `judge` limit the loss; None: all that gain are kept.

    Raises:
        LimitError: the loss is over the limit even with none of them.
    """
    able = [c for c in map(_priced, choices) if not c.refused]
    left = [c for c in map(_priced, choices) if c.refused]
    trials = _Trials(module, apply, ctx)
    kept = able
    if ctx.max_drop is not None and ctx.judge is not None and not trials.fits(able):
        kept = _retreat(able, trials)
        over = f"taken back: the drop would be over {ctx.max_drop:g} points"
        names = {c.key for c in kept}
        left += [replace(c, refused=f"{over} (its own error {c.error:.1e})")
                 for c in able if c.key not in names]  # fmt: skip
    apply(module, frozenset(c.key for c in kept))
    loss = trials.loss(kept) if trials.known else None
    return Settled(tuple(kept), tuple(left), loss, len(trials.known))


def _priced(choice: Choice) -> Choice:
    """Refused where it gains nothing."""
    if choice.refused or choice.gain > 0:
        return choice
    return replace(choice, refused="it gains nothing on the target")


def _retreat(able: Sequence[Choice], trials: _Trials) -> list[Choice]:
    """The choices left when enough of the worst are taken back.

    How many is found by bisection, the drop being taken to fall with the number. Then the largest
    gains among those taken back are tried once more, one by one.
    """
    order = sorted(able, key=lambda c: -c.badness)
    low, high = 0, len(order)  # so many taken back: too few, enough
    if not trials.fits(()):
        limit, found = trials.ctx.max_drop, trials.loss(())
        raise LimitError(f"the drop is over {limit:g} points without any choice: {found}")
    while high - low > 1:
        middle = (low + high) // 2
        if trials.fits(order[middle:]):
            high = middle
        else:
            low = middle
    kept, back = list(order[high:]), sorted(order[:high], key=lambda c: -c.gain)
    for one in back[:TRIES]:
        if trials.fits([*kept, one]):
            kept.append(one)
    position = {c.key: i for i, c in enumerate(able)}
    return sorted(kept, key=lambda c: position[c.key])
