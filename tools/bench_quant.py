"""What int8 costs in accuracy: graphopt's calibrations against ONNX Runtime's and NNCF's.

    python tools/bench_quant.py --zoo DIR --data DIR [--only NAME] [--methods TEXT,...]
                                [--peer-python VENV/bin/python] [--fresh] [--json FILE] [--markdown FILE]

Every method gets the same float32 model and the same calibration samples (`--samples`, of training
data), in a process of its own under a limit of memory, and writes standard ONNX with
QuantizeLinear and DequantizeLinear. All files are evaluated alike: in ONNX Runtime on the CPU with
its optimizer off, on the same held-out samples. *Drop* is the paired difference to float32 in
points of the metric, with its 95 % interval and the chance of so much if nothing had changed;
*agree* the part of decisions that are float32's; *SQNR* that of the first output over all samples
(of what the last softmax reads where the model ends in one). *int8* counts the products (convolutions,
matrix products) of two dequantized integers, and all of them. *s* is the time to calibrate and quantize, in
wall and CPU seconds, *peak* the largest resident set of the process.

The peers' Python needs `pip install nncf onnxruntime onnx sympy`. With --reuse FILE, rows that an
earlier --json has are taken from there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from quant_bench.evaluate import outputs
from quant_bench.integers import integer_layers
from quant_bench.methods import METHODS, Made, Method, make
from quant_bench.metrics import Array, paired_drop, sqnr
from quant_bench.table import Row, sheets
from quant_bench.task import MissingError, Places, Task
from quant_bench.tasks import TASKS
from tables import collect, finish

Known = dict[tuple[str, str], Row]


@dataclass
class Bench:
    """One task: its float32 outputs, and a folder for what the methods write."""

    task: Task
    folder: Path
    threads: int
    before: Array = field(init=False)
    scores: Array = field(init=False)

    def __post_init__(self) -> None:
        """Run float32, write the calibration samples."""
        samples: Any = self.task.calibration
        np.savez(self.folder / "calibration.npz", **samples)
        self.before = outputs(self.task, self.task.model, self.threads)
        self.scores = self.task.score(self.before)

    def row(self, method: str, **values: Any) -> Row:
        """A row of this task."""
        t = self.task
        return Row(t.name, t.family, t.metric, len(self.scores), method, **values)

    def float32(self) -> Row:
        """The row of the original."""
        size = self.task.model.stat().st_size
        return self.row("float32", score=100 * float(self.scores.mean()), file_bytes=size)

    def measure(self, method: Method, o: argparse.Namespace) -> Row:
        """Quantize by a method and evaluate."""
        out = self.folder / "quantized.onnx"
        out.unlink(missing_ok=True)
        job = {"model": str(self.task.model), "data": str(self.folder / "calibration.npz"),
               "out": str(out), "memory": int(o.memory * 1e9), "transformer": self.task.transformer}  # fmt: skip
        made = make(method, job, o.peer_python)
        if made.error:
            return self.row(method.name, made=made)
        if o.keep:
            o.keep.mkdir(parents=True, exist_ok=True)
            kept = f"{self.task.name}.{method.name.replace(' ', '_')}.onnx"
            (o.keep / kept).write_bytes(out.read_bytes())
        try:
            after = outputs(self.task, out, self.threads)
        except Exception as why:  # ONNX Runtime has classes of its own for what it can't run
            return self.row(method.name, made=Made(error=f"doesn't run: {why}"[:300]))
        scores = self.task.score(after)
        return self.row(
            method.name, score=100 * float(scores.mean()), drop=paired_drop(self.scores, scores),
            agreement=self.task.agreement(self.before, after), sqnr=sqnr(self.before, after),
            extra={n: compare(self.before, after) for n, compare in self.task.extra.items()},
            layers=integer_layers(out), file_bytes=out.stat().st_size, made=made,
        )  # fmt: skip


def chosen(o: argparse.Namespace, task: Task) -> Iterator[Method]:
    """The methods to run on a task."""
    wanted: list[str] = o.methods.split(",")
    for method in METHODS:
        named = any(fnmatchcase(method.name, w) for w in wanted)
        if named and (task.transformer or not method.transformers_only):
            yield method


def earlier(path: Path | None) -> Known:
    """Rows of an earlier run, by task and method."""
    told: list[dict[str, Any]] = json.loads(path.read_text()) if path else []
    return {(row.task, row.method): row for row in map(Row.read, told)}


def run(name: str, places: Places, o: argparse.Namespace, known: Known) -> Iterator[Row]:
    """All rows of a task."""
    task = TASKS[name](places)
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        bench = Bench(task, Path(folder), o.threads)
        yield bench.float32()
        for method in chosen(o, task):
            yield known.get((name, method.name)) or bench.measure(method, o)


def tell(row: Row) -> None:
    """One line of progress."""
    told = row.made.error or f"{row.metric} {row.score:.2f}"
    if row.sqnr is not None:
        told += f", SQNR {row.sqnr:.1f} dB, {row.made.seconds:.1f} s"
    print(f"{row.task}, {row.method}: {told}", file=sys.stderr, flush=True)


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--zoo", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--data", type=Path, action="append", default=[], metavar="DIR")
    names, methods = ", ".join(TASKS), ", ".join(m.name for m in METHODS)
    parser.add_argument("--only", action="append", choices=TASKS, metavar="NAME", help=names)
    told = f"names or patterns, by commas: {methods}"
    parser.add_argument("--methods", default="*", metavar="TEXT,...", help=told)
    parser.add_argument("--samples", type=int, default=300, help="to calibrate on")
    parser.add_argument("--evaluate", type=int, help="at most so many samples (default: all)")
    parser.add_argument("--fresh", action="store_true", help="CIFAR-10 and Fashion-MNIST: evaluate on "
                        "training samples that nobody calibrates on")  # fmt: skip
    parser.add_argument("--memory", type=float, default=8.0, help="limit of a method's data in GB")
    parser.add_argument("--threads", type=int, default=2, help="of the evaluator")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--reuse", type=Path, metavar="FILE")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the quantized models there")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args()


def main() -> int:
    """Measure every task that has its files."""
    o = options()
    places = Places(tuple(o.zoo), tuple(o.data), o.samples, o.evaluate, o.fresh)
    known, rows = earlier(o.reuse), list[Row]()

    def take(row: Row) -> list[Row]:
        rows.append(row)
        tell(row)
        return rows

    skipped = collect(o.only or TASKS, lambda name: run(name, places, o, known), take, o.json,
                      MissingError)  # fmt: skip
    finish(sheets(rows), skipped, o.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
