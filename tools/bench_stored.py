"""Entropy-coded weights: bits a weight, bytes, time to load, and what the passes before cost.

    python tools/bench_stored.py MODEL.onnx DATA.npz [--passes TEXT ...]

DATA is keyed by input name, with labels. Prints one Markdown row for each pipeline and storage.
Loading is from opening a bundle to a context that can run: the median of LOADS, those of `plain` and
of the bundle as it is taking turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import graphopt
from graphopt.report.model import Report
from graphopt.runtime import Session
from graphopt.targets.base import Build
from graphopt.targets.stored.blob import Storage

LOADS = 15
STORAGES: dict[str, Storage] = {"auto": "auto", "coded": "coded", "plain": "plain"}
INT8 = "default,calibrate,quantize"
ROWS = (
    ("default", "coded"),
    (INT8, "auto"),
    (INT8, "coded"),
    ("default,sparsify{pattern=2:4}", "auto"),
    ("default,sparsify{ratio=0.7}", "auto"),
    ("default,cluster{bits=4}", "auto"),
    ("default,sparsify{ratio=0.7},cluster{bits=4}", "auto"),
    ("default,sparsify{ratio=0.5},calibrate,quantize", "coded"),
)


def load_ms(place: Path) -> float:
    """Milliseconds to open a bundle."""
    began = time.perf_counter()
    with Session(place, 1, verify=False):
        return 1e3 * (time.perf_counter() - began)


def built(model: Path, data: Path, passes: str, storage: str, place: Path) -> Report:
    """Make a bundle."""
    found = STORAGES[storage]
    result = graphopt.optimize(str(model), "x86", passes, str(data), build=Build(storage=found))
    result.save(place)
    return result.report


def row(model: Path, data: Path, passes: str, storage: str) -> str:
    """One pipeline, as it is stored and plain."""
    with tempfile.TemporaryDirectory() as folder:
        places = {how: Path(folder) / how for how in ("plain", storage)}
        reports = {how: built(model, data, passes, how, place) for how, place in places.items()}
        times = [[load_ms(p) for p in places.values()] for _ in range(LOADS)]
        report = reports[storage]
        told = json.loads((places[storage] / "manifest.json").read_text())
    plain, ours = (statistics.median(t) for t in zip(*times, strict=True))
    lost = "exact"
    for one in report.losses:
        right = f"{one.drop.mean:+.2f} ({one.drop.low:+.2f} to {one.drop.high:+.2f})"
        lost = f"{right}, {one.sqnr_db:.1f} dB"
    assert report.storage
    cells = (
        model.stem, f"`{passes}`", storage, f"{report.storage.bits:.2f}",
        f"{told['stored_bytes'] / 1e3:.1f}", f"{told['weight_bytes'] / 1e3:.1f}",
        f"{ours:.2f} / {plain:.2f}", lost,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description="Entropy-coded weights, measured.")
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--passes", nargs="*")
    args = parser.parse_args()
    rows = [(p, "auto") for p in args.passes] if args.passes else ROWS
    for passes, storage in rows:
        print(row(args.model, args.data, passes, storage), flush=True)


if __name__ == "__main__":
    main()
