"""Latency of compiled bundles against ONNX Runtime and OpenVINO, on the same threads.

    python tools/bench_latency.py --zoo DIR [MODEL...] [--threads 1,2] [--batch 8] [--cold]
                                  [--input-shape NAME=1x3x64x64] [--type bf16|int8] [--json FILE]
                                  [--keep DIR] [--prepare]

Inputs that stay dynamic get fixed sizes, those of --input-shape where a model has such an input;
--batch changes a symbolic batch. All run the same seeded
input in this process, in turns (A B C A B C ...), so that drift of the machine hits all; each turn
begins with a pause and a run that isn't timed, so that threads of another which still spin (ONNX
Runtime's for 27 ms) don't count; then come timed runs one after another. ONNX
Runtime has all its optimizations on; OpenVINO, if it is installed (extra `bench`), its latency
hint, in float32 or in the model's own integers. Both get the model with the same fixed shapes. A
quantized model (QDQ) is timed as it is in all of them. `x` is the better peer's time by ours:
above 1 we are faster. The geometric means are over models with a square image as input (`vision`),
and over all. --type bf16 times our `half` and OpenVINO's bfloat16 instead (ONNX Runtime has none on
CPUs and stays float32), and prints the error of each against ONNX Runtime's float32: its largest,
of an output's range, and the ratio of signal to error. --type int8 quantizes by
`calibrate,quantize` on seeded inputs; the peers get that file (ONNX, QDQ) and one by ONNX Runtime's
own quantizer (u8 activations, s8 weights by channel) on the same inputs, and the faster counts.
`compile s` is the time to plan, compile and link; with --cold from an empty cache of kernels.
--prepare does what needs no quiet machine (kernels into the user's cache, the peers' quantized
models into the folder --keep) and times nothing; tools/bench_tables.py makes tables of many runs. `of
roofline` is the share of this machine's measured roofline that our kernels reach together, and
`compute` that of the kernels that arithmetic bounds, with their share of the time.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import json
import math
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
import peers

import graphopt
from graphopt.analysis.bind import bind
from graphopt.analysis.interpret import random_inputs
from graphopt.cli.options import parse_shapes
from graphopt.cli.peers import openvino_run
from graphopt.data import seeded_runs
from graphopt.loss import decibels
from graphopt.measure import interleave
from graphopt.onnx import Reference
from graphopt.targets.base import Build

ort: Any = onnxruntime  # its annotations are incomplete
files: Any = onnx  # and so are its
Feed = Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...]]
PASSES = {"f32": "default", "bf16": "default,half", "int8": "default,calibrate,quantize"}
LEAST = 3  # rounds of timed runs; the slowest models get no more
OPSET = 13  # the first whose QuantizeLinear has a scale for each channel
SAMPLES = 8  # seeded inputs that ranges come from: their times don't depend on the numbers


@dataclass
class Reached:
    """Shares of the roofline: of all kernels, of those that arithmetic bounds; their time's share."""

    all: float
    compute: float
    share: float


@dataclass
class Timing:
    """Milliseconds on a number of threads: medians and minima by name, ours as `ours`."""

    threads: int
    runs: int
    median: dict[str, float]
    least: dict[str, float]
    reached: Reached

    @property
    def ratio(self) -> float:
        """The better peer's median by ours."""
        return _better(self.median)

    @property
    def ratio_min(self) -> float:
        """The better peer's minimum by ours."""
        return _better(self.least)


def _better(times: Mapping[str, float]) -> float:
    return min(t for name, t in times.items() if name != "ours") / times["ours"]


@dataclass
class Row:
    """One model."""

    model: str
    vision: bool
    calls: int = 0
    segments: int = 0
    compile_seconds: float = 0.0
    timings: list[Timing] = field(default_factory=list[Timing])
    errors: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    error: str = ""


def fixed_feed(path: Path, batch: int, shapes: Shapes | None = None) -> Feed:
    """Seeded inputs that ONNX Runtime runs, of shapes given, and of a batch that is left open."""
    module = graphopt.load(path)
    names = {a.hint for a in module.main.args}
    symbolic = {
        a.hint for a in module.main.args if not isinstance((a.tensor.shape or (1,))[0], int)
    }
    given = {name: shape for name, shape in (shapes or {}).items() if name in names}
    bind(module, given)
    if batch > 1 and not symbolic:
        raise graphopt.GraphoptError(f"{path}: its batch is fixed")
    for a in (a for a in module.main.args if batch > 1 and a.hint in symbolic):
        if a.tensor.static is None:
            raise graphopt.GraphoptError(f"{path}: the sizes of {a.hint} are open: --input-shape")
        given[a.hint] = (batch, *a.tensor.static[1:])
    module = graphopt.load(path, input_shapes=given or None)
    bind(module)
    (feed,), _ = seeded_runs(module, Reference(path).run, 1)
    return feed


def is_vision(feed: Feed) -> bool:
    """Whether an input is a square image."""
    shapes = [a.shape for a in feed.values()]
    return any(len(s) == 4 and s[2] >= 28 and s[2] in (s[1], s[3]) for s in shapes)


