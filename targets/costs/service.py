"""The prices of a target on this computer (`graphopt.analysis.price.Costs`).

A graph is lowered as the target would lower it; each kernel's time is looked up in the database of
profiles, else modelled. Changes of layout at the graph's ends don't count: inside a model its
neighbours have the same layout.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from graphopt.analysis.price import FREE, Costs, Price
from graphopt.ir.builtin import Const
from graphopt.ir.clone import clone_graph
from graphopt.ir.core import Graph, Module, Value
from graphopt.ir.data import Data, nbytes, size
from graphopt.ir.types import DType
from graphopt.passes.cse import HASHED, data_key
from graphopt.passes.halves import Widened
from graphopt.passes.winograd import is_compact
from graphopt.runtime import Manifest, Session
from graphopt.runtime.tensors import dtype_of
from graphopt.targets.bundle import Content, Meta
from graphopt.targets.costs.database import Database, Row, row_of
from graphopt.targets.costs.model import Model
from graphopt.targets.costs.reference import reference_model
from graphopt.targets.machine import Machine
from graphopt.targets.program import Arena, Buffer, KernelCall, Program, Step, Weight
from graphopt.targets.roofline import host_roofline

if TYPE_CHECKING:
    from graphopt.targets.base import Build

ROUNDS = 30  # runs of a kernel that is measured alone
SEGMENT = "onnxruntime"


class Lowers(Protocol):
    """What of a target prices need."""

    def lower(self, module: Module) -> Program:
        """Make a Program of a module."""
        ...


class Compiles(Lowers, Protocol):
    """What of a target measuring needs besides."""

    def machine(self) -> Machine:
        """The machine compiled for."""
        ...

    def compile(
        self, module: Module, directory: Path, *, model: Content, meta: Meta, options: Build
    ) -> tuple[Program, Manifest]:
        """Write a bundle."""
        ...


class ModelCosts:
    """Prices from a model alone. `used` has the seconds of every kernel asked about, by key."""

    def __init__(self, target: Lowers, model: Callable[[], Model]) -> None:
        """The model is made when it is first asked for."""
        self._lowers, self._model = target, model
        self.used: dict[str, float] = {}
        self._known: dict[tuple[object, ...], Price] = {}

    @cached_property
    def model(self) -> Model:
        """For kernels that nobody has timed."""
        return self._model()

    def timed(self, key: str) -> float | None:
        """The seconds of a kernel that was timed."""
        return None

    def described(self) -> Costs:
        """Prices that no measurement on this computer decides."""
        return self

    def families(self, graph: Graph) -> set[str]:
        """The families of the kernels that compute a graph of static types."""
        return {k.family for k in self._lowers.lower(_module(graph)).kernels}

    def price(self, graph: Graph, footprint: int = 0) -> Price:
        """What one run of the graph takes; equal questions are answered once.

        Args:
            graph: of static types.
            footprint: bytes of the model that it is a part of: its constants are as far away as
                these are.

        Raises:
            UnsupportedError: the roofline can't be measured here.
        """
        key = (_Signature().of(graph), footprint)
        if key not in self._known:
            program = self._lowers.lower(_module(graph))
            prices = (self._step(program, step, footprint) for step in program.steps)
            self._known[key] = sum(prices, FREE)
        return self._known[key]

    def _step(self, program: Program, step: Step, footprint: int) -> Price:
        if not isinstance(step, KernelCall):
            return Price(self.model.seconds(SEGMENT, step.ops, step.work, footprint))
        if _only_reorders(program, step):
            return FREE
        kernel = next(k for k in program.kernels if k.symbol == step.kernel)
        known = self.timed(kernel.key)
        seconds = known
        if seconds is None:
            seconds = self.model.seconds(kernel.family, step.ops, step.work, footprint)
        self.used[kernel.key] = seconds
        return Price(seconds, known or 0.0)


class TargetCosts(ModelCosts):
    """Prices on this computer, for a number of threads.

    The prices `used`, given back as `fixed`, are the same again on any computer.
    """

    def __init__(
        self,
        target: Compiles,
        threads: int,
        *,
        database: Database | None = None,
        fixed: Mapping[str, float] | None = None,
    ) -> None:
        """Nothing is measured or read before the first price."""
        super().__init__(target, lambda: Model.of(host_roofline(threads), self.rows.values()))
        self.target, self.threads = target, threads
        self.database = database or Database(threads)
        self.fixed = dict(fixed or {})

    @cached_property
    def rows(self) -> dict[str, Row]:
        """Measured kernels, by key."""
        return self.database.rows()

    def timed(self, key: str) -> float | None:
        """As fixed, else as measured."""
        row = self.rows.get(key)
        return self.fixed.get(key, 1e-6 * row.us if row else None)

    def described(self) -> Costs:
        """Of the machine as its description says."""
        return ModelCosts(self.target, lambda: reference_model(self.target.machine()))

    def measure(self, graphs: Iterable[Graph], options: Build) -> None:
        """Compile the graphs' kernels that nobody has measured, time them, remember the times."""
        for graph in graphs:
            program = self.target.lower(_module(graph))
            if any(k.key not in self.rows for k in program.kernels):
                self._add(_time(self.target, graph, self.threads, options))
        self._known.clear()

    def _add(self, rows: list[Row]) -> None:
        self.database.add(rows)
        for row in rows:
            self.rows[row.key] = row
            self.model.learn(row)


