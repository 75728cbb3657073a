"""SSA core: Module > Graph > Op > Value. Nothing here knows ONNX, passes or targets.

Use lists hold exactly the uses by ops that stand in a graph: an op that was made and never
inserted leaves no trace. All mutation goes through `Graph.insert`, `Graph.erase`,
`Op.set_operand` and `Value.replace_all_uses_with`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from graphopt.errors import GraphoptError
from graphopt.ir.types import Array, TensorType, ValueType
from graphopt.spec import Spec


@dataclass(frozen=True, slots=True)
class Loc:
    """The source ONNX nodes an op came from; fusing ops unions their locations."""

    nodes: tuple[str, ...] = ()

    def __or__(self, other: Loc) -> Loc:
        """Both locations, in order, without repeats."""
        return Loc(tuple(dict.fromkeys(self.nodes + other.nodes)))

    def __str__(self) -> str:
        """Give the names for a message."""
        return " + ".join(self.nodes) or "?"


class OpKind(Spec):
    """What an op is: a member is a frozen dataclass whose fields are the op's attributes.

    `operands` names the operands: `"b?"` is optional (absent: None), a last `"xs*"` is variadic.
    """

    operands: ClassVar[tuple[str, ...]] = ()

    def pure(self) -> bool:
        """Whether the results depend on the operands alone, so that an unused op is dead."""
        return True

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...] | None:
        """Give the result types for operand types (None where an optional operand is absent).

        Returns None where only the op's maker knows them (opaque ops).

        Raises:
            ValueError: the operands don't fit; the message says how.
        """
        raise GraphoptError(f"{self.name} has no type inference")

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """Compute the results with numpy (None where an optional operand is absent)."""
        raise GraphoptError(f"{self.name} has no numpy evaluation")

    def result_count(self) -> int:
        """The number of results, for kinds where `infer` fixes it."""
        return 1

    @classmethod
    def arity(cls) -> tuple[int, int | None]:
        """The least and the most operands (None: any number)."""
        least = sum(not n.endswith(("?", "*")) for n in cls.operands)
        variadic = bool(cls.operands) and cls.operands[-1].endswith("*")
        return least, None if variadic else len(cls.operands)

    def pad(self, operands: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
        """Give every optional operand its position: absent ones become None."""
        missing = len([n for n in self.operands if not n.endswith("*")]) - len(operands)
        return operands + (None,) * missing


class Use(NamedTuple):
    """Operand `index` of `op`."""

    op: Op
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]  a field, not tuple.index


class Value:
    """The result of an op or an argument of a graph. `hint` is its name in text, made unique."""

    __slots__ = ("_uses", "hint", "index", "owner", "type")

    def __init__(self, type: ValueType, owner: Op | Graph, index: int, hint: str = "") -> None:
        """Made by Op and Graph only."""
        self.type, self.owner, self.index, self.hint = type, owner, index, hint
        self._uses: dict[Use, None] = {}  # ordered, so that passes are deterministic

    @property
    def uses(self) -> tuple[Use, ...]:
        """The uses in the order they were made; a snapshot, safe against mutation."""
        return tuple(self._uses)

    @property
    def use_count(self) -> int:
        """The number of uses (constant time)."""
        return len(self._uses)

    def has_use(self, op: Op, index: int) -> bool:
        """Whether operand `index` of `op` is recorded as a use (constant time)."""
        return Use(op, index) in self._uses

    @property
    def op(self) -> Op | None:
        """The op that makes it; None for a graph's argument."""
        return self.owner if isinstance(self.owner, Op) else None

    @property
    def tensor(self) -> TensorType:
        """Its type, which must be a tensor's."""
        if not isinstance(self.type, TensorType):
            raise GraphoptError(f"%{self.hint} is no tensor but {self.type}")
        return self.type

    def replace_all_uses_with(self, new: Value) -> None:
        """Make every user use `new` instead."""
        for use in self.uses:
            use.op.set_operand(use.index, new)


