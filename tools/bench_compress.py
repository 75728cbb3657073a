"""Models made structurally smaller: graphopt's passes against plain pruning and Torch-Pruning.

    python tools/bench_compress.py --zoo DIR --data DIR [--tasks NAME,...] [--methods TEXT,...]
                                   [--also NAME=PASSES] [--peer-python VENV/bin/python]
                                   [--json FILE] [--markdown FILE]

Every method gets the same float32 model and the same samples of training data (`--samples`),
without labels, in a process of its own. Samples that also occur in the test set are taken out
first. All models are evaluated alike, on the test set: in ONNX Runtime on the CPU with its
optimizer off. *MACs* are multiply-adds of a run of one sample, *kB* (1000 bytes) those of the
ONNX file. *us* are microseconds a run of the compiled bundle on `--threads`, median and minimum;
*x faster* how many times the bundle of our exact pipeline takes, timed in turns with it. *Drop* is
the paired difference to the original in points of the metric, with its 95 % interval; *agree* the
part of decisions that are the original's; *SQNR* that of the logits. *s* is the wall time of the
passes. What Torch-Pruning made is compiled by our exact pipeline.

Rows are `METHOD-PERCENT` of multiply-adds to save, without repair, with `+reconstruct`, and with
`+distill` after it (`--distill`); `l1` is pruning by the L1 norm without any repair. --also adds
rows of pipelines of your own. --methods takes names or patterns.

Rows are saved to --json as they come; those that it already has aren't measured again, unless they
failed. With --refresh PATTERN those are. The peer's Python needs
`pip install torch onnx torch-pruning onnx2torch`. --timer "CMD ..." is put before the command that
times (a lock, or taskset). With --retime the rows of --json are timed once more, by the bundles that
--keep has kept, and nothing else is done: for when the machine is quiet.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from compress_bench.methods import CHILDREN, DISTILL, methods, ours
from compress_bench.table import Row, Timing, Weight, sheets
from compress_bench.tasks import TASKS, task
from quant_bench.evaluate import open_session, outputs
from quant_bench.methods import Made, Method, make, run_child
from quant_bench.metrics import Array, paired_drop, sqnr
from quant_bench.task import MissingError, Places, Task
from tables import collect, finish

import graphopt
from graphopt.report.model import Size

TIMER = Path(__file__).parent / "compress_bench" / "time_child.py"
COMPARED = 8  # samples that a bundle is run on
ORIGINAL = ours("original", "default")
Known = dict[tuple[str, str, str], Row]


@dataclass
class Bench:
    """One task, and a folder for what the methods write."""

    task: Task
    folder: Path
    o: argparse.Namespace
    made: int = field(default=0)

    def __post_init__(self) -> None:
        """Write the samples, and one to time on."""
        samples: Any = self.task.calibration
        np.savez(self.folder / "samples.npz", **samples)
        one: Any = {name: array[:1] for name, array in self.task.inputs.items()}
        np.savez(self.folder / "one.npz", **one)

    @cached_property
    def before(self) -> Array:
        """What the original answers."""
        return outputs(self.task, self.task.model, self.o.threads)

    @cached_property
    def exact(self) -> Path:
        """The bundle of our exact pipeline.

        Raises:
            RuntimeError: there is none.
        """
        made, bundle = self.make(ORIGINAL)
        if made.error:
            raise RuntimeError(f"{self.task.name} isn't compiled: {made.error}")
        return bundle

    def make(self, method: Method) -> tuple[Made, Path]:
        """Run a method; its bundle, or the folder of its model."""
        self.made += 1
        out = self.folder / f"{self.made}.graphopt"
        job = {"model": str(self.task.model), "data": str(self.folder / "samples.npz"),
               "out": str(out), "target": self.o.target, "threads": self.o.threads}  # fmt: skip
        return make(method, job, self.o.peer_python, CHILDREN[method.tool]), out

    def row(self, method: Method, made: Made, **values: Any) -> Row:
        """A row of this task."""
        t = self.task
        tested, given = (len(next(iter(f.values()))) for f in (t.inputs, t.calibration))
        passes = method.options.get("passes", "")
        return Row(
            t.name, t.family, t.metric, tested, given, method.name, passes, made=made, **values
        )

    def measure(self, method: Method) -> Row:
        """Compress by a method, compile and evaluate."""
        made, out = (Made(), self.exact) if method is ORIGINAL else self.make(method)
        if made.error:
            return self.row(method, made)
        try:
            return self.evaluated(method, made, out)
        except Exception as why:  # a model that doesn't run or compile is a result, too
            return self.row(method, Made(error=f"doesn't run: {why}"[:300]))

    def evaluated(self, method: Method, made: Made, out: Path) -> Row:
        """A row with everything."""
        model, t = out / "model.onnx", self.task
        bundle = out if method.ours else compiled(model, out / "bundle", self.o)
        keep(self.o.keep, bundle, t.name, method.name)
        after = outputs(t, model, self.o.threads)
        right, now = t.score(self.before), t.score(after)
        return self.row(
            method, made, weight=weigh(model), timing=self.timed(bundle),
            score=100 * float(now.mean()), drop=paired_drop(right, now),
            agreement=t.agreement(self.before, after), sqnr=finite(sqnr(self.before, after)),
            bundle_sqnr=finite(self.compiled_sqnr(bundle, model)),
        )  # fmt: skip

    def timed(self, bundle: Path) -> Timing:
        """A bundle's time beside that of the exact pipeline's."""
        return timed(self.exact, bundle, self.folder / "one.npz", self.o)

    def compiled_sqnr(self, bundle: Path, model: Path) -> float:
        """The bundle's answers held against ONNX Runtime's, for some test samples."""
        reference, want, got = open_session(model, self.o.threads), list[Array](), list[Array]()
        with graphopt.Session(bundle, threads=self.o.threads) as session:
            for i in range(COMPARED):
                feed = {name: array[i : i + 1] for name, array in self.task.inputs.items()}
                want.append(reference.run(None, feed)[0])
                got.append(next(iter(session.run(feed).values())))
        return sqnr(np.concatenate(want), np.concatenate(got))


def finite(decibels: float) -> float:
    """As JSON can hold it: 999 where nothing differs."""
    return min(max(decibels, -999.0), 999.0)


def timed(exact: Path, bundle: Path, sample: Path, o: argparse.Namespace) -> Timing:
    """A bundle's time beside that of the exact pipeline's.

    Raises:
        RuntimeError: it can't be timed.
    """
    told = [str(exact), str(bundle), str(sample), str(o.threads), str(o.seconds)]
    done = run_child([*shlex.split(o.timer), sys.executable, "-P", str(TIMER), *told], True)
    if done is None or done.returncode:
        raise RuntimeError(f"not timed: {done.stderr[-200:] if done else 'it takes too long'}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Timing(tuple(found["before"]), tuple(found["after"]))


def kept(folder: Path, task: str, method: str) -> Path:
    """Where a method's bundle is kept."""
    return folder / f"{task}.{method}.graphopt"


