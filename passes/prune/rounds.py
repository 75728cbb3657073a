"""Pruning a part at a time: what a channel is worth depends on those that went before it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from graphopt.analysis.cost import total_macs, weight_bytes
from graphopt.choices import Choice, Goal, Settled, settle, unreached
from graphopt.errors import InputError
from graphopt.ir.core import Module, Op, Value
from graphopt.passes.layers.gain import Aim
from graphopt.passes.layers.names import offered
from graphopt.passes.layers.sensitivity import sensitivities
from graphopt.passes.prune.groups import Group
from graphopt.passes.prune.propose import Plan
from graphopt.passes.prune.scores import Criterion, look, losses, norms
from graphopt.pipeline import Context, PassResult
from graphopt.rewrite import const

RUNS = 256  # of the model that Gram matrices are made of, at most
EACH = 0.1  # of the model's multiply-adds that go in a round


@dataclass(frozen=True)
class Asked:
    """What the pass was asked for (see `Prune`)."""

    criterion: Criterion
    ratio: float | None
    aim: Aim
    multiple: int
    rounds: int
    skip: tuple[str, ...]
    inside: bool = False

    def count(self) -> int:
        """How many rounds."""
        if self.rounds or self.criterion != "reconstruct" or self.ratio is None:
            return self.rounds or 1
        return max(math.ceil(self.ratio / EACH - 1e-9), 1)

    def size(self, module: Module) -> float:
        """What the ratio is of."""
        return float((weight_bytes if self.aim == "size" else total_macs)(module.main))


@dataclass
class Rounds:
    """One run of the pass over a module. `made` are the choices of all rounds, by group."""

    module: Module
    ctx: Context
    asked: Asked
    made: dict[str, Choice] = field(default_factory=dict[str, Choice])
    sense: dict[str, float] = field(default_factory=dict[str, float])

    def run(self) -> PassResult:
        """Propose, select, cut out and repair, round after round.

        Raises:
            InputError: `skip` names nothing.
        """
        plan = self._plan()
        out = self._out(plan.found.groups)
        start, count = self.asked.size(self.module), self.asked.count()
        ratio = self.asked.ratio
        fixed = [g for g in plan.found.groups if g.why]
        settled = Settled((), ())
        for i in range(count):
            wanted = None if ratio is None else start * ratio * (i + 1) / count
            saved = start - self.asked.size(self.module)
            if wanted is not None and wanted <= saved:
                continue
            self.ctx.progress("prune", i, count)
            left = None if wanted is None else wanted - saved
            settled = self._round(plan, out, left)
            if not settled.kept or settled.missed:
                break
            plan = self._plan()
        return self._result(settled, fixed, start)

    def _plan(self) -> Plan:
        return Plan.of(self.module, self.asked.aim, self.asked.multiple, self.asked.inside)

    def _out(self, found: Sequence[Group]) -> dict[str, str]:
        """Why groups that could go don't, by name.

        Raises:
            InputError: no layer has a part of `skip` in its name.
        """
        names = {g.name: [n for e in g.makers for n in e.op.loc.nodes] for g in found}
        for part in self.asked.skip:
            every = [n for group in names.values() for n in group]
            if not any(part in n for n in every):
                raise InputError(f"skip: no layer's name has {part!r} in it{offered(part, every)}")
        out = dict[str, str]()
        for g in found:
            if any(part in n for part in self.asked.skip for n in names[g.name]):
                out[g.name] = "skipped, as asked"
            elif not self.ctx.permit("prune", g.loc):
                out[g.name] = "not permitted"
        return out

    def _round(self, plan: Plan, out: Mapping[str, str], amount: float | None) -> Settled:
        """Choose and make the choices of one round."""
        refused = {g.name: self._refused(plan, g, out) for g in plan.found.groups}
        self._order(plan, [g for g in plan.found.groups if not refused[g.name]])
        choices = list[Choice]()
        for g in plan.found.groups:
            if why := refused[g.name]:
                choices.append(Choice(g.name, g.loc, f"pruned{plan.part(g)}", 0, 0, refused=why))
            else:
                choices += plan.choices(g, self.ctx)
        what = "bytes of weights" if self.asked.aim == "size" else "multiply-adds"
        goal = None if amount is None else Goal(amount, what, plan.together)
        settled = settle(self.module, choices, lambda m, c: self._apply(plan, m, c), self.ctx, goal)
        self._remember(settled)
        return settled

    def _refused(self, plan: Plan, group: Group, out: Mapping[str, str]) -> str:
        """Why nothing of a group can go; "": something can."""
        if group.why or group.name in out:
            return group.why or out[group.name]
        if not plan.most(group):
            return f"{group.channels} channels are no more than {self.asked.multiple} (round_to)"
        if self.asked.aim == "size" and _shared(group):
            return "another layer has weights of it, too, which would stay in the file"
        return "" if _finite(group) else "a weight isn't finite"

    def _apply(self, plan: Plan, module: Module, made: Sequence[Choice]) -> None:
        kept = plan.apply(module, made)
        if module is self.module:
            for name, places in kept.items():
                self.ctx.channels[name] = still(self.ctx.channels.get(name), places)

    def _order(self, plan: Plan, able: Sequence[Group]) -> None:
        """Say of each group which channels go first."""
        if self.asked.criterion != "reconstruct":
            for g in able:
                plan.orders[g.name] = norms(g, 1 if self.asked.criterion == "l1" else 2)
            return
        samples = self.ctx.samples
        assert samples
        readers = list(dict.fromkeys(e.op for g in able for e in g.readers if e.weighted))
        plan.inputs = look(self.module, readers, samples, self._sense(readers), RUNS)
        for g in able:
            plan.orders[g.name] = losses(g, plan.inputs, plan.most(g))

    def _sense(self, readers: Sequence[Op]) -> dict[Op, float]:
        """How much of their noise is left at the outputs; found once, by name."""
        new = [op for op in readers if _name(op) not in self.sense]
        if new:
            values: list[Value] = [op.result for op in new]
            assert self.ctx.samples
            found = sensitivities(self.module, values, self.ctx.samples)
            self.sense.update(zip(map(_name, new), found, strict=True))
        return {op: self.sense[_name(op)] for op in readers}

    def _remember(self, settled: Settled) -> None:
        """Add a round's choices to those before."""
        for c in settled.kept:
            before = self.made.get(c.layer)
            first = before.rewrite if before else c.rewrite
            told = c.rewrite.split(" of ")[0] + " of " + first.partition(" of ")[2]
            old = before or replace(c, gain=0.0, error=0.0, saves=0.0)
            self.made[c.layer] = replace(
                c, rewrite=told, gain=old.gain + c.gain, error=old.error + c.error,
                saves=old.saves + c.saves,
            )  # fmt: skip

    def _result(self, last: Settled, fixed: Sequence[Group], start: float) -> PassResult:
        """All rounds together."""
        left = list({c.layer: c for c in reversed(last.left) if c.layer not in self.made}.values())
        left.reverse()  # of each group the one that would have cost least
        made = tuple(self.made.values())
        short, missed = "", ""
        saved, wanted = start - self.asked.size(self.module), (self.asked.ratio or 0.0) * start
        if wanted and last.missed:
            missed = unreached(self._what(), saved / wanted, last.loss)
        elif wanted and saved < wanted * (1 - 1e-9):
            short = last.short and (
                f"only {saved / start:.1%} of the {self._what()} saved, not "
                f"{self.asked.ratio:.0%}: no other rewrite gains on the target, or is within the "
                "limit")  # fmt: skip
        settled = Settled(made, tuple(left), last.loss, last.measured, short, missed)
        return PassResult(bool(made), settled.remarks(), settled, settled.notes())

    def _what(self) -> str:
        return "bytes of weights" if self.asked.aim == "size" else "multiply-adds"


def still(old: tuple[int, ...] | None, places: tuple[int, ...]) -> tuple[int, ...]:
    """Which of the original's elements a value has, after one more cut of which `places` are left.

    None, if the cut was along another axis than those before (heads, then channels inside them).
    """
    if old is None:
        return places
    return tuple(old[p] for p in places) if max(places, default=0) < len(old) else ()


def _weights(group: Group) -> dict[Value, None]:
    """Those of the layers that make or read channels of a group."""
    ends = (e for e in (*group.makers, *group.readers) if e.weighted)
    return dict.fromkeys(e.op.operand(1) for e in ends)


def _shared(group: Group) -> bool:
    """Whether a layer that makes or reads channels of a group shares its weights."""
    return any(w.use_count > 1 for w in _weights(group))


def _finite(group: Group) -> bool:
    """Whether norms of weights, or what is lost without some, tell anything."""
    found = filter(None, map(const, _weights(group)))
    return all(np.isfinite(d.numpy().astype(np.float64)).all() for d in found)


def _name(op: Op) -> str:
    return op.result.hint or "+".join(op.loc.nodes)
