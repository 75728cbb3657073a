"""Other numbers for the weights of layers, in their places: offered, measured, chosen from.

What they save are bytes of storage (`analysis.entropy`); the layer computes as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.analysis.entropy import stored_bytes
from graphopt.choices import Choice, Goal, settle
from graphopt.ir.core import Module, Value
from graphopt.ir.types import Array
from graphopt.passes.layers.forms import Fit, Form, Make, Numbers, Size
from graphopt.passes.layers.left import NOTHING, left, unruled
from graphopt.passes.layers.measured import Looked, looked_at
from graphopt.passes.layers.replace import Weights, replace_layers
from graphopt.passes.layers.sites import Site, sites, skipped
from graphopt.passes.layers.store import store
from graphopt.passes.layers.unfold import unrows
from graphopt.pipeline import Activations, Context, PassResult


@dataclass(frozen=True)
class Offer:
    """Weights that a layer could have, [groups, outs, K]: `told` says what they are."""

    told: str
    rows: Array
    saves: float = 0.0


Offers = Callable[[Site, Numbers], Iterable[Offer] | str]
"""What a pass offers a layer; or why it offers nothing."""


@dataclass(frozen=True)
class Same(Form):
    """The layer as it is, with other weights."""

    def told(self, size: Size) -> str:
        """Nothing of note."""
        return "other weights"

    def full(self) -> Size:
        """There is one size."""
        return ()

    def shapes(self, size: Size) -> tuple[tuple[int, ...], ...]:
        """The weight's."""
        return (tuple(self.site.weight.shape),)

    def build(self, make: Make, x: Value, w: Sequence[Value], bias: Value | None) -> Value:
        """The op again."""
        kind = self.site.op.kind
        return make(kind, x, w[0], bias) if len(self.site.op.operands) > 2 else make(kind, x, w[0])

    def fit(self, numbers: Numbers, size: Size) -> Fit:
        """The weights as they are."""
        site = self.site
        return Fit((unrows(site.op, numbers.w, tuple(site.weight.shape)),), numbers.w)


@dataclass
class Revaluing:
    """One run of a pass over a module; `name` is the pass's."""

    name: str
    ctx: Context
    offers: Offers
    skip: tuple[str, ...]
    weights: dict[tuple[str, str], tuple[Form, Weights]] = field(
        default_factory=dict[tuple[str, str], "tuple[Form, Weights]"]
    )

    def run(self, module: Module, goal: Goal | None = None) -> PassResult:
        """Propose, select, put new weights in place.

        Raises:
            InputError: `skip` names nothing.
        """
        found = sites(module.main)
        names = {s.name for s in found}
        others = left(self.name, module.main, lambda _: True, unruled, names)
        out = skipped(found, self.skip, others)
        places = {op: i for i, op in enumerate(module.main)}
        at = {s.name: [places[one.op] for one in s.family] for s in found}
        told = {s.name: [self._refusal(s, why)] for s in found if (why := self._refused(s, out))}
        able = [s for s in found if s.name not in told]
        for looked in looked_at(module, able, telling(self.ctx)):
            told[looked.site.name] = list(self._fitted(looked))
        choices = [*(c for s in found for c in told[s.name]), *others]

        def apply(copy: Module, made: Sequence[Choice]) -> None:
            self._apply(copy, made, at)

        settled = settle(module, choices, apply, self.ctx, goal)
        nothing = () if choices else (f"{self.name}: {NOTHING}",)
        return PassResult(bool(settled.kept), settled.remarks(), settled,
                          (*nothing, *settled.notes()))  # fmt: skip

    def _apply(self, module: Module, made: Sequence[Choice], at: dict[str, list[int]]) -> None:
        """Make choices in a module whose ops stand where those of the original do."""
        ops = list(module.main)
        for choice in made:
            form, weights = self.weights[choice.layer, choice.rewrite]
            replace_layers([ops[i] for i in at[choice.layer]], form, weights)

    def _refused(self, site: Site, out: set[str]) -> str:
        if site.name in out:
            return "skipped, as asked"
        if site.shared:
            return "its weights are another's, too"
        return "" if self.ctx.permit(self.name, site.loc) else "not permitted"

    def _refusal(self, site: Site, why: str) -> Choice:
        return Choice(site.name, site.loc, self.name, 0, 0, "bytes", why)

    def _fitted(self, looked: Looked) -> Iterator[Choice]:
        """The choices of one layer, or family."""
        site = looked.site
        offers = self.offers(site, looked.numbers(whiten=True))
        if isinstance(offers, str):
            yield self._refusal(site, offers)
            return
        before, shape = stored_bytes(site.weight.numpy()), tuple(site.weight.shape)
        for one in offers:
            array = unrows(site.op, one.rows, shape).astype(np.float32) + np.float32(0)  # no -0.0
            error, shifts = looked.error(one.rows.astype(np.float32).astype(np.float64))
            choice = Choice(site.name, site.loc, one.told, before - stored_bytes(array),
                            error, "bytes", saves=one.saves)  # fmt: skip
            self.weights[site.name, one.told] = Same(site), Weights((store(array),), shifts)
            yield choice


def telling(ctx: Context) -> Activations | None:
    """The samples, if the user gave some or BatchNorms told what they are like.

    Random inputs, which are left for other models, tell too little of what layers read.
    """
    samples = ctx.samples
    return samples if samples and samples.runs and samples.data != "seeded" else None
