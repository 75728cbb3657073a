"""Instructions of one inference on ARM: compiled by graphopt, and in peers, under the same qemu.

    python tools/bench_arm.py MODEL[:INPUT=1x3x224x224]... --system DIR [--cpu cortex-a72,...]
        [--type fp32,int8] [--engines ours,ort,ort-our,ncnn,litert] [--pnnx FILE] [--litert VENV/bin/python]
        [--json FILE] [--markdown FILE]
    python tools/bench_arm.py --quick MODEL...             # ours alone: no network, no peers

Every engine runs the same model on the same seeded input, on one thread, as exactly the CPU asked
for (`qemu -cpu`, and a /proc/cpuinfo of it). Counted are the instructions, exactly, of the third
inference in a process (ours: of the second), between two system calls that change nothing: loading, packing
and the first inference's allocations aren't in it. *code* is the library's bytes without weights.

ONNX Runtime has all its optimizations on and inputs and outputs bound; for int8 it gets the model by
its own quantizer (signed, by channel), and ours (QDQ). ncnn gets the model by pnnx, in float32; LiteRT
(XNNPACK) by onnx2tf, for int8 from its own quantizer (ai-edge-quantizer). All take their ranges from the same seeded inputs. The
ARM system, made once in --system by apt-get download and pip download, is Debian's Python with the
peers' aarch64 wheels: see tools/arm_bench/system.py. *error* is the largest difference to ONNX
Runtime's float32 output on this computer, of its range.

Rows that --json has already aren't measured again, but for those that failed, and for ours with
--again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from arm_bench import mca, ours, peers
from arm_bench.system import MissingError, System
from arm_bench.table import Row, sheets
from bench_latency import fixed_feed, samples
from tables import markdown, show

import graphopt
from graphopt.errors import GraphoptError
from graphopt.onnx import Reference
from graphopt.targets import machine
from graphopt.targets.emulator import qemu

ENGINES = ("ours", "ort", "ort-our", "ncnn", "litert")
Known = dict[tuple[str, ...], Row]


@dataclass
class Case:
    """A model of fixed shapes, its input, inputs for ranges, and what it should compute."""

    name: str
    folder: Path
    fixed: Path
    feed: Mapping[str, Any]
    ranges: Sequence[Mapping[str, Any]]
    wanted: list[Any]

    @property
    def data(self) -> Path:
        """The inputs for ranges, as graphopt's --data."""
        return self.folder / "data.npz"

    def bundle(self, kind: str, cpu: str) -> Path:
        """Where our library for a CPU lies."""
        return self.folder / f"{kind}.{cpu}.graphopt"

    def error(self, outputs: list[Any]) -> float | None:
        """The largest difference of an output, of its range; None where none has its size."""
        pairs = list(zip(self.wanted, outputs, strict=False))
        if len(outputs) != len(self.wanted) or any(a.size != b.size for a, b in pairs):
            return None
        return max(float(np.abs(a - _alike(b, a)).max() / (np.ptp(a) or 1.0)) for a, b in pairs)


def _alike(got: Any, wanted: Any) -> Any:
    """In the wanted's layout: a peer may leave out axes of 1, or have channels last."""
    if got.ndim == 4 == wanted.ndim and got.shape != wanted.shape:
        got = np.moveaxis(got, -1, 1)
    return got.reshape(wanted.shape)


def prepare(text: str, folder: Path) -> Case:
    """Fix a model's shapes (`PATH` or `PATH:INPUT=1x3x224x224`) and make its inputs."""
    path, _, shape = text.partition(":")
    name, _, sizes = shape.partition("=")
    source = Path(path)
    given = {name: tuple(map(int, sizes.split("x")))} if shape else None
    place = folder / source.stem
    place.mkdir(parents=True, exist_ok=True)
    fixed = place / f"{source.stem}.onnx"
    if given is None:
        given = {k: tuple(v.shape) for k, v in fixed_feed(source, 1).items()}
    graphopt.load(source, input_shapes=given).save(str(fixed))
    feed, *ranges = samples(fixed)
    case = Case(source.stem, place, fixed, feed, ranges, list(Reference(fixed).run(feed).values()))
    stacked: Any = {k: np.stack([r[k] for r in ranges]) for k in feed}
    np.savez(case.data, **stacked)
    return case


