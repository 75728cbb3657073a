"""Program: what a target makes of a Module. Plain data, printable, no compiler in sight.

    Module --lower--> Program --build--> Bundle

A Program is a list of *steps* over *buffers*. A step is a `KernelCall` (one kernel of the compiled
library, which is one op of the grouped IR, which is one line of a profile) or a `FallbackCall` (a
segment of the model that runs in ONNX Runtime). Every buffer that a kernel touches is static:
dtype, shape and place are known before anything runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from graphopt.analysis.work import Work
from graphopt.errors import GraphoptError, LimitError
from graphopt.ir.types import Array, DType
from graphopt.limits import gigabytes, max_memory

NOTE = ".workspace"  # the suffix of what is kept beside an object file
ALIGN = 64  # bytes: a cache line, and the widest vector; kernels use aligned loads


@dataclass(frozen=True)
class Input:
    """The buffer is the model's input `index`, in the caller's memory."""

    index: int


@dataclass(frozen=True)
class Output:
    """The buffer is the model's output `index`, in the caller's memory."""

    index: int


@dataclass(frozen=True)
class Weight:
    """The buffer is constant, at `offset` bytes of the weights blob."""

    offset: int


@dataclass(frozen=True)
class Arena:
    """The buffer is temporary, at `offset` bytes of the context's arena."""

    offset: int


@dataclass(frozen=True)
class Dynamic:
    """The value isn't a static tensor; only fallback segments pass it on, as Python objects."""


Place = Input | Output | Weight | Arena | Dynamic


@dataclass(frozen=True)
class Buffer:
    """One tensor of a program. `shape` is what the kernel sees (packed layouts included)."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    place: Place

    @property
    def nbytes(self) -> int:
        """Bytes of the dense tensor."""
        total = 1
        for d in self.shape:
            total *= d
        return (total * self.dtype.bits + 7) // 8


@dataclass(frozen=True)
class Workspace:
    """Bytes of scratch memory that kernels ask for, in the thread that runs them and each other."""

    caller: int = 0
    others: int = 0

    def __or__(self, other: Workspace) -> Workspace:
        """What suits either of two kernels, which run one after another."""
        return Workspace(max(self.caller, other.caller), max(self.others, other.others))

    def note(self, made: bytes) -> str:
        """One line, as it is kept beside a kernel's object file, which is `made`."""
        return json.dumps({"caller": self.caller, "others": self.others, **_hashed(made)})

    @staticmethod
    def beside(objects: Iterable[Path]) -> Workspace:
        """What suits every one of some object files."""
        notes = (json.loads(path.with_suffix(NOTE).read_text("utf-8")) for path in objects)
        found = Workspace()
        for note in notes:
            found |= Workspace(note["caller"], note["others"])
        return found


def is_whole(path: Path) -> bool:
    """Whether an object file is there as it was made, with its note."""
    try:
        note = json.loads(path.with_suffix(NOTE).read_text("utf-8"))
        return note.items() >= _hashed(path.read_bytes()).items()
    except (OSError, ValueError, AttributeError):
        return False


def _hashed(made: bytes) -> dict[str, str]:
    return {"sha256": hashlib.sha256(made).hexdigest()}


@dataclass(frozen=True)
class Kernel:
    """One compiled function: `text` is the canonical IR of the op it computes.

    `key` is the content hash of text, target and versions: equal keys, equal machine code.
    `symbol` is the C name of the function in the library; `knobs` the schedule of its template, as
    tuning has found it (empty: the best by rule), which is part of the key.
    """

    symbol: str
    key: str
    text: str
    family: str
    knobs: str = ""


@dataclass(frozen=True)
class KernelCall:
    """Run a kernel: `args` are indices of buffers, the operands first, then the results.

    What follows `args` is for the profile: `ops` names the kinds of the region in order, operands
    and results are types as IR text.
    """

    kernel: str
    args: tuple[int, ...]
    nodes: tuple[str, ...] = ()
    macs: int = 0
    work: Work = Work()
    operands: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()


