"""The latency tables of docs/benchmarks.md: element types by batch sizes, on one and two threads.

    python tools/bench_tables.py MODEL... [--zoo DIR] [--types f32,int8,bf16] [--batches 1,8]
                                 [--threads 1,2] [--seconds 0.4] [--keep DIR] [--prepare]
                                 [--input-shape NAME=1x3x64x64] [--markdown FILE] [--remeasure]

Every table is one run of tools/bench_latency.py, which says how it measures. A model whose batch is
fixed is left out of the batches above 1, with a sentence. --remeasure first measures the machine's
roofline anew: what is kept may be of a busy machine, and what becomes int8 is chosen by prices that
rest on it; alone it does nothing else, and wants a quiet machine. --prepare compiles everything and keeps
the peers' quantized models in --keep, so that the run that follows on a quiet machine only times.
Tables are written after every row, so that a run that is cut short leaves what it has.

A line is a model on a number of threads: milliseconds (medians) of ours and of the best of ONNX
Runtime and of OpenVINO (int8: each on the file of ONNX Runtime's quantizer and on ours); `x` the
better peer's time by ours, by medians and by minima; `of roofline` what our kernels reach of what
this machine can do, and `compute` the same of those that arithmetic bounds, with their share of the
time; `error` the largest difference from ONNX Runtime's float32, of an output's range, and `SQNR`
the decibels of signal over it, of ours and of the best peer.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import bench_latency as latency
import peers

from graphopt.cli.options import parse_shapes
from graphopt.targets import machine
from graphopt.targets.roofline import UNSTEADY, host_roofline
from graphopt.targets.roofline.host import this_host

NAMES = {"f32": "float32", "bf16": "bfloat16", "int8": "int8"}
PACKAGES = ("onnxruntime", "openvino", "onnx", "apache-tvm")
HEADS = ("model", "threads", "ms", "ONNX Runtime", "OpenVINO", "x", "x of minima", "of roofline",
         "compute", "error", "SQNR dB", "peers' SQNR dB")  # fmt: skip


def lines(row: latency.Row) -> list[list[str]]:
    """The cells of a model, a list for each number of threads."""
    peers_sqnr = [d for name, (_, d) in row.errors.items() if name != "ours"]
    error, sqnr = row.errors.get("ours", (math.nan, math.nan))
    found: list[list[str]] = []
    for t in row.timings:
        theirs = {name: ms for name, ms in t.median.items() if name != "ours"}
        best = [min((ms for n, ms in theirs.items() if n.startswith(peer)), default=math.nan)
                for peer in ("ORT", "OpenVINO")]  # fmt: skip
        found.append([
            row.model, str(t.threads), *(f"{ms:.3g}" for ms in (t.median["ours"], *best)),
            f"{t.ratio:.2f}", f"{t.ratio_min:.2f}", _share(t.reached.all),
            f"{_share(t.reached.compute)} in {_share(t.reached.share)}", f"{error:.1e}",
            _decibels([sqnr]), _decibels(peers_sqnr),
        ])  # fmt: skip
    return found


def _share(part: float) -> str:
    return "-" if math.isnan(part) else f"{100 * part:.0f} %"


def _decibels(values: Sequence[float]) -> str:
    known = [v for v in values if math.isfinite(v)]
    return f"{max(known):.0f}" if known else "-"


def summary(rows: Sequence[latency.Row], threads: int) -> str:
    """The geometric means, the worst row, and what compute-bound kernels reach."""
    timed = [(r.model, t) for r in rows for t in r.timings if t.threads == threads]
    if not timed:
        return ""
    median, least = (math.exp(statistics.fmean(math.log(v) for v in values)) for values in (
        [t.ratio for _, t in timed], [t.ratio_min for _, t in timed]))  # fmt: skip
    worst, at = min(timed, key=lambda pair: pair[1].ratio)
    under = sum(t.ratio < 1 for _, t in timed)
    compute = [t.reached.compute for _, t in timed if not math.isnan(t.reached.compute)]
    reached = f"; kernels that arithmetic bounds reach {_share(statistics.median(compute))} of the " \
              "roofline (median of the models)" if compute else ""  # fmt: skip
    return (f"{threads} thread{'s' * (threads > 1)}, {len(timed)} models: geometric mean "
            f"{median:.2f} by medians, {least:.2f} by minima; least {at.ratio:.2f} ({worst}); "
            f"{under} below 1{reached}.")  # fmt: skip


def markdown(kind: str, batch: int, rows: Sequence[latency.Row], threads: Sequence[int]) -> str:
    """One table with its heading, means, and what was left out."""
    sums = [s for s in (summary(rows, t) for t in threads) if s]
    table = ["| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]
    table += ["| " + " | ".join(cells) + " |" for row in rows for cells in lines(row)]
    left = [f"{row.model}: {row.error.rpartition(': ')[2]}" for row in rows if row.error]
    out = f"Left out: {'; '.join(left)}." if left else ""
    parts = [f"### {NAMES[kind]}, batch {batch}", "\n".join(sums), "\n".join(table), out]
    return "\n\n".join(part for part in parts if part)


def preamble(threads: Sequence[int]) -> str:
    """When, on what, with which versions and peaks."""
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in PACKAGES if _installed(p))
    told = [f"Measured on {time.strftime('%Y-%m-%d')}: {this_host().name} (machine file "
            f"`{machine.detect().name}`), Linux {platform.release()}; {versions}."]  # fmt: skip
    for t in threads:
        roof = host_roofline(t)
        peaks = ", ".join(f"{rate:.0f} G {unit}" for unit, rate in sorted(roof.peaks.items()))
        rates = ", ".join(f"{roof.bytes_a_second(n) / 1e9:.0f} GB/s in {size}" for n, size in (
            (1 << 15, "32 KiB"), (1 << 19, "512 KiB"), (1 << 23, "8 MiB"), (1 << 28, "256 MiB"),
        ))  # fmt: skip
        doubt = "" if roof.steady else f" {UNSTEADY.capitalize()}."
        told.append(f"{t} thread{'s' * (t > 1)}: {peaks} operations a second; {rates}.{doubt}")
    return "\n".join(told)


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def options(o: argparse.Namespace, kind: str, batch: int) -> argparse.Namespace:
    """What `bench_latency.measure` reads."""
    return argparse.Namespace(
        target=o.target, type=kind, batch=batch, threads=o.threads, seconds=o.seconds,
        jobs=o.jobs, keep=o.keep, prepare=o.prepare, cold=False, shapes=o.shapes,
    )  # fmt: skip


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )

    def numbers(text: str) -> list[int]:
        return [int(n) for n in text.split(",")]

    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    parser.add_argument("--zoo", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--target", default="x86")
    parser.add_argument("--types", type=lambda s: s.split(","), default=["f32", "int8", "bf16"])
    parser.add_argument("--batches", type=numbers, default=[1, 8])
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--input-shape", action="append", metavar="NAME=1x3x64x64",
                        help="of the models that have such an input; their batch is --batches'")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=0.4, help="for each of those timed")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="of the peers' quantized models")
    parser.add_argument("--prepare", action="store_true", help="compile and quantize, time nothing")
    parser.add_argument("--remeasure", action="store_true", help="the roofline, first")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    o = parser.parse_args()
    o.shapes = parse_shapes(o.input_shape)
    unknown = [t for t in o.types if t not in NAMES]
    if unknown:
        parser.error(f"no type {unknown[0]!r}; there are {', '.join(NAMES)}")
    return o


def main() -> int:
    """Make all tables."""
    o = arguments()
    for t in o.threads if o.remeasure else ():
        host_roofline(t, remeasure=True)
    found = [] if o.prepare else [preamble(o.threads)]
    failed = False
    for batch, kind in ((b, k) for b in o.batches for k in o.types):
        rows: list[latency.Row] = []
        for path in peers.find_models([*o.zoo, *o.models]):
            began = time.perf_counter()
            rows.append(latency.measure(path, options(o, kind, batch), None))
            row = rows[-1]
            failed = failed or bool(row.error and not row.error.endswith("its batch is fixed"))
            told = row.error or " ".join(f"{t.threads}t x {t.ratio:.2f}" for t in row.timings)
            took = time.perf_counter() - began
            print(f"{kind} batch {batch} {path.stem}: {told} ({took:.0f} s)", file=sys.stderr,
                  flush=True)  # fmt: skip
            if o.markdown and not o.prepare:
                text = "\n\n".join([*found, markdown(kind, batch, rows, o.threads)])
                o.markdown.write_text(text + "\n", "utf-8")
        if not o.prepare:
            found.append(markdown(kind, batch, rows, o.threads))
    print("\n\n".join(found))
    return failed


if __name__ == "__main__":
    sys.exit(main())
