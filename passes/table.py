"""A pass that is a table of rules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from graphopt.ir.core import Module
from graphopt.pipeline import Context, Pass, PassResult
from graphopt.rewrite import Rule, rewrite


@dataclass(frozen=True)
class RulePass(Pass):
    """Applies its rules, to the main graph and all regions, until none matches."""

    @abstractmethod
    def rules(self, ctx: Context) -> Iterable[Rule[Any]]:
        """The rules, tried in order on each op."""

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Rewrite to a fixed point."""
        outcome = rewrite(module.main, self.rules(ctx), ctx.permit)
        return PassResult(outcome.changed, tuple(outcome.remarks))
