"""Dead code elimination."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Graph, Module, Op
from graphopt.pipeline import Context, Pass, PassResult


@dataclass(frozen=True)
class Dce(Pass, name="dce"):
    """Erase ops that nothing uses. Random ops stay: they move the generator on.

    An unused result that ONNX lets a node leave unnamed is left so: runtimes need not compute it.
    """

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
            changed |= _unnamed(op)
            for region in op.regions:
                changed |= _sweep(region)
        op = before
    return changed


def _unnamed(op: Op) -> bool:
    """Mark the unused results of an opaque op that may be missing; tell whether there are any."""
    kind = op.kind
    if not isinstance(kind, Opaque) or all(r.use_count for r in op.results):
        return False
    from graphopt.onnx.checks import optional_results  # on first use: onnx is slow to import

    may = optional_results(kind.op_type, kind.version, kind.domain, len(op.results))
    unused = {i for i in may if not op.results[i].use_count}
    if unused <= set(kind.missing):
        return False
    op.kind = replace(kind, missing=tuple(sorted(unused | set(kind.missing))))
    return True


def _draws(op: Op) -> bool:
    """Whether a region holds an op that must stay."""
    inner = (o for region in op.regions for o in region.walk())
    return any(o.results and not o.kind.pure() for o in inner)