def _module(graph: Graph) -> Module:
    """A module of a copy, which lowering may change, with names for its inputs."""
    copy = clone_graph(graph, {})
    for i, arg in enumerate(copy.args):
        arg.hint = f"x{i}"
    return Module(copy, "priced")


def _only_reorders(program: Program, call: KernelCall) -> bool:
    """Whether a kernel only changes the layout of one of the graph's inputs or outputs."""
    ends = (program.buffers[i] for i in call.args)
    return set(call.ops) == {"reorder"} and any(_outside(b) for b in ends)


def _outside(buffer: Buffer) -> bool:
    return not isinstance(buffer.place, Arena | Weight)


@dataclass
class _Signature:
    """What a price depends on: kinds, types, the way of the values, what numbers decide.

    Ops on equal constants are merged (see `cse`). Single numbers are parts of kernels; small
    integers may be zero points or tables. A filter that many zeros or few values make small isn't
    transformed (see `winograd`). Other numbers don't count: layers of one shape have one price.
    """

    number: dict[Value, int] = field(default_factory=dict[Value, int])
    constants: dict[object, int] = field(default_factory=dict[object, int])

    def of(self, graph: Graph) -> tuple[object, ...]:
        """Of a graph, or of a region of one that was begun."""
        parts = list[object]()
        for a in graph.args:
            self.number[a] = len(self.number)
            parts.append(str(a.type))
        for op in graph:
            for r in op.results:
                self.number[r] = len(self.number)
            kind = self.constant(op.kind.data) if isinstance(op.kind, Const) else str(op.kind)
            operands = tuple(self.number.get(v) if v else None for v in op.operands)
            types = tuple(str(r.type) for r in op.results)
            parts.append((kind, operands, types, tuple(map(self.of, op.regions))))
        return tuple(parts)

    def constant(self, data: Data) -> tuple[object, ...]:
        """Which of the graph's constants it is equal to, and what of its numbers counts."""
        key = data_key(data)
        which = self.constants.setdefault(key or object(), len(self.constants))
        told: object = None
        if size(data) <= 1 or (not data.dtype.is_float and nbytes(data) <= HASHED):
            told = key
        elif data.shape[2:] == (3, 3) and data.dtype in (DType.f32, DType.bf16):
            told = is_compact(data if data.dtype is DType.f32 else Widened(data))
        return "const", which, told


def _time(target: Compiles, graph: Graph, threads: int, options: Build) -> list[Row]:
    """Build a bundle of the graph, run it on numbers that don't matter, give its kernels' times."""
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        place = Path(folder) / "bundle"
        _, manifest = target.compile(_module(graph), place, model=b"", meta=Meta(), options=options)
        with Session(place, threads=threads) as session:
            times = session.profile(_inputs(manifest), ROUNDS)
    return [row_of(n, t.min_us) for n, t in zip(manifest.layers, times, strict=True) if n.key]


def _inputs(manifest: Manifest) -> dict[str, Any]:
    """Zeros of every input's type: they are valid indices, too."""
    found: dict[str, Any] = {}
    for spec in manifest.inputs:
        shape = [d for d in spec.shape or () if isinstance(d, int)]
        found[spec.name] = np.zeros(shape, dtype_of(spec.dtype or "float32"))
    return found
