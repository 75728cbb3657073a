"""Module to Program: order the steps, name the kernels, place every buffer.

The module has gone through `group`: each `fused` op becomes a KernelCall, a view of dense memory
becomes a second shape of the same buffer, and everything else runs in ONNX Runtime, in as few
segments as the data flow allows.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from graphopt.analysis.cost import macs
from graphopt.analysis.work import Work, flops, stored_bytes, work
from graphopt.errors import GraphoptError
from graphopt.ir.builtin import Const, Fused, Return
from graphopt.ir.clone import captured, clone_graph, extract
from graphopt.ir.core import Graph, Module, Op, Value
from graphopt.ir.data import Data
from graphopt.ir.layout import pack, physical_shape
from graphopt.ir.printer import Printer
from graphopt.ir.types import Array, DType, TensorType
from graphopt.ops.movement import Part, Reorder
from graphopt.passes.group import is_constant, is_view
from graphopt.targets.memory import Lifetime, plan
from graphopt.targets.program import (
    ALIGN,
    Arena,
    Buffer,
    Dynamic,
    FallbackCall,
    Input,
    Kernel,
    KernelCall,
    Output,
    Place,
    Program,
    Step,
    Weight,
    WeightData,
    check,
)
from graphopt.targets.storage import Storage, overwritable

Reason = Callable[[Op], str]
Segment = Callable[[Graph, Module], bytes]
NONE: Mapping[str, str] = {}


def lower(
    module: Module, *, salt: str, reason: Reason, segment: Segment, plan: Mapping[str, str] = NONE
) -> Program:
    """Make a Program of a grouped module.

    Args:
        module: after `layout` and `group`; its types are static wherever kernels work.
        salt: what besides the text decides a kernel's machine code (target, compiler versions).
        reason: says why an op isn't compiled.
        segment: writes a graph as an ONNX model, for the parts that fall back.
        plan: the knobs of kernels, by `text_key`.
    """
    work = _Lowering(module, salt, reason, segment, plan)
    for run in _schedule(module.main, work.storage):
        work.add(run)
    program = work.finish()
    check(program)
    return program


def kernel_text(op: Op, apart: Part | None = None) -> str:
    """The canonical text of a fused op: equal computations print equal, whatever their names.

    `apart`: of what its result is a part in memory, which its kernel has to know.
    """
    printer, body = Printer(locs=False, hints=False), op.regions[0]
    if apart:
        body = _ending(body, apart)
    return "\n".join(printer.graph(body, "")) + "\n"


def _ending(body: Graph, kind: Part) -> Graph:
    """A copy of a region that returns its result as a part of a larger one."""
    body = clone_graph(body, {})
    end = body.terminator
    body.erase(end)
    (result,) = (v for v in end.operands if v)
    (made,) = kind.infer(result.type)
    assert isinstance(made, TensorType)
    part = Op(kind, [result], [replace(made, layout=result.tensor.layout)])
    body.insert(part)
    body.insert(Op(end.kind, [part.result]))
    return body


def text_key(text: str) -> str:
    """What names a computation in a plan: the hash of its text."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _silent(op: Op) -> bool:
    """Ops that make no step: constants (in any layout), views, the return."""
    if isinstance(op.kind, Const | Return) or is_view(op):
        return True
    return len(op.results) == 1 and is_constant(op.result)


def _inputs(op: Op, storage: Storage) -> Iterator[Op]:
    """The ops that must come before, looking through those that make no step."""
    for v in (*op.operands, *captured(op)):
        if v is None or v.op is None or v.op.graph is not op.graph:
            continue
        if _silent(v.op) or v.op in storage.free:
            yield from _inputs(v.op, storage)
        else:
            yield v.op


def _schedule(graph: Graph, storage: Storage) -> Iterator[list[Op]]:
    """Runs of ops of one sort: a compiled op alone, neighbouring fallback ops together.

    A list schedule that stays with the sort it is at for as long as it can, in program order, so
    that few segments remain.
    """
    ops = [op for op in graph if not _silent(op) and op not in storage.free]
    order = {op: i for i, op in enumerate(ops)}
    waits = {op: set(_inputs(op, storage)) for op in ops}
    users: dict[Op, list[Op]] = {op: [] for op in ops}
    for op, needs in waits.items():
        for need in needs:
            users[need].append(op)
    ready: dict[bool, list[tuple[int, Op]]] = {True: [], False: []}
    missing = {op: len(needs) for op, needs in waits.items()}
    for op in ops:
        if not missing[op]:
            heapq.heappush(ready[isinstance(op.kind, Fused)], (order[op], op))
    compiled = True
    while ready[True] or ready[False]:
        compiled = compiled if ready[compiled] else not compiled
        run: list[Op] = []
        while ready[compiled]:
            _, op = heapq.heappop(ready[compiled])
            run.append(op)
            for user in users[op]:
                missing[user] -= 1
                if not missing[user]:
                    heapq.heappush(ready[isinstance(user.kind, Fused)], (order[user], user))
        yield from ([op] for op in run) if compiled else [run]