class Op:
    """One operation: a kind (with attributes), operands, results, regions and a location."""

    __slots__ = ("_operands", "graph", "kind", "loc", "next", "prev", "regions", "results")

    def __init__(
        self,
        kind: OpKind,
        operands: Iterable[Value | None] = (),
        types: Iterable[ValueType] | None = None,
        *,
        loc: Loc = Loc(),
        regions: Iterable[Graph] = (),
        hints: Iterable[str] = (),
    ) -> None:
        """Make a detached op; its result types are inferred unless given.

        Raises:
            ValueError: the operands don't fit the kind.
        """
        self.kind, self.loc, self.regions = kind, loc, tuple(regions)
        self._operands = kind.pad(tuple(operands))
        if types is None:
            types = kind.infer(*(v and v.type for v in self._operands))
        if types is None:
            raise GraphoptError(f"{kind.name} at {loc}: its result types must be given")
        self.results = tuple(Value(t, self, i) for i, t in enumerate(types))
        for value, hint in zip(self.results, hints, strict=False):
            value.hint = hint
        self.graph: Graph | None = None
        self.prev: Op | None = None
        self.next: Op | None = None
        for region in self.regions:
            region.parent = self

    @property
    def operands(self) -> tuple[Value | None, ...]:
        """The operands; None where an optional one is absent."""
        return self._operands

    def operand(self, index: int) -> Value:
        """Operand `index`, which must be present."""
        value = self._operands[index]
        if value is None:
            raise GraphoptError(f"{self.kind.name} at {self.loc}: operand {index} is absent")
        return value

    def set_operand(self, index: int, value: Value | None) -> None:
        """Replace one operand."""
        old, use = self._operands[index], Use(self, index)
        self._operands = (*self._operands[:index], value, *self._operands[index + 1 :])
        if self.graph is None:
            return
        if old:
            del old._uses[use]  # pyright: ignore[reportPrivateUsage]
        if value:
            value._uses[use] = None  # pyright: ignore[reportPrivateUsage]

    def record_uses(self) -> None:
        """Enter this op into its operands' use lists (the graph it joins calls this)."""
        for i, v in enumerate(self._operands):
            if v:
                v._uses[Use(self, i)] = None  # pyright: ignore[reportPrivateUsage]

    def drop_uses(self) -> None:
        """Leave the use lists, with all ops in regions (the graph it leaves calls this)."""
        for i, v in enumerate(self._operands):
            if v:
                v._uses.pop(Use(self, i), None)  # pyright: ignore[reportPrivateUsage]
        for region in self.regions:
            for op in region:
                op.drop_uses()

    @property
    def result(self) -> Value:
        """The only result."""
        (value,) = self.results
        return value

    def dead(self) -> bool:
        """Whether it is pure and nothing uses it."""
        return self.kind.pure() and not any(r.use_count for r in self.results)


class Graph:
    """A straight-line body: arguments, ops, and a last op `return`.

    Bodies of If and Loop and of fused ops are Graphs too, and may use values of the graphs around
    them, as ONNX subgraphs do.
    """

    __slots__ = ("args", "first", "last", "name", "parent")

    def __init__(
        self, types: Iterable[ValueType] = (), name: str = "main", hints: Iterable[str] = ()
    ) -> None:
        """Make an empty graph with arguments of the given types."""
        self.args = [Value(t, self, i) for i, t in enumerate(types)]
        for value, hint in zip(self.args, hints, strict=False):
            value.hint = hint
        self.name = name
        self.parent: Op | None = None
        self.first: Op | None = None
        self.last: Op | None = None

    def __iter__(self) -> Iterator[Op]:
        """Yield the ops in order; erasing the current op on the way is allowed."""
        op = self.first
        while op:
            following = op.next
            yield op
            op = following

    def add_arg(self, type: ValueType, hint: str = "") -> Value:
        """Append an argument."""
        value = Value(type, self, len(self.args), hint)
        self.args.append(value)
        return value

    def insert(self, op: Op, before: Op | None = None) -> Op:
        """Put a detached op before another one (default: at the end)."""
        if op.graph is not None:
            raise GraphoptError(f"{op.kind.name} at {op.loc} is already in a graph")
        after = before.prev if before else self.last
        op.graph, op.prev, op.next = self, after, before
        if after:
            after.next = op
        else:
            self.first = op
        if before:
            before.prev = op
        else:
            self.last = op
        op.record_uses()
        return op

    def erase(self, op: Op) -> None:
        """Take an op out for good; nothing may use its results."""
        if any(r.use_count for r in op.results):
            raise GraphoptError(f"erasing {op.kind.name} at {op.loc}: a result is still used")
        op.drop_uses()
        if op.prev:
            op.prev.next = op.next
        else:
            self.first = op.next
        if op.next:
            op.next.prev = op.prev
        else:
            self.last = op.prev
        op.graph = op.prev = op.next = None

    def walk(self) -> Iterator[Op]:
        """Yield all ops, those of regions before the op that holds them."""
        for op in self:
            for region in op.regions:
                yield from region.walk()
            yield op

    @property
    def terminator(self) -> Op:
        """The `return`."""
        if self.last is None or self.last.kind.name != "return":
            raise GraphoptError(f"graph @{self.name} does not end in return")
        return self.last

    @property
    def outputs(self) -> tuple[Value, ...]:
        """What the graph returns."""
        return tuple(v for v in self.terminator.operands if v)


@dataclass
class Module:
    """A model: its main graph, and what ONNX says about the whole."""

    main: Graph
    name: str = "model"
    opsets: dict[str, int] = field(default_factory=lambda: {"": 17})
    metadata: dict[str, str] = field(default_factory=dict[str, str])

    def to_text(self, *, elide: bool = False) -> str:
        """Print as IR text; `elide` leaves the numbers of large constants out (not parseable)."""
        from graphopt.ir.printer import to_text

        return to_text(self, elide=elide)

    def save(self, path: str) -> None:
        """Write as ONNX, or as IR text where the name ends in .gir.

        Raises:
            InputError: the path can't be written.
        """
        from graphopt.api import save

        save(self, path)
