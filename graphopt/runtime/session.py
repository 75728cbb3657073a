"""Session: a compiled bundle, ready to run."""

from __future__ import annotations

import operator
import os
import statistics
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np

from graphopt.errors import InputError, path_from, want
from graphopt.runtime.contexts import ContextPool
from graphopt.runtime.cpu import check_machine
from graphopt.runtime.direct import direct
from graphopt.runtime.files import check_files
from graphopt.runtime.manifest import KernelRange, Manifest, Segment, TensorSpec
from graphopt.runtime.native import Library
from graphopt.runtime.run import Plan, Run, Stretch
from graphopt.runtime.segments import SegmentRunner
from graphopt.runtime.tensors import check_array, check_names, dtype_of

MOST = 1 << 20  # threads, contexts or runs that may be asked for


@dataclass(frozen=True)
class LayerTime:
    """The times of one step of the plan (one kernel, or one segment in ONNX Runtime).

    Attributes:
        name: the layer's.
        nodes: the ONNX nodes it came from.
        kernel: the function, or `onnxruntime`.
        macs: its multiply-accumulates.
        ns: nanoseconds, one for each repeat.
    """

    name: str
    nodes: tuple[str, ...]
    kernel: str
    macs: int
    ns: list[int] = field(default_factory=list[int])

    @property
    def median_us(self) -> float:
        """The median time, in microseconds."""
        return statistics.median(self.ns) / 1000

    @property
    def min_us(self) -> float:
        """The least time, in microseconds."""
        return min(self.ns) / 1000


class Session:
    """Runs a bundle. May be used by several threads at once; runs without holding Python's lock.

    A forked child may use it, too, if no run was under way at the fork: its first run starts
    threads of its own.

    Attributes:
        manifest: what the bundle says about itself.
        inputs: name, dtype and shape of each input.
        outputs: name, dtype and shape of each output.
        threads: how many threads one run uses.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        threads: int | None = None,
        *,
        contexts: int = 1,
        verify: bool = False,
    ) -> None:
        """Load a bundle.

        Args:
            path: the bundle's folder.
            threads: threads of one run; None: one for each CPU that this process may use.
            contexts: how many runs may be under way at the same time, each with threads and
                temporary memory of its own; a further caller waits.
            verify: check every file of the bundle against its hash first.

        Raises:
            InputError: it is not a bundle, or it is damaged; an argument isn't what it should be.
            UnsupportedError: this machine lacks a CPU feature, or onnxruntime, that it needs.
        """
        folder = path_from("a session's bundle", path)
        self.threads = _cpus() if threads is None else _count("threads", threads)
        count = _count("contexts", contexts)
        self.manifest = Manifest.load(folder)
        check_machine(self.manifest.arch, self.manifest.cpu_features)
        check_files(folder, self.manifest, verify)
        self.inputs = self.manifest.inputs
        self.outputs = self.manifest.outputs
        self._plan = _plan(self.manifest, SegmentRunner(folder, self.manifest, self.threads))
        self._direct = direct(self._plan)
        library = Library(folder / self.manifest.library, self.manifest.prefix)
        self._contexts = ContextPool(library, self.threads, count)
        self._close = weakref.finalize(self, self._contexts.close)
        self._close.atexit = False  # the system ends the threads; a run may still be under way

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run the model once.

        Args:
            inputs: an array for each input, of exactly its dtype and shape. Arrays that aren't
                dense or 64-byte aligned are copied first.

        Returns:
            A new array for each output (lists and strings where the model gives such).

        Raises:
            InputError: an input is missing, unknown, or of another dtype or shape.
        """
        found = self._direct.run(self._contexts, inputs) if self._direct else None
        if found is not None:
            return found
        values = self._check(inputs)
        with self._contexts.lend() as context:
            run = Run(self._plan, context, values)
            for step in self.manifest.steps:
                run.step(step)
            results = run.finish()
        return {spec.name: value for spec, value in zip(self.outputs, results, strict=True)}

    def timed_run(self, inputs: Mapping[str, Any]) -> list[Stretch]:
        """Run the model once, as `run` does, and give the times of its layers instead of results.

        Layers in the compiled library are timed there, with one reading of the clock for each.
        """
        values = self._check(inputs)
        with self._contexts.lend() as context:
            run = Run(self._plan, context, values)
            found = [run.timed(step) for step in self.manifest.steps]
            run.finish()
        return found

    def profile(self, inputs: Mapping[str, Any], repeats: int = 10) -> list[LayerTime]:
        """Run the model `repeats` times and give the times of each layer.

        Raises:
            InputError: as `run`; `repeats` is no number of 1 or more.
        """
        repeats = _count("repeats", repeats)
        layers = self.manifest.layers
        times = [LayerTime(n.name, n.nodes, n.kernel, n.macs) for n in layers]
        for _ in range(repeats):
            every = [ns for stretch in self.timed_run(inputs) for ns in stretch.ns]
            for layer, ns in zip(times, every, strict=True):
                layer.ns.append(ns)
        return times

    def close(self) -> None:
        """Wait for the runs under way, then end the threads and free the memory."""
        self._close()

    def __enter__(self) -> Self:
        """Give the session, which the end of the `with` closes."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the session."""
        self.close()

    def _check(self, inputs: Mapping[str, Any]) -> list[Any]:
        check_names(self.inputs, inputs)
        pairs = zip(self.inputs, self._plan.input_dtypes, strict=True)
        return [
            inputs[spec.name] if dtype is None else check_array(spec, dtype, inputs[spec.name])
            for spec, dtype in pairs
        ]


def _count(what: str, given: Any) -> int:
    """A number of threads, contexts or runs: numpy's integers count as such.

    Raises:
        InputError: it is none.
    """
    try:
        count = 0 if isinstance(given, bool) else operator.index(given)
    except TypeError:
        count = 0
    want(what, 1 <= count <= MOST, f"an integer from 1 to {MOST}", given)
    return count


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _plan(manifest: Manifest, segments: SegmentRunner) -> Plan:
    """Check that the manifest fits together, and find the dtypes it names."""
    buffers = {b.index: b for b in manifest.buffers}
    wanted = [*manifest.input_buffers, *manifest.output_buffers]
    wanted += [i for s in manifest.steps if isinstance(s, Segment) for _, i in _ends(s)]
    counts = (len(manifest.inputs), len(manifest.outputs))
    steps = sum(s.last - s.first if isinstance(s, KernelRange) else 1 for s in manifest.steps)
    whole = counts == (len(manifest.input_buffers), len(manifest.output_buffers))
    if not whole or steps != len(manifest.layers) or any(i not in buffers for i in wanted):
        raise InputError("the manifest is damaged: its parts do not fit together")
    dtypes = {b.index: dtype_of(b.dtype) for b in manifest.buffers}
    return Plan(manifest, buffers, dtypes, [_input_dtype(s) for s in manifest.inputs], segments)


def _ends(segment: Segment) -> Iterator[tuple[str, int]]:
    yield from segment.inputs
    yield from segment.outputs


def _input_dtype(spec: TensorSpec) -> np.dtype[Any] | None:
    """What an array for this input must be of; None for strings and what isn't a tensor."""
    return None if spec.dtype in (None, "object") else dtype_of(spec.dtype)
