"""Dead code elimination."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.core import Graph, Module, Op
from graphopt.pipeline import Context, Pass, PassResult


@dataclass(frozen=True)
class Dce(Pass, name="dce"):
    """Erase ops that nothing uses. Random ops stay: they move the generator on."""

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Last op first, so that one sweep suffices."""
        return PassResult(_sweep(module.main))


def _sweep(graph: Graph) -> bool:
    changed, op = False, graph.last
    while op:
        before = op.prev
        if op.results and op.dead() and not _draws(op):
            graph.erase(op)
            changed = True
        else:
            for region in op.regions:
                changed |= _sweep(region)
        op = before
    return changed


def _draws(op: Op) -> bool:
    """Whether a region holds an op that must stay."""
    inner = (o for region in op.regions for o in region.walk())
    return any(o.results and not o.kind.pure() for o in inner)