@dataclass(frozen=True)
class FallbackCall:
    """Run a segment of the model in ONNX Runtime.

    `inputs` and `outputs` pair the segment's own names with indices of buffers; `reasons` says for
    each op kind in it why it isn't compiled.
    """

    model: bytes
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]
    nodes: tuple[str, ...] = ()
    macs: int = 0
    reasons: tuple[tuple[str, str], ...] = ()
    work: Work = Work()
    operands: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()


Step = KernelCall | FallbackCall


@dataclass(frozen=True)
class WeightData:
    """One constant of the weights blob; `load` gives its dense array when the blob is written."""

    offset: int
    nbytes: int
    load: Callable[[], Array]


@dataclass(frozen=True)
class Program:
    """Kernels, buffers, steps and weights of one compiled model."""

    name: str
    buffers: tuple[Buffer, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    steps: tuple[Step, ...]
    kernels: tuple[Kernel, ...] = ()
    weights: tuple[WeightData, ...] = ()
    weight_bytes: int = 0
    arena_bytes: int = 0
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        """Print the plan, one line a buffer and a step."""
        return "\n".join(_lines(self)) + "\n"

    def fallbacks(self) -> Iterator[FallbackCall]:
        """The steps that run in ONNX Runtime."""
        return (s for s in self.steps if isinstance(s, FallbackCall))


def _lines(p: Program) -> Iterator[str]:
    yield f"program {p.name!r}: {len(p.steps)} steps, {len(p.kernels)} kernels"
    yield f"  arena {p.arena_bytes} bytes, weights {p.weight_bytes} bytes"
    for i, b in enumerate(p.buffers):
        dims = ",".join(map(str, b.shape))
        yield f"  %{i} = {b.dtype}[{dims}] {_place(b.place)}  // {b.name}"
    for s in p.steps:
        yield "  " + _step(s)


def _place(place: Place) -> str:
    match place:
        case Input(i) | Output(i):
            return f"{type(place).__name__.lower()} {i}"
        case Weight(o) | Arena(o):
            return f"{type(place).__name__.lower()} +{o}"
        case Dynamic():
            return "dynamic"


def _step(step: Step) -> str:
    nodes = " + ".join(step.nodes)
    if isinstance(step, KernelCall):
        return f"call {step.kernel}({', '.join(f'%{a}' for a in step.args)})  // {nodes}"
    ins, outs = (", ".join(f"%{i}" for _, i in pairs) for pairs in (step.inputs, step.outputs))
    return f"onnxruntime({ins}) -> {outs}  // {nodes}"


def check(p: Program) -> None:
    """Raise GraphoptError unless every place fits and no two live arena buffers overlap."""
    count = len(p.buffers)
    for step in p.steps:
        args = step.args if isinstance(step, KernelCall) else _ends(step)
        if any(not 0 <= a < count for a in args):
            raise GraphoptError(f"program {p.name}: a step names a buffer that does not exist")
        dynamic = [a for a in args if isinstance(p.buffers[a].place, Dynamic)]
        if isinstance(step, KernelCall) and dynamic:
            raise GraphoptError(f"program {p.name}: kernel {step.kernel} takes a dynamic value")
    for b in p.buffers:
        if not isinstance(b.place, Arena | Weight):
            continue
        limit = p.arena_bytes if isinstance(b.place, Arena) else p.weight_bytes
        if b.place.offset % ALIGN or b.place.offset + b.nbytes > limit:
            raise GraphoptError(f"program {p.name}: buffer {b.name} is misplaced")


def check_size(p: Program) -> None:
    """Refuse a program that can't be written or run within the memory limit (LimitError)."""
    limit = max_memory()
    ends = sum(b.nbytes for b in p.buffers if isinstance(b.place, Input | Output))
    need = p.arena_bytes + p.weight_bytes + ends
    if need > limit:
        raise LimitError(
            f"{p.name} takes {gigabytes(p.arena_bytes)} for values on their way, "
            f"{gigabytes(p.weight_bytes)} for constants and {gigabytes(ends)} for inputs and "
            f"outputs, over the limit of {gigabytes(limit)} (--max-memory)"
        )


def _ends(step: FallbackCall) -> tuple[int, ...]:
    return tuple(i for _, i in (*step.inputs, *step.outputs))
