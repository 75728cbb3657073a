"""Fuse: rewrites that change float rounding and nothing else. One file a topic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.passes.fuse import activations, affine, arithmetic, attention, excite, norms, padding
from graphopt.passes.simplify import transposes
from graphopt.passes.table import RulePass
from graphopt.pipeline import Context, Effect
from graphopt.rewrite import Rule

RULES: tuple[Rule[Any], ...] = (
    *affine.RULES, *padding.RULES, *norms.RULES, *activations.RULES, *attention.RULES,
    *excite.RULES, *arithmetic.RULES, *transposes.RULES, *transposes.SUMS,
)  # fmt: skip


@dataclass(frozen=True)
class Fuse(RulePass, name="fuse"):
    """Fold normalisation and scaling into weights; recognise what exporters took apart."""

    effect: ClassVar[Effect] = "reassociating"

    def rules(self, ctx: Context) -> Iterable[Rule[Any]]:
        """The tables of the topics, in order."""
        return RULES
