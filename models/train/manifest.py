"""Writing of the shipped data and of MANIFEST.toml, with every metric measured on the way."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from metrics import Array, measure, sha256

Value = str | int | float
HEADER = """\
# The models in this folder. Written by the scripts in train/, checked by check.py.
# Metrics are percentages, measured with ONNX Runtime, its graph optimizer switched off:
# `shipped_value` on the data file here, `full_value` on the whole held-out test set.
"""


@dataclass(frozen=True)
class Card:
    """What a training script knows of its model before anything is measured."""

    name: str
    family: str
    source: str
    data: str
    data_licence: str
    metric: str
    opset: int
    parameters: int
    seed: int
    train_seconds: float


def save_data(path: Path, arrays: dict[str, Array]) -> None:
    """Write a compressed archive in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(temporary, **arrays)
    temporary.replace(path)


def describe(card: Card, folder: Path, full: dict[str, Array]) -> dict[str, Value]:
    """Measure a model on its shipped data and on the full test set; return its entry."""
    model, data = folder / f"{card.name}.onnx", folder / card.data
    with np.load(data) as archive:
        shipped = dict(archive)
    return {
        "name": card.name,
        "file": model.name,
        "family": card.family,
        "source": card.source,
        "licence": "Apache-2.0",
        "sha256": sha256(model),
        "opset": card.opset,
        "parameters": card.parameters,
        "data": card.data,
        "data_licence": card.data_licence,
        "data_sha256": sha256(data),
        "metric": card.metric,
        "shipped_value": round(measure(model, card.metric, shipped), 2),
        "shipped_samples": len(shipped["labels"]),
        "full_value": round(measure(model, card.metric, full), 2),
        "full_samples": len(full["labels"]),
        "seed": card.seed,
        "train_seconds": round(card.train_seconds),
    }


def to_toml(entry: dict[str, Value]) -> str:
    """Return one `[[model]]` table; values hold no characters that need escaping."""
    lines = ["[[model]]"]
    for key, value in entry.items():
        lines.append(f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}")
    return "\n".join(lines) + "\n"


def record(card: Card, folder: Path, full: dict[str, Array]) -> None:
    """Measure a model and put its entry into MANIFEST.toml, replacing an older one."""
    path = folder / "MANIFEST.toml"
    entries = tomllib.loads(path.read_text())["model"] if path.exists() else []
    entries = [entry for entry in entries if entry["name"] != card.name]
    entry = describe(card, folder, full)
    entries = sorted([*entries, entry], key=lambda item: str(item["name"]))
    temporary = path.with_suffix(".tmp")
    temporary.write_text("\n".join([HEADER, *map(to_toml, entries)]))
    temporary.replace(path)
    print(to_toml(entry), flush=True)
