"""One run of a bundle: kernels in the library and segments in ONNX Runtime, in turn.

A value has one home: the caller's arrays for inputs and outputs, the context's arena or the weights
for static values between them, a dictionary for dynamic ones (which only segments touch).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.runtime.manifest import BufferSpec, KernelRange, Manifest, Segment
from graphopt.runtime.native import Context, addresses
from graphopt.runtime.segments import SegmentRunner
from graphopt.runtime.tensors import Array, aligned, is_placed, placed


@dataclass(frozen=True)
class Plan:
    """What every run of a session shares; `input_dtypes` is None where any value is taken."""

    manifest: Manifest
    buffers: dict[int, BufferSpec]
    dtypes: dict[int, np.dtype[Any]]
    input_dtypes: list[np.dtype[Any] | None]
    segments: SegmentRunner


@dataclass(frozen=True)
class Stretch:
    """Layers that ran one after another: from `first` on, `ns` nanoseconds each.

    `start` is when the first began, by `time.perf_counter_ns`.
    """

    first: int
    start: int
    ns: tuple[int, ...]


class Run:
    """The values of one run: made for it, gone after it."""

    def __init__(self, plan: Plan, context: Context, inputs: Sequence[Any]) -> None:
        """Place the (checked) inputs where kernels can read them, and make the outputs."""
        self._plan = plan
        self._context = context
        self._values: dict[int, Any] = dict(zip(plan.manifest.input_buffers, inputs, strict=True))
        self._inputs = [self._placed(i, value) for i, value in enumerate(inputs)]
        self._outputs = [self._output(index) for index in plan.manifest.output_buffers]
        # The arrays must live as long as their addresses are used: both are the run's.
        self._in, self._out = addresses(self._inputs), addresses(self._outputs)

    def step(self, step: KernelRange | Segment) -> None:
        """Run one step of the manifest."""
        if isinstance(step, KernelRange):
            self._context.run(self._in, self._out, step.first, step.last)
        else:
            self._segment(step)

    def timed(self, step: KernelRange | Segment) -> Stretch:
        """Run one step and give the times of the layers in it."""
        start = time.perf_counter_ns()
        if isinstance(step, KernelRange):
            ns = self._context.profile(self._in, self._out, step.first, step.last)
            return Stretch(step.first, start, tuple(ns))
        self._segment(step)
        return Stretch(step.step, start, (time.perf_counter_ns() - start,))

    def finish(self) -> list[Any]:
        """Give the outputs."""
        count = len(self._plan.manifest.layers)
        last = self._plan.manifest.steps[-1:]
        if not last or isinstance(last[0], Segment):
            # The library fills the outputs that no step writes when the last step is past.
            self._context.run(self._in, self._out, count, count)
        pairs = zip(self._plan.manifest.output_buffers, self._outputs, strict=True)
        return [self._dynamic(i) if array is None else array for i, array in pairs]

    def _placed(self, position: int, value: Any) -> Array | None:
        index = self._plan.manifest.input_buffers[position]
        buffer = self._plan.buffers[index]
        if buffer.place == "dynamic":
            return None
        if is_placed(value):
            return value
        staging = self._context.staging
        if position not in staging:
            dtype = self._plan.dtypes[index]
            nbytes = math.prod(buffer.shape) * dtype.itemsize
            staging[position] = placed(buffer.shape, dtype, nbytes)
        np.copyto(staging[position][0], value)
        return staging[position][0]

    def _output(self, index: int) -> Array | None:
        buffer = self._plan.buffers[index]
        if buffer.place == "dynamic":
            return None
        return aligned(buffer.shape, self._plan.dtypes[index])

    def _dynamic(self, index: int) -> Any:
        value = self._values[index]
        is_input = index in self._plan.manifest.input_buffers
        return value.copy() if is_input and hasattr(value, "copy") else value

    def _segment(self, segment: Segment) -> None:
        feeds = {name: self._read(index) for name, index in segment.inputs}
        results = self._plan.segments.run(segment, feeds)
        for (name, index), value in zip(segment.outputs, results, strict=True):
            self._write(f"{segment.model}: {name}", index, value)

    def _read(self, index: int) -> Any:
        if index in self._values:
            return self._values[index]
        return self._home(index)

    def _home(self, index: int) -> Array:
        """The memory of a static value that isn't an input."""
        buffer = self._plan.buffers[index]
        if buffer.place == "output":
            array = self._outputs[buffer.position]
            assert array is not None  # a static place: _output made it
            return array
        if buffer.place in ("arena", "weight"):
            return self._context.buffer(index, buffer.shape, self._plan.dtypes[index])
        raise GraphoptError(f"the plan reads {buffer.name} before anything wrote it")

    def _write(self, what: str, index: int, value: Any) -> None:
        if self._plan.buffers[index].place == "dynamic":
            self._values[index] = value
            return
        home = self._home(index)
        array = np.asarray(value)
        if array.shape != home.shape or array.dtype != home.dtype:
            got, want = (f"{a.dtype}{list(a.shape)}" for a in (array, home))
            raise GraphoptError(f"{what} came out as {got}, and the plan holds {want}")
        np.copyto(home, array)
