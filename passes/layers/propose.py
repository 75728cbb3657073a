"""Rewriting layers by forms: alternatives at several sizes, priced and measured, then chosen from.

For each layer, a pass says what forms it could take and at what sizes; here they are priced on the
target, fitted to the Gram matrix of what the layer reads, and put before `choices.settle`. Weights
of alternatives wait in files, so that no more than one layer's are in memory. Layers that have the
same weights go together, and have the same weights afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np

from graphopt.analysis.cost import total_macs, weight_bytes
from graphopt.analysis.price import Costs, graph_of
from graphopt.choices import Choice, Goal, settle
from graphopt.errors import InputError
from graphopt.ir.core import Graph, Module
from graphopt.passes.layers.forms import Form, Numbers, Size, family
from graphopt.passes.layers.gain import Aim, gain, saved_macs
from graphopt.passes.layers.left import NOTHING, Why, left, unruled
from graphopt.passes.layers.measured import Looked, looked_at
from graphopt.passes.layers.names import check_skip
from graphopt.passes.layers.replace import Weights, example, replace_layers
from graphopt.passes.layers.sites import Site, sites, skipped
from graphopt.passes.layers.store import store
from graphopt.pipeline import Ahead, Context, PassResult

SMALLEST = "no form of it is smaller at the sizes tried"

Forms = Callable[[Site], Sequence[Form]]
Sizes = Callable[[Form, Numbers | None], Sequence[Size] | None]
"""The sizes of a form to try; None where they depend on the numbers, which aren't there yet."""


class Options(Protocol):
    """The options that rewriting passes share."""

    name: ClassVar[str]

    @property
    def aim(self) -> Aim:
        """What has to become less."""
        ...

    @property
    def ratio(self) -> float | None:
        """The share of it to be saved."""
        ...

    @property
    def whiten(self) -> bool:
        """Whether inputs count as they are on samples."""
        ...

    @property
    def skip(self) -> tuple[str, ...]:
        """Parts of names of layers that stay."""
        ...


@dataclass(frozen=True)
class Asked:
    """What a pass was asked for: its name, and the options that rewriting passes share.

    `bounded` says whether an option itself fixes the loss (a rank), so that nothing else has to.
    """

    name: str
    aim: Aim
    ratio: float | None
    whiten: bool
    skip: tuple[str, ...]
    bounded: bool

    @staticmethod
    def of(options: Options, bounded: bool) -> Asked:
        """By a pass."""
        o = options
        return Asked(o.name, o.aim, o.ratio, o.whiten, o.skip, bounded)

    def check(self, ahead: Ahead) -> None:
        """Raise InputError for what can't be done (see `Pass.check`)."""
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise InputError(f"ratio={self.ratio:g} isn't at least 0 and below 1")
        if self.ratio is None and ahead.ctx.max_drop is None and not self.bounded:
            raise InputError(f"{self.name} needs ratio=... or a limit on the loss (--max-drop)")
        check_skip(ahead.module, self.skip)

    def goal(self, graph: Graph) -> Goal | None:
        """The share of the whole graph that is to be saved."""
        if self.ratio is None:
            return None
        if self.aim == "size":
            return Goal(self.ratio * weight_bytes(graph), "bytes of weights")
        return Goal(self.ratio * total_macs(graph), "multiply-adds")


@dataclass(frozen=True)
class Candidate:
    """A form of a layer at a size, and what it gains."""

    form: Form
    size: Size
    gain: float
    unit: str
    saves: float

    def choice(self, error: float) -> Choice:
        """As the driver of choices has it."""
        site = self.form.site
        return Choice(site.name, site.loc, self.form.told(self.size), self.gain, error,
                      self.unit, saves=self.saves)  # fmt: skip


