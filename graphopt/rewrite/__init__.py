"""Rewriting by rules: `@rule(Kind)` functions, applied to a fixed point by `rewrite`."""

from graphopt.rewrite.driver import Miss, Remark, Rewriter, Rule, rewrite, rule
from graphopt.rewrite.match import array, const, data, made_by, only_use, scalar, sides

__all__ = [
    "Miss", "Remark", "Rewriter", "Rule", "array", "const", "data", "made_by", "only_use",
    "rewrite", "rule", "scalar", "sides",
]  # fmt: skip
