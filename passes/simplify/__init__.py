"""Simplify: exact algebra that leaves fewer, or cheaper, ops. One file a topic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from graphopt.passes.simplify import (
    canonical,
    chains,
    identities,
    recurrent,
    shuffles,
    transposes,
    views,
)
from graphopt.passes.table import RulePass
from graphopt.pipeline import Context
from graphopt.rewrite import Rule

RULES: tuple[Rule[Any], ...] = (
    *identities.RULES, *views.RULES, *chains.RULES, *canonical.RULES,
    *recurrent.RULES, *shuffles.RULES, *transposes.RULES,
)  # fmt: skip


@dataclass(frozen=True)
class Simplify(RulePass, name="simplify"):
    """Remove identities, merge chains, cancel transposes, choose canonical forms; all exact."""

    def rules(self, ctx: Context) -> Iterable[Rule[Any]]:
        """The tables of the topics, in order."""
        return RULES