@dataclass(frozen=True)
class Files:
    """A model as all runs get it: its shapes fixed, and (int8) quantized by ONNX Runtime."""

    fixed: Path
    quantized: Path | None = None


def prepare(path: Path, feed: Feed, o: argparse.Namespace, folder: Path) -> Files:
    """Write what the peers read; what ONNX Runtime quantized is kept where the user wants it."""
    shapes = {k: tuple(v.shape) for k, v in feed.items()}
    fixed = folder / "fixed.onnx"
    graphopt.load(path, input_shapes=shapes).save(str(fixed))
    if o.type != "int8":
        return Files(fixed)
    key = hashlib.sha256(fixed.read_bytes() + ort.__version__.encode()).hexdigest()[:24]
    quantized = (o.keep or folder) / f"{path.stem}-{key}.onnx"
    if not quantized.exists():
        quantized.parent.mkdir(parents=True, exist_ok=True)
        quantize(str(fixed), str(folder / "own.onnx"))
        shutil.copy(folder / "own.onnx", quantized)
    return Files(fixed, quantized)


def peer_runs(
    bundle: Path, files: Files, feed: Feed, threads: int, type_: str
) -> dict[str, Callable[[], Any]]:
    """Runs of the model with its shapes fixed, in each peer at its best."""
    models = {"": files.quantized or files.fixed}
    if files.quantized:
        models[" on our QDQ"] = bundle / "model.onnx"
    found: dict[str, Callable[[], Any]] = {}
    for name, file in models.items():
        try:
            found[f"ORT{name}"] = onnxruntime_run(str(file), feed, threads)
        except invalid_graph() as e:  # as files of its own quantizer may be
            print(f"ONNX Runtime refuses {file.name}: {str(e)[:200]}", file=sys.stderr)
            continue
        if importlib.util.find_spec("openvino"):
            hint = "bf16" if type_ == "bf16" else "f32"
            found[f"OpenVINO{name}"] = openvino_run(file, feed, threads, hint)
    if type_ != "f32":
        found["float32"] = onnxruntime_run(str(files.fixed), feed, threads)
    return found


def samples(path: Path, feed: Feed | None = None) -> list[Feed]:
    """Seeded inputs that ranges are taken of, of the shapes of `feed`."""
    shapes = {k: tuple(v.shape) for k, v in feed.items()} if feed else None
    module = graphopt.load(path, input_shapes=shapes)
    bind(module)
    return [random_inputs(module, seed) for seed in range(SAMPLES)]


def quantize(path: str, out: str) -> None:
    """By ONNX Runtime's quantizer, whose files of channels' scales are of opset 13 at least."""
    tools: Any = importlib.import_module("onnxruntime.quantization")
    feeds = iter(samples(Path(path)))

    class Reader(tools.CalibrationDataReader):
        def get_next(self) -> Feed | None:
            return next(feeds, None)

    before, raised = f"{out}.pre", f"{out}.raised"
    model: Any = files.load(path)
    if any(o.domain in ("", "ai.onnx") and o.version < OPSET for o in model.opset_import):
        files.save(onnx.version_converter.convert_version(model, OPSET), raised)
        path = raised
    tools.shape_inference.quant_pre_process(path, before, skip_symbolic_shape=True)
    u8, s8 = tools.QuantType.QUInt8, tools.QuantType.QInt8
    tools.quantize_static(before, out, Reader(), quant_format=tools.QuantFormat.QDQ,
                          per_channel=True, activation_type=u8, weight_type=s8)  # fmt: skip


def invalid_graph() -> type[Exception]:
    """ONNX Runtime's error for a model that isn't one."""
    return importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state").InvalidGraph


def onnxruntime_run(path: str, feed: Feed, threads: int) -> Callable[[], Any]:
    """ONNX Runtime with all optimizations."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, dict(feed))


def time_all(
    bundle: Path, files: Files, feed: Feed, threads: int, o: argparse.Namespace
) -> tuple[Timing, dict[str, tuple[float, float]]]:
    """All on some threads, in turns; the errors of all but ONNX Runtime."""
    runs = peer_runs(bundle, files, feed, threads, o.type)
    with graphopt.Session(bundle, threads=threads) as session:
        runs = {"ours": lambda: session.run(feed), **runs}
        found = {name: list(map(np.asarray, _values(run()))) for name, run in runs.items()}
        reference = found.pop("float32", None) or found.pop("ORT")
        runs.pop("float32", None)
        rows = interleave(runs, o.seconds, least=LEAST)
    errors = {name: _error(reference, got) for name, got in found.items()}
    ms = {name: [1000 * s for s in times] for name, times in rows.items()}
    median = {name: statistics.median(times) for name, times in ms.items()}
    least = {n: min(times) for n, times in ms.items()}
    reached = roofline(bundle, feed, threads, o.seconds)
    return Timing(threads, len(ms["ours"]), median, least, reached), errors


def roofline(bundle: Path, feed: Feed, threads: int, seconds: float) -> Reached:
    """What our kernels reach of the roofline (nan: there is none)."""
    layers = graphopt.profile(bundle, dict(feed), threads=threads, seconds=seconds).layers
    known = [e for e in layers if e.roofline_us]
    bound = [e for e in known if e.bound == "compute"]
    total = sum(e.us for e in layers)

    def share(chosen: Sequence[Any]) -> float:
        took = sum(e.us for e in chosen)
        return sum(e.roofline_us for e in chosen) / took if took else math.nan

    return Reached(share(known), share(bound), sum(e.us for e in bound) / total)


def _values(outputs: Any) -> list[Any]:
    return list(outputs.values()) if hasattr(outputs, "values") else list(outputs)


def _error(reference: Sequence[Any], got: Sequence[Any]) -> tuple[float, float]:
    """The largest error of the float outputs, of an output's range, and decibels of signal."""
    worst = signal = noise = 0.0
    for want, have in zip(reference, got, strict=True):
        if want.dtype.kind == "f" and want.size:
            apart = have.astype(np.float64) - want
            worst = max(worst, float(np.abs(apart).max() / max(np.abs(want).max(), 1e-30)))
            signal += float(np.sum(want.astype(np.float64) ** 2))
            noise += float(np.sum(apart**2))
    return worst, decibels(signal, noise)


