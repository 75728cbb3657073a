# pyright: basic
# TVM ships no types.
"""Trials of a kernel's schedules: compiled and timed in this process, which may be lost to one.

Each trial is announced before it begins, so that the master knows which one a process died of.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tvm

from graphopt.ir.core import Graph, Value
from graphopt.ir.layout import physical_shape
from graphopt.ir.types import Array
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import build

SHORTEST = 0.02  # seconds of a timing
ROUNDS = 5  # of the best against the rule's choice, in turns
GAIN = 0.98  # of the rule's time: what is not faster than that may be noise
WORSE = 1.25  # times the best so far: then one short timing is enough


def trials(
    graph: Graph, machine: Machine, seconds: float, skip: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Time the choices of a kernel, best by rule first, until the time is up.

    Yields {"trial": knobs, "us": null} before and {"trial": knobs, "us": time} after each, then
    {"done": true, "best": knobs or "", "us": its time, "rule": the rule's, "trials": how many}.
    """
    until = time.perf_counter() + seconds
    texts = [c for c in build.choices(graph, machine) if c not in skip]
    arrays = [_tensor(v, np.random.default_rng(i)) for i, v in enumerate(graph.args)]
    arrays += [_tensor(v, None) for v in graph.outputs]
    found: dict[str, tuple[float, Any]] = {}
    for text in texts:
        if len(found) > 1 and time.perf_counter() > until:
            break
        yield {"trial": text, "us": None}
        if text == os.environ.get("GRAPHOPT_TEST_ABORT"):
            os.abort()  # as LLVM's fatal errors do
        try:
            func = build.primfunc(graph, machine, "k", text)
            run = build.compile_module({"k": func}, machine)["k"]
        except Exception:  # whatever TVM raises: this schedule isn't one
            continue
        us = timed(run, arrays, min((t for t, _ in found.values()), default=0.0))
        found[text] = (us, run)
        yield {"trial": text, "us": round(us, 3)}
    yield {"done": True, **_winner(found, arrays), "trials": len(found)}


def _winner(found: dict[str, tuple[float, Any]], arrays: list[Any]) -> dict[str, Any]:
    """The fastest, if it beats the rule's choice in turns with it."""
    if not found:
        return {"best": "", "us": 0.0, "rule": 0.0}
    rule = next(iter(found))
    best = min(found, key=lambda k: found[k][0])
    times: dict[str, list[float]] = {rule: [], best: []}
    for _ in range(ROUNDS):
        for text, row in times.items():
            row.append(timed(found[text][1], arrays, 0.0))
    us = {text: min(row) for text, row in times.items()}
    won = us[best] < GAIN * us[rule]
    return {"best": best if won else "", "us": us[best if won else rule], "rule": us[rule]}


def timed(run: Any, arrays: list[Any], best: float) -> float:
    """Microseconds of a call: the least mean of a few batches of them."""
    run(*arrays)
    begin = time.perf_counter()
    run(*arrays)
    once = max(time.perf_counter() - begin, 1e-7)
    if best and 1e6 * once > 4 * WORSE * best:
        return 1e6 * once
    calls = max(1, int(SHORTEST / 4 / once))
    batches: list[float] = []
    for _ in range(4):
        begin = time.perf_counter()
        for _ in range(calls):
            run(*arrays)
        batches.append((time.perf_counter() - begin) / calls)
        if best and 1e6 * batches[0] > WORSE * best:
            break
    return 1e6 * min(batches)


def _tensor(value: Value, rng: np.random.Generator | None) -> Any:
    t = value.tensor
    shape = physical_shape(t.static or (), t.layout) or (1,)
    return tvm.runtime.tensor(_numbers(shape, t.dtype.numpy, rng))


def _numbers(
    shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator | None
) -> Array:
    if rng is None:
        return np.zeros(shape, dtype)
    if dtype.kind == "f":
        return rng.uniform(-1, 1, shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)