@dataclass
class Rewriting:
    """One run of a pass over a module; `why` says what layers without a form are listed with."""

    asked: Asked
    ctx: Context
    forms: Forms
    sizes: Sizes
    why: Why = unruled
    weights: dict[tuple[str, str], tuple[Form, Weights]] = field(
        default_factory=dict[tuple[str, str], "tuple[Form, Weights]"]
    )
    prices: dict[tuple[Form, Size], Candidate] = field(
        default_factory=dict[tuple[Form, Size], Candidate]
    )

    def run(self, module: Module) -> PassResult:
        """Propose, select, rewrite.

        Raises:
            InputError: `skip` names nothing.
        """
        found = sites(module.main)
        formed, names = list(filter(self._has_form, found)), {s.name for s in found}
        others = left(self.asked.name, module.main, self._has_form, self.why, names)
        out = skipped(found, self.asked.skip, others)
        if self.asked.ratio == 0:
            return PassResult(False)  # nothing is to be saved
        places = {op: i for i, op in enumerate(module.main)}
        at = {s.name: [places[one.op] for one in s.family] for s in found}
        choices = [*self._choices(module, formed, out), *others]

        def apply(m: Module, made: Sequence[Choice]) -> None:
            self._apply(m, made, at)

        settled = settle(module, choices, apply, self.ctx, self.asked.goal(module.main))
        nothing = () if choices else (f"{self.asked.name}: {NOTHING}",)
        return PassResult(bool(settled.kept), settled.remarks(), settled,
                          (*nothing, *settled.notes(), *self._blind()))  # fmt: skip

    def _blind(self) -> tuple[str, ...]:
        """What readers must know where nobody has samples."""
        if self.ctx.samples and self.ctx.samples.runs:
            return ()
        return (f"{self.asked.name}: no samples, so errors are those of weights",)

    def _has_form(self, site: Site) -> bool:
        return bool(self.forms(site))

    def _kept(self, site: Site, why: str) -> Choice:
        return Choice(site.name, site.loc, self.asked.name, 0, 0, refused=why)

    def _apply(self, module: Module, made: Sequence[Choice], at: dict[str, list[int]]) -> None:
        """Make choices in a module whose ops stand where those of the original do."""
        ops = list(module.main)
        for choice in made:
            form, weights = self.weights[choice.layer, choice.rewrite]
            replace_layers([ops[i] for i in at[choice.layer]], form, weights)

    def _choices(self, module: Module, found: Sequence[Site], out: set[str]) -> Iterator[Choice]:
        """In the order of the graph; layers for which there is nothing to gain say so."""
        able = list[Site]()
        told = dict[str, list[Choice]]()
        for site in found:
            why = self._refused(site, out)
            if why:
                told[site.name] = [self._kept(site, why)]
            elif self._may_gain(site, told):
                able.append(site)
        self._fit_all(module, able, told)
        for site in found:
            yield from told.get(site.name, ())

    def _refused(self, site: Site, out: set[str]) -> str:
        if site.name in out:
            return "skipped, as asked"
        if self.asked.aim == "size" and site.shared:
            return "its weights are another's, too"
        if not np.isfinite(site.weight.numpy()).all():
            return "a weight isn't finite"
        return "" if self.ctx.permit(self.asked.name, site.loc) else "not permitted"

    def _may_gain(self, site: Site, told: dict[str, list[Choice]]) -> bool:
        """Whether some form of a layer gains, or can't be priced before its numbers are known."""
        best: Candidate | None = None
        for form in self.forms(site):
            sizes = self.sizes(form, None)
            if sizes is None:
                return True
            for one in (self._priced(form, size) for size in sizes):
                best = max((one, best or one), key=lambda c: c.gain)
        if best is None or best.gain <= 0:
            told[site.name] = [best.choice(0.0) if best else self._kept(site, SMALLEST)]
            return False
        return True

    def _priced(self, form: Form, size: Size) -> Candidate:
        """What a form at a size gains; remembered."""
        key = (form, size)
        if key not in self.prices:
            static = all(one.op.operand(0).tensor.static for one in form.site.family)
            costs = self.ctx.costs if static else None
            every = [self._one_priced(f, size, costs) for f in family(form)]
            if self.asked.aim == "size":
                every = every[:1]  # the file holds their weights once
            gained, saves = (sum(numbers) for numbers in zip(*(e[:2] for e in every), strict=True))
            self.prices[key] = Candidate(form, size, gained, every[0][2], saves)
        return self.prices[key]

    def _one_priced(self, form: Form, size: Size, costs: Costs | None) -> tuple[float, float, str]:
        """What a form of one layer gains, what it saves of what a goal counts, the gain's unit."""
        aim = self.asked.aim
        before, after = graph_of([form.site.op]), example(form, size)
        gained, unit = gain(before, after, costs, aim)
        return gained, gained if aim == "size" else saved_macs(before, after), unit

    def _fit_all(self, module: Module, able: list[Site], told: dict[str, list[Choice]]) -> None:
        """Fit the forms of all layers, with what they read in memory a few at a time."""
        samples = self.ctx.samples if self.ctx.samples and self.ctx.samples.runs else None
        for i, looked in enumerate(looked_at(module, able, samples)):
            self.ctx.progress(f"{self.asked.name}: fit layers", i, len(able))
            told[looked.site.name] = list(self._fitted(looked))

    def _fitted(self, looked: Looked) -> Iterator[Choice]:
        """The choices of one layer, or family."""
        numbers = looked.numbers(self.asked.whiten)
        wanted = self._wanted(looked.site, numbers)
        if not wanted:
            yield self._kept(looked.site, SMALLEST)
        for one in wanted:
            if one.gain <= 0:
                yield one.choice(0.0)
                continue
            fit = one.form.fit(numbers, one.size)
            error, shifts = looked.error(fit.made)
            choice = one.choice(error)
            told = tuple(store(a) for a in fit.weights)
            self.weights[choice.layer, choice.rewrite] = one.form, Weights(told, shifts)
            yield choice

    def _wanted(self, site: Site, numbers: Numbers) -> list[Candidate]:
        """What is worth fitting: all that gains, else the best of what doesn't."""
        able = [
            self._priced(form, size)
            for form in self.forms(site)
            for size in self.sizes(form, numbers) or ()
        ]
        gaining = [c for c in able if c.gain > 0]
        return gaining or sorted(able, key=lambda c: -c.gain)[:1]