def keep(folder: Path | None, bundle: Path, task: str, method: str) -> None:
    """A copy of a bundle, if a folder is given."""
    if folder:
        shutil.copytree(bundle, kept(folder, task, method), dirs_exist_ok=True)


def retimed(rows: list[Row], names: list[str], places: Places, o: argparse.Namespace) -> list[Row]:
    """Rows of some tasks with the times of now, of the bundles that were kept."""
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        found, benches = list[Row](), dict[str, Bench]()
        for row in rows:
            exact = kept(o.keep, row.task, ORIGINAL.name)
            bundle = kept(o.keep, row.task, row.method)
            if row.task in names and row.timing and exact.exists() and bundle.exists():
                if row.task not in benches:
                    benches[row.task] = Bench(task(row.task, places), Path(folder), o)
                row = replace(row, timing=timed(exact, bundle, Path(folder) / "one.npz", o))
                tell(row)
            found.append(row)
    return found


def compiled(model: Path, out: Path, o: argparse.Namespace) -> Path:
    """A peer's model as a bundle of our exact pipeline."""
    return graphopt.optimize(model, o.target, threads=o.threads, check=False).save(out)


def weigh(model: Path) -> Weight:
    """What an ONNX file weighs once our exact passes have folded what is constant."""
    size = Size.of(graphopt.optimize(model, None, check=False).module)
    return Weight(size.macs, size.parameters, model.stat().st_size)