class _Lowering:
    """The state of one lowering: buffers by value, steps, kernels by key."""

    def __init__(
        self, module: Module, salt: str, reason: Reason, segment: Segment, plan: Mapping[str, str]
    ) -> None:
        self.module, self.salt, self.reason, self.segment = module, salt, reason, segment
        self.plan = plan
        self.storage = Storage(module.main)
        self.order = {op: i for i, op in enumerate(module.main)}
        self.values: list[Value] = []
        self.index: dict[Value, int] = {}
        self.steps: list[Step] = []
        self.fused: dict[int, Op] = {}  # by step
        self.kernels: dict[str, Kernel] = {}
        self.inputs = [self.buffer(a) for a in module.main.args]
        self.outputs = [self.buffer(v) for v in module.main.outputs]

    def buffer(self, value: Value) -> int:
        """The index of a value's buffer, made on first use."""
        if value not in self.index:
            self.index[value] = len(self.values)
            self.values.append(value)
        return self.index[value]

    def add(self, run: list[Op]) -> None:
        """Add the step of one compiled op, or of a run of ops that fall back."""
        if isinstance(run[0].kind, Fused):
            self.fused[len(self.steps)] = run[0]
            self.steps.append(self.call(run[0]))
        else:
            self.steps.append(self.fallback(run))

    def call(self, op: Op) -> KernelCall:
        """The call of a fused op."""
        assert isinstance(op.kind, Fused)
        text = kernel_text(op, self.storage.apart.get(op.results[0]))
        knobs = self.plan.get(text_key(text), "")
        key = hashlib.sha256(f"{self.salt}\n{knobs}\n{text}".encode()).hexdigest()
        if key not in self.kernels:
            symbol = f"k_{op.kind.family}_{key[:12]}"
            self.kernels[key] = Kernel(symbol, key, text, op.kind.family, knobs)
        args = [self.buffer(v) for v in (*op.operands, *op.results) if v]
        return KernelCall(
            self.kernels[key].symbol, tuple(args), op.loc.nodes, macs(op),
            work(op, is_constant), _types(op.operands), _types(op.results), _names(op.regions[0]),
        )  # fmt: skip

    def fallback(self, ops: list[Op]) -> FallbackCall:
        """A segment of ops, with the views between them, as a model of its own."""
        makers = {v.op for op in ops for v in op.operands if v and v.op}
        near = {op for op in makers if _silent(op) and not isinstance(op.kind, Const | Reorder)}
        every = sorted({*ops, *near}, key=self.order.__getitem__)
        graph, inputs, outputs = extract(every, "segment")
        for i, arg in enumerate(graph.args):
            arg.hint = f"in{i}"
        outputs, names = self.returned(graph, outputs, near)
        ins = tuple((f"in{i}", self.buffer(v)) for i, v in enumerate(inputs))
        outs = tuple((n, self.buffer(v)) for n, v in zip(names, outputs, strict=True))
        nodes = tuple(dict.fromkeys(n for op in ops for n in op.loc.nodes))
        why = {_name(op): self.reason(op) for op in ops}
        model = self.segment(graph, self.module)
        total = sum(macs(op) for op in ops)
        done = Work(sum(map(flops, ops)), sum(map(stored_bytes, (*inputs, *outputs))))
        return FallbackCall(model, ins, outs, nodes, total, tuple(sorted(why.items())),
                            done, _types(inputs), _types(outputs), _names(ops))  # fmt: skip

    def returned(
        self, graph: Graph, outputs: list[Value], near: set[Op]
    ) -> tuple[list[Value], list[str]]:
        """Name the segment's outputs; views among them stay views of their operand outside."""
        last = graph.terminator
        kept = [i for i, v in enumerate(outputs) if v.op not in near]
        names = [f"out{i}" for i in range(len(kept))]
        operands = [last.operands[i] for i in kept]
        graph.erase(last)
        graph.insert(Op(Return(tuple(names)), operands))
        return [outputs[i] for i in kept], names

    def finish(self) -> Program:
        """Place the buffers and make the Program."""
        weights = _Weights()
        self.overwrite()
        spots = [self.storage.spot(v) for v in self.values]
        places = self.places([s.root for s in spots], weights)
        buffers = [
            _describe(v, _inside(places[s.root], s.offset))
            for v, s in zip(self.values, spots, strict=True)
        ]
        arena = max((b.place.offset + _up(b.nbytes) for b in buffers if isinstance(b.place, Arena)),
                    default=0)  # fmt: skip
        return Program(
            name=self.module.name,
            buffers=tuple(buffers),
            inputs=tuple(self.inputs),
            outputs=tuple(self.outputs),
            steps=tuple(self.steps),
            kernels=tuple(self.kernels.values()),
            weights=tuple(weights.data),
            weight_bytes=weights.bytes,
            arena_bytes=arena,
        )

    def overwrite(self) -> None:
        """Let kernels write over operands that are read for the last time, where they may."""
        roots = [self.storage.spot(v).root for v in self.values]
        lives = self.lifetimes(roots)
        fixed = {*self.module.main.args, *(self.values[b] for b in self.outputs)}
        for i, op in self.fused.items():
            result = op.results[0]
            for operand in overwritable(op):
                root = self.storage.spot(operand).root
                dies = lives[root].last == i and root not in fixed and not is_constant(root)
                once = sum(self.storage.spot(v).root is root for v in op.operands if v) == 1
                if dies and once and self.storage.write_over(result, operand):
                    home = self.storage.spot(result).root
                    lives[home] = replace(lives[root], last=lives[result].last)
                    break

    def places(self, roots: list[Value], weights: _Weights) -> dict[Value, Place]:
        """Where each root's memory is."""
        found: dict[Value, Place] = {}
        inputs = {a: i for i, a in enumerate(self.module.main.args)}
        outputs = {self.values[b]: i for i, b in enumerate(self.outputs)}
        temporary: list[Value] = []
        for v in dict.fromkeys(roots):
            if not _static(v) and not is_constant(v):
                found[v] = Dynamic()
            elif v in inputs:
                found[v] = Input(inputs[v])
            elif v in outputs:
                found[v] = Output(outputs[v])
            elif is_constant(v):
                found[v] = Weight(weights.add(v))
            else:
                temporary.append(v)
        spans = self.lifetimes(roots)
        offsets, _ = plan([spans[v] for v in temporary])
        found.update((v, Arena(o)) for v, o in zip(temporary, offsets, strict=True))
        return found

    def lifetimes(self, roots: list[Value]) -> dict[Value, Lifetime]:
        """The steps between which each root is alive."""
        first, last = dict[Value, int](), dict[Value, int]()
        for i, step in enumerate(self.steps):
            for b in _touched(step):
                first.setdefault(roots[b], i)
                last[roots[b]] = i
        return {v: Lifetime(_nbytes(v), first.get(v, 0), last.get(v, 0)) for v in roots}


