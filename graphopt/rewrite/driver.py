"""The rewrite driver: a worklist, rules by the kind they look at, one door for every change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.ir.builtin import Const
from graphopt.ir.core import Graph, Loc, Op, OpKind, Value
from graphopt.ir.data import Computed, Data, Inline
from graphopt.ir.types import Array, DType, ValueType
from graphopt.rewrite.retype import less_known, retype

K = TypeVar("K", bound=OpKind)


@dataclass(frozen=True)
class Remark:
    """One thing a rule did, or declined to do and why."""

    rule: str
    loc: Loc
    applied: bool
    text: str = ""

    def __str__(self) -> str:
        """Give `applied: rule at nodes` or `missed: rule at nodes: reason`."""
        head = f"{'applied' if self.applied else 'missed'}: {self.rule} at {self.loc}"
        return f"{head}: {self.text}" if self.text else head


class Miss(Exception):  # noqa: N818  (to decline is no error)
    """Raised inside a rule to decline, with the reason to report."""


class Permission(Protocol):
    """Asked before each single rewrite; bisection refuses all after the first n."""

    def __call__(self, rule: str, loc: Loc) -> bool:
        """Whether the rewrite may be applied."""
        ...


Replacement = tuple[Value, ...] | Value | None


@dataclass(frozen=True)
class Rule(Generic[K]):
    """Rewrites ops of one kind, or of a family of kinds (`root` is then their base class).

    `fn` returns the new values, None (no match), or raises Miss.
    """

    name: str
    root: type[K]
    fn: Callable[[Rewriter, Op, K], Replacement]

    @property
    def algebra(self) -> str:
        """The rule on one line: the first line of its docstring."""
        return (self.fn.__doc__ or "").strip().split("\n")[0]


def rule(root: type[K]) -> Callable[[Callable[[Rewriter, Op, K], Replacement]], Rule[K]]:
    """Make a Rule of a function; its name becomes the rule's, with dashes."""
    return lambda fn: Rule(fn.__name__.replace("_", "-"), root, fn)


class Rewriter:
    """Builds replacement ops just before the op being rewritten, carrying its location."""

    def __init__(self, at: Op) -> None:
        """Start at the op that a rule looks at."""
        self.at, self.loc = at, at.loc
        self.made: list[Op] = []

    def op(
        self,
        kind: OpKind,
        *operands: Value | None,
        types: Iterable[ValueType] | None = None,
        regions: Iterable[Graph] = (),
    ) -> Op:
        """Make an op; it joins the graph if the rule succeeds.

        Raises:
            Miss: the operands don't fit the kind.
        """
        try:
            op = Op(kind, operands, types, regions=regions)
        except ValueError as why:
            raise Miss(str(why)) from why
        self.made.append(op)
        return op

    def make(self, kind: OpKind, *operands: Value | None) -> Value:
        """Make an op of one result and give that."""
        return self.op(kind, *operands).result

    def const(self, numbers: Array | Data, hint: str = "") -> Value:
        """Make a constant of an array or of data."""
        data = Inline(np.asarray(numbers)) if isinstance(numbers, np.ndarray) else numbers
        value = self.make(Const(data))
        value.hint = hint
        return value

    def computed(
        self, like: Data | Array, shape: Sequence[int], compute: Callable[[], Array]
    ) -> Value:
        """Make a constant of the element type of `like`, computed when first asked for."""
        dtype = DType.of(like) if isinstance(like, np.ndarray) else like.dtype
        return self.const(Computed(dtype, tuple(shape), compute))

    def absorb(self, op: Op) -> None:
        """Record that `op` is being fused: its location joins that of the new ops."""
        self.loc = op.loc | self.loc


@dataclass
class Outcome:
    """What `rewrite` did."""

    changed: bool
    remarks: list[Remark]


def rewrite(
    graph: Graph, rules: Iterable[Rule[Any]], permit: Permission, *, limit: int | None = None
) -> Outcome:
    """Apply rules to a fixed point, in program order first; erase what dies.

    Args:
        graph: rewritten in place, with all its regions.
        rules: tried in order on each op whose kind is an instance of their root.
        permit: asked before each rewrite.
        limit: rewrites after which the rules are taken to be cyclic (default: 20 an op + 1000).

    Raises:
        GraphoptError: no fixed point within the limit.
    """
    run = _Run(graph, rules, permit)
    return run.to_fixed_point(limit)


