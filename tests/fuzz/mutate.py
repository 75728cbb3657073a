# pyright: basic
# Mutations put anything anywhere: the point is that types do not hold.
"""Seeded mutations of models: the same seed gives the same files."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import onnx

from tests.fuzz import external, models, nodes, params, raw, weights
from tests.fuzz.edit import Edit

SORTS = ("raw", "nodes", "params", "weights", "external")


@dataclass(frozen=True)
class Case:
    """A mutated model on disk, and what was done to it."""

    path: Path
    sort: str
    what: str


def mutate(seed: int, folder: Path) -> Case:
    """Write the mutated model of a seed, and the files beside it, into an empty folder."""
    rng = random.Random(seed)
    sort = SORTS[seed % len(SORTS)]
    name = rng.choice([*models.SMALL] * 2 + models.real())
    model = models.model(name)
    path = folder / "model.onnx"
    if sort == "raw":
        data, what = raw.mutate(rng, model.SerializeToString())
        path.write_bytes(data)
    elif sort == "external":
        what = external.mutate(rng, model, path)
    else:
        table = {"nodes": nodes.EDITS, "params": params.EDITS, "weights": weights.EDITS}[sort]
        what = "; ".join(_edits(rng, model, table))
        path.write_bytes(model.SerializeToString())
    return Case(path, sort, f"{name}: {what}")


def _edits(rng: random.Random, model: onnx.ModelProto, table: tuple[Edit, ...]) -> list[str]:
    """Up to three edits, most often one: a model with one fault gets furthest."""
    done: list[str] = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        done.append(_edit(rng, model, table))
    return done


def _edit(rng: random.Random, model: onnx.ModelProto, table: tuple[Edit, ...]) -> str:
    for _ in range(20):
        edit = rng.choice(table)
        try:
            return f"{edit.__name__}({edit(rng, model)})"
        except (IndexError, KeyError, ValueError, TypeError):
            continue  # the model has nothing to edit in that way
    return "nothing"