class _Weights:
    """The weights blob, laid out: constants that are equal as values share their bytes."""

    def __init__(self) -> None:
        self.data: list[WeightData] = []
        self.bytes = 0

    def add(self, value: Value) -> int:
        """Place a constant; give its offset."""
        offset, nbytes = self.bytes, _nbytes(value)
        self.data.append(WeightData(offset, nbytes, lambda: _load(value)))
        self.bytes = _up(offset + nbytes)
        return offset


def _inside(place: Place, offset: int) -> Place:
    """The place of a part of a temporary buffer."""
    return Arena(place.offset + offset) if offset and isinstance(place, Arena) else place


def _load(value: Value) -> Array:
    """A constant's numbers as the kernel wants them stored."""
    tag = value.tensor.layout
    return pack(_source(value).numpy(), tag)


def _source(value: Value) -> Data:
    op = value.op
    while op and not isinstance(op.kind, Const):
        op = op.operand(0).op
    if op is None or not isinstance(op.kind, Const):
        raise GraphoptError(f"%{value.hint} is not constant")
    return op.kind.data


def _touched(step: Step) -> Iterable[int]:
    if isinstance(step, KernelCall):
        return step.args
    return (b for _, b in (*step.inputs, *step.outputs))


def _types(values: Iterable[Value | None]) -> tuple[str, ...]:
    return tuple(str(v.type) for v in values if v)


def _names(ops: Iterable[Op]) -> tuple[str, ...]:
    return tuple(_name(op) for op in ops if not isinstance(op.kind, Const | Return))


def _static(value: Value) -> bool:
    type_ = value.type
    return isinstance(type_, TensorType) and type_.static is not None and type_.dtype.bits >= 8


def _physical(type_: TensorType) -> tuple[int, ...]:
    return physical_shape(type_.static or (), type_.layout)


def _nbytes(value: Value) -> int:
    if not _static(value):
        return 0
    return _describe(value, Dynamic()).nbytes


def _describe(value: Value, place: Place) -> Buffer:
    type_ = value.type
    name = value.hint or f"{value.op.kind.name if value.op else 'arg'}"
    if not isinstance(type_, TensorType) or type_.static is None:
        dtype = type_.dtype if isinstance(type_, TensorType) else DType.u8
        return Buffer(name, dtype, (), place)
    return Buffer(name, type_.dtype, _physical(type_), place)


def _up(nbytes: int) -> int:
    return -(-nbytes // ALIGN) * ALIGN


def _name(op: Op) -> str:
    return getattr(op.kind, "op_type", op.kind.name)
