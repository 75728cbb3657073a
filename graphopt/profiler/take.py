"""Taking a profile: ordinary and timed runs in turn, then medians layer by layer."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.analysis.work import Work
from graphopt.errors import UnsupportedError, path_from, want
from graphopt.ir.types import Array
from graphopt.profiler.model import SEGMENT, LayerTimes, Profile, Run
from graphopt.runtime import Manifest, Session
from graphopt.runtime.cpu import is_native
from graphopt.runtime.manifest import Layer
from graphopt.runtime.run import Stretch
from graphopt.runtime.tensors import dtype_of
from graphopt.targets import elsewhere
from graphopt.targets.base import Estimate
from graphopt.targets.costs import Database, row_of
from graphopt.targets.machine import load
from graphopt.targets.roofline import UNSTEADY, Bound, Roofline, described, host_roofline
from graphopt.targets.roofline.host import this_host

SECONDS = 1.0
LEAST = 3  # rounds, unless one of them takes longer than all should
MOST = 10_000
WARM = 0.25  # of the seconds goes into rounds that aren't counted
BEYOND = 1.2  # times the roofline: more than a clock that turbos explains
BUSY = 1.25  # times the fastest run: the median of a machine that has other work


@dataclass
class Rounds:
    """What the runs gave: seconds of the ordinary ones, stretches of the timed ones."""

    ordinary: list[float] = field(default_factory=list[float])
    stretches: list[list[Stretch]] = field(default_factory=list[list[Stretch]])


def profile(
    bundle: str | os.PathLike[str],
    inputs: Mapping[str, Any] | None = None,
    *,
    threads: int | None = None,
    seconds: float = SECONDS,
    runs: int | None = None,
    remeasure: bool = False,
) -> Profile:
    """Time each layer of a bundle on this machine, and compare it with what the machine can do.

    The times of a bundle for another CPU are estimated, of one run on one thread.

    Args:
        bundle: the folder.
        inputs: arrays by input name; None: seeded ones that suit the model.
        threads: of a run; None: all CPUs that this process may use.
        seconds: how long to time, about.
        runs: how many timed runs instead.
        remeasure: measure the machine's roofline anew; else what was measured before is taken.

    Raises:
        InputError: it is not a bundle, it is damaged, or the inputs don't suit it.
        UnsupportedError: this machine can't run it.
    """
    folder = path_from("the bundle", bundle)
    manifest = Manifest.load(folder)
    if not is_native(manifest.arch):
        feed = seeded_inputs(folder) if inputs is None else inputs
        return estimated(manifest, elsewhere.estimate(folder, manifest, feed))
    with Session(folder, threads=threads) as session:
        feed = seeded_inputs(folder) if inputs is None else inputs
        return profile_session(session, feed, seconds=seconds, runs=runs, remeasure=remeasure)


def profile_session(
    session: Session,
    inputs: Mapping[str, Any],
    *,
    seconds: float = SECONDS,
    runs: int | None = None,
    remeasure: bool = False,
    settle: bool = True,
) -> Profile:
    """Time each layer of an open session; as `profile`.

    `settle`: a roofline that was measured while the machine had other work is measured again.
    """
    long: Any = seconds
    count: Any = runs
    want("seconds", isinstance(long, int | float) and 0 < long < math.inf, "a number above 0", long)
    want("runs", count is None or (isinstance(count, int) and count > 0), "1 or more", count)
    roofline, notes = _roofline(session.threads, remeasure, settle)
    rounds = _take(session, inputs, seconds, runs)
    manifest = session.manifest
    layers, runs_kept = _layers(manifest, _matrix(rounds), roofline), _typical(rounds)
    _remember(manifest, layers, session.threads)
    return Profile(
        name=manifest.name,
        target=manifest.target,
        cpu=this_host().name,
        threads=session.threads,
        rounds=len(rounds.stretches),
        run_us=_median_us(rounds.ordinary),
        layers=layers,
        roofline=roofline,
        notes=tuple(notes + _remarks(layers, runs_kept)),
        runs=runs_kept,
    )


def estimated(manifest: Manifest, found: Estimate) -> Profile:
    """A profile of what wasn't run on its CPU; nothing is remembered of it."""
    roofline = described(load(found.cpu))
    layers = _layers(manifest, 1e3 * np.asarray([found.us]), roofline)
    pairs = zip(layers, found.instructions, strict=True)
    layers = tuple(replace(layer, instructions=count) for layer, count in pairs)
    return Profile(
        name=manifest.name, target=manifest.target, cpu=found.cpu, threads=1, rounds=0,
        run_us=sum(found.us), layers=layers, roofline=roofline, estimate=found.how,
        notes=(f"{found.beside:,} instructions outside kernels: start, files, the driver",),
    )  # fmt: skip


def seeded_inputs(bundle: Path) -> Mapping[str, Any]:
    """Inputs that suit the bundle's own model.onnx, the same each time."""
    from graphopt import onnx as onnx_io
    from graphopt.data import seeded_runs

    Manifest.load(bundle)  # says so if it isn't a bundle
    module = onnx_io.load(bundle / "model.onnx")
    (feed,), _ = seeded_runs(module, onnx_io.Reference(module).run, 1)
    return feed


def _remember(manifest: Manifest, layers: Sequence[LayerTimes], threads: int) -> None:
    """Keep the kernels' times, for whoever asks what an op costs."""
    pairs = zip(manifest.layers, layers, strict=True)
    Database(threads).add(row_of(n, t.min_us) for n, t in pairs if n.key)