@dataclass
class Bench:
    """What is measured, and with what."""

    options: argparse.Namespace
    system: System | None
    known: Known

    def rows(self, case: Case) -> Iterator[Row]:
        """All rows of a model, those known already as they are."""
        o = self.options
        for kind in o.type.split(","):
            for cpu in o.cpu.split(","):
                for engine in o.engines.split(","):
                    row = Row(case.name, kind, cpu, engine)
                    old = self.known.get(row.key)
                    if old and not (o.again and engine == "ours"):
                        yield old
                    elif self.applies(kind, engine):
                        yield self.tried(case, row)

    def applies(self, kind: str, engine: str) -> bool:
        """Whether an engine has such a row: QDQ is int8, our ncnn is not."""
        peers_wanted = engine == "ours" or self.system is not None
        return peers_wanted and kind != {"ort-our": "fp32", "ncnn": "int8"}.get(engine)

    def tried(self, case: Case, row: Row) -> Row:
        """The row measured, or why it couldn't be."""
        try:
            self.ours(case, row) if row.engine == "ours" else self.peer(case, row)
        except (MissingError, GraphoptError, OSError, ValueError) as why:
            row.why = f"{why}"[:300]
        tell(row)
        return row

    def ours(self, case: Case, row: Row) -> None:
        """Compile and count."""
        bundle = case.bundle(row.kind, row.cpu)
        ours.build(case.fixed, row.cpu, row.kind, case.data, bundle)
        with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
            found = ours.measure(bundle, row.cpu, case.feed, Path(name))
            target = machine.load(row.cpu)
            row.instructions, row.error = found.total, case.error(found.outputs)
            row.macs = sum(layer.macs for layer in found.program.manifest.layers)
            row.library, row.code = ours.sizes(bundle)
            row.ms = found.cycles / target.ghz / 1e6
            row.families = found.families()
            if row.kind == "fp32":
                row.loops = [asdict(loop) for loop in mca.loops(found, target)]

    def peer(self, case: Case, row: Row) -> None:
        """Convert and count."""
        assert self.system
        emulator = qemu.find(machine.load(row.cpu))
        model = self.model(case, row)
        found = peers.measure(
            self.system, emulator.command, row.engine.split("-")[0], model, case.feed
        )
        row.instructions, row.error = found.instructions, case.error(found.outputs)
        row.library = found.library

    def model(self, case: Case, row: Row) -> Path:
        """What a peer reads."""
        folder, o = case.folder, self.options
        if row.engine == "ncnn":
            return peers.to_ncnn(case.fixed, folder / "ncnn", o.pnnx)
        if row.engine == "litert":
            ranges = case.data if row.kind == "int8" else None
            return peers.to_litert(case.fixed, folder / f"litert.{row.kind}", o.litert, ranges)
        if row.kind == "fp32":
            return case.fixed
        if row.engine == "ort":
            return peers.quantized(case.fixed, folder / "own.onnx", case.ranges)
        return case.bundle("int8", row.cpu) / "model.onnx"


def tell(row: Row) -> None:
    """One line of progress."""
    told = row.why or f"{row.instructions / 1e6:.3f} M instructions, error {row.error}"
    print(f"{row.model}, {row.kind}, {row.cpu}, {row.engine}: {told}", file=sys.stderr, flush=True)


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL[:INPUT=SHAPE]")
    parser.add_argument("--system", type=Path, metavar="DIR", help="the ARM system, made there")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep what is built there")
    parser.add_argument("--cpu", default="cortex-a72,neoverse-n1")
    parser.add_argument("--type", default="fp32,int8")
    parser.add_argument("--engines", default="ours,ort,ort-our,ncnn,litert")
    parser.add_argument("--pnnx", default="pnnx", help="PyPI's pnnx, for ncnn")
    parser.add_argument(
        "--litert",
        default=sys.executable,
        metavar="PYTHON",
        help="that has onnx2tf and ai-edge-quantizer",
    )
    parser.add_argument("--quick", action="store_true", help="ours alone, on neoverse-n1")
    parser.add_argument("--again", action="store_true", help="measure ours again")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args()


def keep(o: argparse.Namespace, rows: list[Row]) -> None:
    """Write what there is so far."""
    if o.json:
        o.json.write_text(json.dumps([asdict(r) for r in rows], indent=1))
    if o.markdown:
        o.markdown.write_text(markdown(sheets(rows)))


def run(o: argparse.Namespace, folder: Path) -> list[Row]:
    """All rows."""
    known: Known = {}
    if o.json and o.json.exists():
        read = [Row(**r) for r in json.loads(o.json.read_text())]
        known = {row.key: row for row in read if not row.why}
    system = System(o.system.resolve()) if o.system and not o.quick else None
    if system:
        print(
            system.ready([e for e in ("ort", "ncnn", "litert") if e in o.engines]), file=sys.stderr
        )
    bench, rows = Bench(o, system, known), dict(known)
    for text in o.models:
        for row in bench.rows(prepare(text, folder)):
            rows[row.key] = row
            keep(o, list(rows.values()))
    return list(rows.values())


def main() -> int:
    """Measure, show; 1 where something of ours failed."""
    o = options()
    if o.quick:
        o.cpu, o.engines = "neoverse-n1", "ours"
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        rows = run(o, (o.work or Path(name)).resolve())
    show(sheets(rows))
    for row in (r for r in rows if r.why):
        print(f"{row.model}, {row.kind}, {row.cpu}, {row.engine}: {row.why}")
    keep(o, rows)
    return int(any(r.why for r in rows if r.engine == "ours"))


if __name__ == "__main__":
    sys.exit(main())
