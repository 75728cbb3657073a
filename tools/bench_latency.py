"""Latency of compiled bundles against ONNX Runtime, float32, on the same threads.

    python tools/bench_latency.py --zoo DIR [MODEL...] [--threads 1,2] [--cold] [--json FILE]

Batch 1; inputs that stay dynamic get fixed sizes. Both run the same seeded input in this process,
in turns (A B A B ...), so that drift of the machine hits both; before each timed run goes one that
isn't, so that threads of the other which still spin don't count. ONNX Runtime has all its
optimizations on, and gets the model with the same fixed shapes. `x` is ONNX Runtime's time by ours:
above 1 we are faster. The geometric means are over models with a square image as input (`vision`), and over all.
`compile s` is the time to plan, compile and link; with --cold from an empty cache of kernels.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime
import peers

import graphopt
from graphopt.analysis.bind import bind
from graphopt.data import seeded_runs
from graphopt.measure import interleave
from graphopt.onnx import Reference
from graphopt.targets.base import Build

ort: Any = onnxruntime  # its annotations are incomplete
Feed = Mapping[str, Any]


@dataclass
class Timing:
    """Milliseconds of both on a number of threads."""

    threads: int
    ours_min: float
    ours: float
    peer_min: float
    peer: float
    runs: int

    @property
    def ratio(self) -> float:
        """ONNX Runtime's median by ours."""
        return self.peer / self.ours

    @property
    def ratio_min(self) -> float:
        """ONNX Runtime's minimum by ours."""
        return self.peer_min / self.ours_min


@dataclass
class Row:
    """One model."""

    model: str
    vision: bool
    calls: int = 0
    segments: int = 0
    compile_seconds: float = 0.0
    timings: list[Timing] = field(default_factory=list[Timing])
    error: str = ""


def fixed_feed(path: Path) -> Feed:
    """Seeded inputs of batch 1 that ONNX Runtime runs."""
    module = graphopt.load(path)
    bind(module)
    (feed,), _ = seeded_runs(module, Reference(path).run, 1)
    return feed


def is_vision(feed: Feed) -> bool:
    """Whether an input is a square image."""
    shapes = [a.shape for a in feed.values()]
    return any(len(s) == 4 and s[2] >= 28 and s[2] in (s[1], s[3]) for s in shapes)


def peer_run(path: Path, feed: Feed, threads: int) -> Callable[[], Any]:
    """A run in ONNX Runtime, all optimizations on, of the model with its shapes fixed."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        module = graphopt.load(path, input_shapes={k: tuple(v.shape) for k, v in feed.items()})
        fixed = str(Path(folder) / "fixed.onnx")
        module.save(fixed)
        session = ort.InferenceSession(fixed, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, dict(feed))


def time_both(bundle: Path, path: Path, feed: Feed, threads: int, seconds: float) -> Timing:
    """Both on some threads, in turns."""
    peer = peer_run(path, feed, threads)
    with graphopt.Session(bundle, threads=threads) as session:
        rows = interleave({"ours": lambda: session.run(feed), "peer": peer}, seconds)
    ours, theirs = ([1000 * s for s in rows[name]] for name in ("ours", "peer"))
    return Timing(threads, min(ours), statistics.median(ours), min(theirs),
                  statistics.median(theirs), len(ours))  # fmt: skip


def measure(path: Path, o: argparse.Namespace, cache: Path | None) -> Row:
    """Compile a model and time it."""
    feed = fixed_feed(path)
    row = Row(path.stem, is_vision(feed))
    try:
        result = graphopt.optimize(
            path, o.target, input_shapes={k: tuple(v.shape) for k, v in feed.items()},
            build=Build(jobs=o.jobs, cache=cache), check=False,
        )  # fmt: skip
    except graphopt.GraphoptError as why:
        row.error = str(why)
        return row
    assert result.bundle
    assert result.program
    row.calls, row.segments = len(result.program.steps), len(list(result.program.fallbacks()))
    row.compile_seconds = result.report.seconds["compile"]
    row.timings = [time_both(result.bundle, path, feed, t, o.seconds) for t in o.threads]
    return row


def mean(rows: Sequence[Row], index: int, best: bool) -> float:
    """Geometric mean of the ratios at one number of threads."""
    timings = [r.timings[index] for r in rows]
    return math.exp(statistics.fmean(math.log(t.ratio_min if best else t.ratio) for t in timings))


def report(rows: Sequence[Row], threads: Sequence[int]) -> None:
    """Print the table and the means."""
    heads = ["model", "calls", "segments", "compile s"]
    for t in threads:
        heads += [f"ms {t}t", "min", "ORT", "min", "x", "x min"]
    table: list[list[Any]] = []
    for r in (r for r in rows if not r.error):
        cells: list[Any] = [
            r.model + ("" if r.vision else " *"),
            r.calls,
            r.segments,
            r.compile_seconds,
        ]
        for t in r.timings:
            cells += [t.ours, t.ours_min, t.peer, t.peer_min, t.ratio, t.ratio_min]
        table.append(cells)
    print(peers.table(table, heads))
    for what, chosen in (("vision", [r for r in rows if r.vision]), ("all", rows)):
        good = [r for r in chosen if r.timings]
        for i, t in enumerate(threads if good else ()):
            median, least = mean(good, i, False), mean(good, i, True)
            told = f"x {median:.3f} by medians, {least:.3f} by minima"
            print(f"geometric mean, {what} ({len(good)} models), {t} thread(s): {told}")
    for r in rows:
        if r.error:
            print(f"{r.model}: {r.error}")


def main() -> int:
    """Measure every model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    parser.add_argument("--zoo", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--target", default="x86")
    parser.add_argument("--threads", type=lambda s: [int(t) for t in s.split(",")], default=[1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each of the two")
    parser.add_argument("--cold", action="store_true", help="compile from an empty cache")
    parser.add_argument("--json", type=Path)
    o = parser.parse_args()
    rows: list[Row] = []
    for path in peers.find_models([*o.zoo, *o.models]):
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            rows.append(measure(path, o, Path(folder) if o.cold else None))
        last = rows[-1]
        told = last.error or ", ".join(f"{t.threads}t x {t.ratio:.2f}" for t in last.timings)
        print(f"{path.stem}: {told}", file=sys.stderr, flush=True)
    report(rows, o.threads)
    if o.json:
        o.json.write_text(json.dumps([asdict(r) for r in rows], indent=1))
    return any(r.error for r in rows)


if __name__ == "__main__":
    sys.exit(main())
