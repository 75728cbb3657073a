"""What a task is, and where its files are looked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .metrics import Array, same

Feed = Mapping[str, Array]
Labelled = tuple[Array, Array]


class MissingError(Exception):
    """A model, data or package that isn't there; the message says the command that gets it."""


@dataclass(frozen=True)
class Places:
    """Folders of models and of data, and how many samples to calibrate and evaluate on.

    `fresh`: evaluate on training samples that nobody calibrates on, in place of the test samples.
    """

    zoo: tuple[Path, ...]
    data: tuple[Path, ...]
    calibration: int = 300
    evaluation: int | None = None  # None: all
    fresh: bool = False

    def model(self, name: str, get: str = "it is the folder of models that its page names") -> Path:
        """A file below one of the folders of models; `get` tells how it comes there."""
        return _find(self.zoo, name, "--zoo", get)

    def file(self, name: str, get: str = "it is the folder that its page names") -> Path:
        """A file below one of the folders of data."""
        return _find(self.data, name, "--data", get)

    def split(self, count: int) -> tuple[Array, Array]:
        """Indices of `count` training samples to calibrate on, seeded; and those of the rest."""
        order = np.random.default_rng(20).permutation(count)
        return order[: self.calibration], order[self.calibration :]

    def evaluated(self, rest: Array, train: Labelled, test: Labelled) -> Labelled:
        """The samples and labels to evaluate on; `rest` are the training samples not calibrated on."""
        if self.fresh:
            chosen = rest[: self.evaluation]
            return train[0][chosen], train[1][chosen]
        return test[0][: self.evaluation], test[1][: self.evaluation]


def _find(folders: tuple[Path, ...], name: str, option: str, get: str) -> Path:
    for folder in folders:
        for found in sorted(folder.rglob(name)):
            return found
    raise MissingError(f"no {name} below {option}: {get}")


def package(name: str, get: str) -> Any:
    """An optional package.

    Raises:
        MissingError: it isn't installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as why:
        raise MissingError(f"needs {name.split('.')[0]}: pip install {get}") from why


def first(outputs: Array, _inputs: Feed) -> Array:
    """The output as it is."""
    return outputs


def largest(logits: Array) -> Array:
    """The class of each sample."""
    return logits.argmax(-1)


@dataclass(frozen=True)
class Task:
    """A float32 model and its labelled samples; arrays have a leading sample axis.

    Attributes:
        metric: what `score` is, in words.
        score: how good each sample's output is, in 0..1, [N].
        decide: what a user takes from the outputs, compared with float32 by `same`.
        reduce: makes of a batch's first output and inputs what `score` and `decide` get.
        extra: more comparisons of (float32, quantized) outputs, by name.
        transformer: for the tools that have a mode of their own for these.
    """

    name: str
    family: str
    metric: str
    model: Path
    calibration: Feed
    inputs: Feed
    score: Callable[[Array], Array]
    decide: Callable[[Array], Array] = largest
    reduce: Callable[[Array, Feed], Array] = first
    extra: Mapping[str, Callable[[Array, Array], float]] = field(
        default_factory=dict[str, Callable[[Array, Array], float]]
    )
    transformer: bool = False

    def agreement(self, before: Array, after: Array) -> float:
        """The part of the decisions that are those of float32, in percent."""
        return 100 * float(same(self.decide(before), self.decide(after)).mean())