class _Run:
    def __init__(self, graph: Graph, rules: Iterable[Rule[Any]], permit: Permission) -> None:
        self.graph, self.rules = graph, tuple(rules)
        self.by_kind: dict[type[OpKind], tuple[Rule[Any], ...]] = {}
        self.permit = permit
        self.work: dict[Op, None] = {}
        self.remarks: list[Remark] = []
        self.missed: dict[tuple[Op, str], Remark] = {}
        self.changed, self.steps, self.erased = False, 0, 0

    def to_fixed_point(self, limit: int | None) -> Outcome:
        """Sweep until a sweep finds nothing: a pattern may reach further than neighbours."""
        self.enqueue()
        limit = limit or 20 * len(self.work) + 1000
        while self.sweep(limit):
            self.enqueue()
        still = [remark for (op, _), remark in self.missed.items() if op.graph]
        return Outcome(self.changed, self.remarks + list(dict.fromkeys(still)))

    def enqueue(self) -> None:
        """Put every op into the worklist, the first in program order on top."""
        self.work = dict.fromkeys(reversed(list(self.graph.walk())))

    def sweep(self, limit: int) -> bool:
        """Visit the worklist, and again what a rewrite touches; tell whether anything changed."""
        before = len(self.remarks), self.erased
        while self.work:
            op, _ = self.work.popitem()
            if op.graph is None:
                continue
            if op.results and op.dead():
                self.erase(op)
            elif self.visit(op):
                self.steps += 1
                if self.steps > limit:
                    last = self.remarks[-1].rule
                    raise GraphoptError(f"rule {last} reached no fixed point in {limit} rewrites")
        return (len(self.remarks), self.erased) != before

    def erase(self, op: Op) -> None:
        if op.graph:
            op.graph.erase(op)
        self.work.update(dict.fromkeys(_around(op)))
        self.changed = True
        self.erased += 1

    def rules_for(self, kind: type[OpKind]) -> tuple[Rule[Any], ...]:
        """The rules whose root is the kind or one of its bases, in order."""
        if kind not in self.by_kind:
            self.by_kind[kind] = tuple(r for r in self.rules if issubclass(kind, r.root))
        return self.by_kind[kind]

    def visit(self, op: Op) -> bool:
        for r in self.rules_for(type(op.kind)):
            rw = Rewriter(op)
            try:
                new = r.fn(rw, op, op.kind)
                news = (new,) if isinstance(new, Value) else new
                if news is not None:
                    _check_types(op, news)
            except Miss as why:
                self.missed[op, r.name] = Remark(r.name, op.loc, False, str(why))
                continue
            self.missed.pop((op, r.name), None)
            if news is None or not self.permit(r.name, rw.loc):
                continue
            self.replace(op, news, rw)
            self.remarks.append(Remark(r.name, rw.loc, True))
            return True
        return False

    def replace(self, op: Op, news: tuple[Value, ...], rw: Rewriter) -> None:
        graph = op.graph
        assert graph is not None
        for made in rw.made:
            if not made.loc.nodes and made.kind.name != "const":
                made.loc = rw.loc
            graph.insert(made, before=op)
            self.work[made] = None
        touched = [u.op for res in op.results for u in res.uses]
        touched += [v.op for v in news if v.op]
        refined = [new for res, new in zip(op.results, news, strict=True) if res.type != new.type]
        for res, value in zip(op.results, news, strict=True):
            if not value.hint and value.op in rw.made:
                value.hint = res.hint
            res.replace_all_uses_with(value)
        graph.erase(op)
        touched += _around(op)
        touched += retype(refined)
        self.work.update(dict.fromkeys(touched))
        self.changed = True


def _check_types(op: Op, news: tuple[Value, ...]) -> None:
    for res, new in zip(op.results, news, strict=True):
        if res.use_count and less_known(res.type, new.type):
            raise Miss(f"{res.type} would become {new.type}, of which less is known")


def _around(gone: Op) -> list[Op]:
    """What an op that is gone may have hindered: makers, and users that are alone now."""
    found: list[Op] = []
    for v in gone.operands:
        if v and v.op:
            found.append(v.op)
        if v and v.use_count == 1:
            found.append(v.uses[0].op)
    return found