def _roofline(threads: int, remeasure: bool, settle: bool) -> tuple[Roofline | None, list[str]]:
    try:
        found = host_roofline(threads, remeasure=remeasure, settle=settle)
        return found, [] if found.steady else [UNSTEADY]
    except UnsupportedError as why:
        return None, [f"no roofline: {why}"]


def _take(session: Session, inputs: Mapping[str, Any], seconds: float, runs: int | None) -> Rounds:
    """Run in turn, ordinary and timed, so that what disturbs one disturbs both."""
    warm, began = Rounds(), time.perf_counter()
    while not warm.stretches or (time.perf_counter() - began < WARM * seconds and runs is None):
        _round(session, inputs, warm)
    if runs is None and 2 * warm.ordinary[0] > seconds:
        return warm  # a run that takes longer than all should isn't repeated
    rounds, began = Rounds(), time.perf_counter()
    while not _enough(len(rounds.stretches), time.perf_counter() - began, seconds, runs):
        _round(session, inputs, rounds)
    return rounds


def _enough(done: int, spent: float, seconds: float, runs: int | None) -> bool:
    if runs is not None:
        return done >= runs
    return done >= MOST or (done >= LEAST and spent >= seconds)


def _round(session: Session, inputs: Mapping[str, Any], rounds: Rounds) -> None:
    start = time.perf_counter()
    session.run(inputs)
    rounds.ordinary.append(time.perf_counter() - start)
    rounds.stretches.append(session.timed_run(inputs))


def _matrix(rounds: Rounds) -> Array:
    """Nanoseconds, [round, layer]."""
    rows = [[ns for stretch in one for ns in stretch.ns] for one in rounds.stretches]
    return np.asarray(rows, np.float64).reshape(len(rounds.stretches), -1)


def _layers(manifest: Manifest, ns: Array, roofline: Roofline | None) -> tuple[LayerTimes, ...]:
    if not manifest.layers:
        return ()
    medians, p90s = np.percentile(ns, (50, 90), axis=0)  # np.median imports masked arrays: 10 ms
    total = float(medians.sum()) or 1.0
    columns = zip(medians, ns.min(axis=0), p90s, strict=True)
    footprint = _footprint(manifest)
    found: list[LayerTimes] = []
    for i, (layer, (median, least, p90)) in enumerate(zip(manifest.layers, columns, strict=True)):
        bound = _bound(layer, roofline, footprint)
        found.append(LayerTimes(
            index=i, name=layer.name, nodes=layer.nodes, kernel=layer.kernel,
            family=layer.family or layer.kernel, us=float(median) / 1e3, min_us=float(least) / 1e3,
            p90_us=float(p90) / 1e3, share=float(median) / total, macs=layer.macs,
            flops=layer.flops or 2 * layer.macs, bytes=layer.data_bytes + layer.weight_bytes,
            unit=layer.unit, operands=layer.operands, results=layer.results, ops=layer.ops,
            roofline_us=1e6 * bound.seconds if bound else None, bound=bound.by if bound else None,
        ))  # fmt: skip
    return tuple(found)


def _footprint(manifest: Manifest) -> int:
    """Bytes that a run touches: constants, temporary values, inputs and outputs."""
    ends = {*manifest.input_buffers, *manifest.output_buffers}
    buffers = (b for b in manifest.buffers if b.index in ends and b.place != "dynamic")
    outside = sum(math.prod(b.shape) * dtype_of(b.dtype).itemsize for b in buffers)
    return manifest.weight_bytes + manifest.arena_bytes + outside


def _bound(layer: Layer, roofline: Roofline | None, footprint: int) -> Bound | None:
    if roofline is None or not layer.data_bytes + layer.weight_bytes:
        return None
    work = Work(layer.flops, layer.data_bytes, layer.weight_bytes, layer.unit)
    return roofline.bound(work, footprint)


def _remarks(layers: Sequence[LayerTimes], runs: Sequence[Run]) -> list[str]:
    """What the numbers say about themselves."""
    notes: list[str] = []
    median, fastest, _ = (sum(run.took) / 1000 for run in runs)
    if median > BUSY * fastest:
        notes.append(f"the machine had other work: the fastest run took {fastest:.3f} ms, the "
                     f"median one {median:.3f} ms")  # fmt: skip
    if any(not n.bytes for n in layers if n.family != SEGMENT):
        notes.append("the bundle is of an older graphopt and lacks the bytes of its layers: "
                     "optimize again for GB/s and the roofline")  # fmt: skip
    beyond = [n for n in layers if n.roofline is not None and n.roofline > BEYOND]
    if beyond:
        notes.append(f"{len(beyond)} layers are faster than the roofline ({beyond[0].name}, ...): "
                     "the machine was busy when it was measured? try --remeasure")  # fmt: skip
    return notes


def _typical(rounds: Rounds) -> tuple[Run, ...]:
    """The run of median length, the fastest and the slowest."""
    ranked = sorted(rounds.stretches, key=lambda one: sum(ns for s in one for ns in s.ns))
    chosen = {"median": ranked[len(ranked) // 2], "fastest": ranked[0], "slowest": ranked[-1]}
    return tuple(_run(f"{name} run", stretches) for name, stretches in chosen.items())


def _run(name: str, stretches: Sequence[Stretch]) -> Run:
    start = stretches[0].start if stretches else 0
    began: list[float] = []
    for stretch in stretches:
        ends = np.cumsum((stretch.start - start, *stretch.ns))
        began += [float(at) / 1e3 for at in ends[:-1]]
    return Run(name, tuple(began), tuple(ns / 1e3 for s in stretches for ns in s.ns))


def _median_us(seconds: Sequence[float]) -> float:
    return 1e6 * statistics.median(seconds)
