"""Runs of kernels alone, of static inputs and outputs: the short way through a Session.

A model of a few microseconds must not wait for Python, so all that is known before a run is made
before it, and a run that is as expected (each input a numpy array of its type and shape) is one
call of the library. Anything else goes the long way, which converts and explains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.runtime.contexts import ContextPool
from graphopt.runtime.manifest import KernelRange, TensorSpec
from graphopt.runtime.native import Context
from graphopt.runtime.run import Plan
from graphopt.runtime.tensors import ALIGN, Array, address, placed


@dataclass(frozen=True)
class End:
    """An input or output: its name in the model, and the array that it is."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    nbytes: int


class Direct:
    """The runs of a plan whose one step is all of its kernels."""

    def __init__(self, plan: Plan) -> None:
        """Look up what every run needs."""
        m = plan.manifest
        self._inputs = _ends(plan, m.inputs, m.input_buffers)
        self._outputs = _ends(plan, m.outputs, m.output_buffers)

    def run(self, contexts: ContextPool, inputs: Mapping[str, Any]) -> dict[str, Array] | None:
        """Run the model; None, before anything is done, if an input isn't as expected."""
        arrays = self._arrays(inputs)
        if arrays is None:
            return None
        context = contexts.take()
        try:
            return self._call(context, arrays)
        finally:
            contexts.give(context)

    def _arrays(self, inputs: Mapping[str, Any]) -> list[Array] | None:
        if not isinstance(inputs, dict) or len(inputs) != len(self._inputs):
            return None
        arrays: list[Array] = []
        for end in self._inputs:
            a = inputs.get(end.name)
            if type(a) is not np.ndarray or a.dtype != end.dtype or a.shape != end.shape:
                return None
            arrays.append(a)
        return arrays

    def _call(self, context: Context, arrays: list[Array]) -> dict[str, Array]:
        given, results = context.slots(len(self._inputs), len(self._outputs))
        found: dict[str, Array] = {}
        for i, a in enumerate(arrays):
            at = address(a) if a.flags.c_contiguous else 1
            given[i] = at if not at % ALIGN else self._staged(context, i, a)
        for i, end in enumerate(self._outputs):
            found[end.name], results[i] = placed(end.shape, end.dtype, end.nbytes)
        context.run_all()
        return found

    def _staged(self, context: Context, i: int, array: Array) -> int:
        """The address of a copy of an input, in memory that the context keeps for it."""
        end = self._inputs[i]
        if i not in context.staging:
            context.staging[i] = placed(end.shape, end.dtype, end.nbytes)
        copy, at = context.staging[i]
        np.copyto(copy, array)
        return at


def _ends(plan: Plan, specs: Sequence[TensorSpec], indices: Sequence[int]) -> list[End]:
    found: list[End] = []
    for spec, index in zip(specs, indices, strict=True):
        buffer, dtype = plan.buffers[index], plan.dtypes[index]
        nbytes = math.prod(buffer.shape) * dtype.itemsize
        found.append(End(spec.name, dtype, buffer.shape, nbytes))
    return found


def direct(plan: Plan) -> Direct | None:
    """The short way for a plan; None for one with segments in ONNX Runtime or dynamic values."""
    m = plan.manifest
    ends = [plan.buffers[i] for i in (*m.input_buffers, *m.output_buffers)]
    alone = len(m.steps) == 1 and isinstance(m.steps[0], KernelRange)
    typed = all(d is not None for d in plan.input_dtypes)
    return Direct(plan) if alone and typed and all(b.place != "dynamic" for b in ends) else None