def chosen(o: argparse.Namespace) -> Iterator[Method]:
    """The methods to run, the original first."""
    yield ORIGINAL
    wanted: list[str] = o.methods.split(",")
    for method in methods(o.distill):
        if any(fnmatchcase(method.name, w) for w in wanted):
            yield method
    for text in o.also:
        name, _, passes = text.partition("=")
        yield ours(name, passes)


def earlier(o: argparse.Namespace) -> list[Row]:
    """Rows of an earlier run that still count."""
    told: list[dict[str, Any]] = []
    if o.json and o.json.exists():
        told = json.loads(o.json.read_text())
    rows = map(Row.read, told)
    return [r for r in rows if not any(fnmatchcase(r.method, p) for p in o.refresh)]


def run(name: str, places: Places, o: argparse.Namespace, known: Known) -> Iterator[Row]:
    """Rows of a task, those that aren't known."""
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        bench: Bench | None = None
        for method in chosen(o):
            old = known.get((name, method.name, method.options.get("passes", "")))
            if old and not old.made.error:
                continue
            bench = bench or Bench(task(name, places), Path(folder), o)
            yield bench.measure(method)


def merged(rows: list[Row], row: Row) -> list[Row]:
    """Rows with one more, in the place of the one before of its task and method."""
    key = (row.task, row.method)
    at = next((i for i, r in enumerate(rows) if (r.task, r.method) == key), len(rows))
    return [*rows[:at], row, *rows[at + 1 :]]


def tell(row: Row) -> None:
    """One line of progress."""
    told = row.made.error or f"{row.metric} {row.score:.2f}"
    if row.drop and row.timing:
        told += f" ({row.drop.points:+.2f}), {row.timing.faster[0]:.2f} x, {row.made.seconds:.0f} s"
    print(f"{row.task}, {row.method}: {told}", file=sys.stderr, flush=True)


def save(rows: list[Row], o: argparse.Namespace) -> None:
    """Keep the rows."""
    if o.json:
        o.json.write_text(json.dumps([asdict(r) for r in rows], indent=1))


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--zoo", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--data", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--tasks", default=",".join(TASKS), metavar="NAME,...")
    parser.add_argument("--methods", default="*", metavar="TEXT,...")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=PASSES")
    parser.add_argument("--distill", default=DISTILL, help="how rows are trained: %(default)s")
    parser.add_argument("--samples", type=int, default=4660, help="to compress with")
    parser.add_argument("--evaluate", type=int, help="at most so many samples (default: all)")
    parser.add_argument("--target", default="x86")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="to time each of the two")
    parser.add_argument("--timer", default="", metavar="CMD")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--refresh", action="append", default=[], metavar="PATTERN")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the bundles there")
    parser.add_argument("--retime", action="store_true", help="only time what was kept once more")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    o = parser.parse_args()
    unknown = set(o.tasks.split(",")) - set(TASKS)
    if unknown:
        parser.error(f"no task {', '.join(sorted(unknown))}; there are {', '.join(TASKS)}")
    if o.retime and not (o.keep and o.json):
        parser.error("--retime needs --keep and --json of an earlier run")
    return o


def main() -> int:
    """Measure every task that has its files."""
    o = options()
    places = Places(tuple(o.zoo), tuple(o.data), o.samples, o.evaluate)
    rows = earlier(o)
    known = {(r.task, r.method, r.passes): r for r in rows}

    def take(row: Row) -> list[Row]:
        rows[:] = merged(rows, row)
        tell(row)
        return rows

    if o.retime:
        rows = retimed(rows, o.tasks.split(","), places, o)
        save(rows, o)
    tasks = () if o.retime else o.tasks.split(",")
    skipped = collect(tasks, lambda name: run(name, places, o, known), take, o.json, MissingError)
    finish(sheets(rows), skipped, o.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