def measure(path: Path, o: argparse.Namespace, cache: Path | None) -> Row:
    """Compile a model and time it."""
    row = Row(path.stem, False)
    try:
        feed = fixed_feed(path, o.batch, o.shapes)
        row.vision = is_vision(feed)
        result = graphopt.optimize(
            path, o.target, PASSES[o.type], samples(path, feed) if o.type == "int8" else None,
            {k: tuple(v.shape) for k, v in feed.items()},
            build=Build(jobs=o.jobs, cache=cache), check=False,
        )  # fmt: skip
    except graphopt.GraphoptError as why:
        row.error = str(why)
        return row
    assert result.bundle
    assert result.program
    row.calls, row.segments = len(result.program.steps), len(list(result.program.fallbacks()))
    row.compile_seconds = result.report.seconds["compile"]
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        files = prepare(path, feed, o, Path(folder))
        for t in () if o.prepare else o.threads:
            timing, row.errors = time_all(result.bundle, files, feed, t, o)
            row.timings.append(timing)
    return row


def mean(rows: Sequence[Row], index: int, best: bool) -> float:
    """Geometric mean of the ratios at one number of threads."""
    timings = [r.timings[index] for r in rows if r.timings]
    return math.exp(statistics.fmean(math.log(t.ratio_min if best else t.ratio) for t in timings))


def report_errors(rows: Sequence[Row]) -> None:
    """Print how far each is from float32."""
    names = next((list(r.errors) for r in rows if r.errors), list[str]())
    heads = ["model", *(f"{n} {what}" for n in names for what in ("largest error", "SQNR dB"))]
    table = [[r.model, *(f"{v:.2g}" for e in r.errors.values() for v in e)]
             for r in rows if r.errors]  # fmt: skip
    print(peers.table(table, heads))


def report(rows: Sequence[Row], threads: Sequence[int]) -> None:
    """Print the table and the means."""
    names = next((list(t.median) for r in rows for t in r.timings), list[str]())
    heads = ["model", "calls", "segments", "compile s"]
    for t in threads:
        heads += [f"{name} ms {t}t" if name == "ours" else name for name in names] + ["x", "x min"]
        heads += ["of roofline", "compute"]
    table: list[list[Any]] = []
    for r in (r for r in rows if not r.error):
        label = r.model + ("" if r.vision else " *")
        cells: list[Any] = [label, r.calls, r.segments, r.compile_seconds]
        for t in r.timings:
            cells += [*t.median.values(), t.ratio, t.ratio_min, f"{t.reached.all:.0%}"]
            cells.append(f"{t.reached.compute:.0%} in {t.reached.share:.0%}")
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
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--input-shape", action="append", metavar="NAME=1x3x64x64",
                        help="of the models that have such an input")  # fmt: skip
    parser.add_argument("--type", choices=sorted(PASSES), default="f32", help="of the weights")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each of the two")
    parser.add_argument("--cold", action="store_true", help="compile from an empty cache")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="of the peers' quantized models")
    parser.add_argument("--prepare", action="store_true", help="compile and quantize, time nothing")
    parser.add_argument("--json", type=Path)
    o = parser.parse_args()
    o.shapes = parse_shapes(o.input_shape)
    rows: list[Row] = []
    for path in peers.find_models([*o.zoo, *o.models]):
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            rows.append(measure(path, o, Path(folder) if o.cold else None))
        last = rows[-1]
        told = last.error or ", ".join(f"{t.threads}t x {t.ratio:.2f}" for t in last.timings)
        print(f"{path.stem}: {told}", file=sys.stderr, flush=True)
    report(rows, () if o.prepare else o.threads)
    if o.type != "f32":
        report_errors(rows)
    if o.json:
        o.json.write_text(json.dumps([asdict(r) for r in rows], indent=1))
    return any(r.error for r in rows)


if __name__ == "__main__":
    sys.exit(main())
