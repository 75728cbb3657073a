"""Give values the layouts that were decided, put reorders where users want another one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from graphopt.ir.core import Graph, Loc, Op, Value
from graphopt.ops.movement import Reorder
from graphopt.passes.layout import tags
from graphopt.passes.layout.offer import Offer


@dataclass
class Rewriting:
    """One graph: the block size, and the reorders made so far."""

    graph: Graph
    block: int
    made: dict[tuple[Value, str], Value] = field(default_factory=dict[tuple[Value, str], Value])
    count: int = 0

    def apply(self, op: Op, offer: Offer, blocked: tuple[bool, ...]) -> None:
        """Make an op read and write what was decided."""
        for i, v in enumerate(op.operands):
            if v is not None and isinstance(tag := self.wanted(v, i, offer, blocked), str):
                op.set_operand(i, self.stored(v, tag, op))
        for result, choice in zip(op.results, offer.results, strict=True):
            if tags.may_be_blocked(result):
                tag = self.tag(result) if blocked[choice] else ""
                result.type = replace(result.tensor, layout=tag)
        for inner in (o for region in op.regions for o in region.walk()):
            for i, v in enumerate(inner.operands):
                if v is not None and tags.may_be_blocked(v) and v.tensor.layout:
                    inner.set_operand(i, self.stored(v, "", op))

    def tag(self, value: Value) -> str:
        """The tag of a value in blocks."""
        return tags.blocked(len(tags.dims(value)), self.block)

    def wanted(self, v: Value, i: int, offer: Offer, blocked: tuple[bool, ...]) -> str | None:
        """The layout that operand `i` must have; None: as it is."""
        choice = offer.operands[i]
        if i in offer.tags:
            return offer.tags[i][blocked[0]]
        if choice is None or not blocked[choice]:
            return "" if tags.shape_of(v) is not None else None
        return None if i in offer.loose else self.tag(v)

    def stored(self, value: Value, tag: str, before: Op) -> Value:
        """The value in a layout: itself, or its reorder (one is made for all users after it)."""
        if value.tensor.layout == tag:
            return value
        key = (value, tag)
        if key not in self.made:
            kind = replace(value.tensor, layout=tag)
            maker = value.op.loc if value.op else Loc()
            loc = maker if maker.nodes else before.loc
            op = Op(Reorder(), [value], [kind], loc=loc, hints=[value.hint])
            self.graph.insert(op, _after(value, self.graph, before))
            self.made[key] = op.result
            self.count += 1
        return self.made[key]


def _after(value: Value, graph: Graph, before: Op) -> Op:
    """The op after the one that makes a value, so that a reorder serves every later user."""
    if value.op is None:
        return (graph.first or before) if value.owner is graph else before
    return (value.op.next or before) if value.op.graph is graph else before
