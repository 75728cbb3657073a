"""Verify the files of this folder against MANIFEST.toml.

Usage: python models/check.py

Compares the SHA-256 of each model and data file and measures each metric anew, on the
shipped data, with ONNX Runtime. Needs numpy and onnxruntime only. Exits with 1 on a mismatch.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from metrics import measure, sha256

TOLERANCE = 0.2
ROW = "{:<20} {:>7} {:>8} {:>7}  {:<8} {:>8} {:>8}  {}"
TITLES = ("model", "KiB", "params", "samples", "metric", "expected", "measured", "verdict")

Entry = dict[str, Any]


def load_manifest(folder: Path) -> list[Entry]:
    """Return the entries of MANIFEST.toml."""
    return tomllib.loads((folder / "MANIFEST.toml").read_text(encoding="utf-8"))["model"]


def find_problems(entry: Entry, folder: Path) -> tuple[list[str], float]:
    """Check one model.

    Returns:
        What is wrong, in words (empty if nothing is), and the measured metric.
    """
    problems: list[str] = []
    for file_key, digest_key in (("file", "sha256"), ("data", "data_sha256")):
        if sha256(folder / entry[file_key]) != entry[digest_key]:
            problems.append(f"sha256 of {entry[file_key]} differs")
    with np.load(folder / entry["data"]) as archive:
        arrays = dict(archive)
    if len(arrays["labels"]) != entry["shipped_samples"]:
        problems.append("number of samples differs")
    value = measure(folder / entry["file"], entry["metric"], arrays)
    if abs(value - entry["shipped_value"]) > TOLERANCE:
        problems.append(f"{entry['metric']} differs")
    return problems, value


def check(entry: Entry, folder: Path) -> bool:
    """Check one model, print its row and return whether all is well."""
    problems, value = find_problems(entry, folder)
    row = (
        entry["name"],
        (folder / entry["file"]).stat().st_size // 1024,
        entry["parameters"],
        entry["shipped_samples"],
        entry["metric"],
        f"{entry['shipped_value']:.2f}",
        f"{value:.2f}",
        "; ".join(problems) or "ok",
    )
    print(ROW.format(*row), flush=True)
    return not problems


def main() -> int:
    """Check every model and return the exit status."""
    folder = Path(__file__).resolve().parent
    print(ROW.format(*TITLES))
    results = [check(entry, folder) for entry in load_manifest(folder)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
