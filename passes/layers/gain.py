"""What computing a layer another way saves: time on a target, else multiply-adds, or bytes."""

from __future__ import annotations

from typing import Literal

from graphopt.analysis.cost import macs
from graphopt.analysis.price import Costs
from graphopt.ir.builtin import Const
from graphopt.ir.core import Graph
from graphopt.ir.data import nbytes
from graphopt.pipeline import Context

Aim = Literal["time", "macs", "size"]
"""What a lossy pass is to make less: seconds on the target, multiply-adds, or bytes of weights."""


def gain(before: Graph, after: Graph, costs: Costs | None, aim: Aim) -> tuple[float, str]:
    """What is saved by `after` in the place of `before`, and its unit (see `choices.Choice`).

    Where nobody can tell the time (no target), multiply-adds stand for it.
    """
    if aim == "size":
        return float(_bytes(before) - _bytes(after)), "bytes"
    if aim == "macs" or costs is None:
        return saved_macs(before, after), "MACs"
    return costs.price(before).seconds - costs.price(after).seconds, "s"


def multiple(aim: Aim, ctx: Context) -> int:
    """What sizes are rounded to: the vectors of the target, where time counts."""
    return ctx.lanes if aim == "time" and ctx.lanes else 1


def saved_macs(before: Graph, after: Graph) -> float:
    """Multiply-adds that are saved."""
    return float(sum(map(macs, before)) - sum(map(macs, after)))


def _bytes(graph: Graph) -> int:
    return sum(nbytes(op.kind.data) for op in graph if isinstance(op.kind, Const))
