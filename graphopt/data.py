"""Sample data: an .npz keyed by input name with a leading sample axis, a folder of such, arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from graphopt.analysis.interpret import Defaults, random_inputs
from graphopt.errors import InputError
from graphopt.ir.core import Graph, Module
from graphopt.ir.types import Array, DType, TensorType

LABELS = "labels"
Feed = dict[str, Array]


@dataclass(frozen=True)
class Samples:
    """Samples of every input, stacked along a leading axis; `labels` where the data has them."""

    inputs: Mapping[str, Array]
    labels: Array | None = None

    def __len__(self) -> int:
        """The number of samples."""
        return min(len(a) for a in self.inputs.values())

    def feeds(self, graph: Graph, limit: int | None = None) -> Iterator[Feed]:
        """Give what one run of the model takes, run after run; a last partial batch is left out.

        An input of static shape [B, ...] takes B samples a run when the samples have the shape of
        the rest, or one sample when they have the whole shape.
        """
        takes, runs = self._takes(graph), self.runs(graph)
        for i in range(runs if limit is None else min(runs, limit)):
            yield {n: self._cut(self.inputs[n], i, k) for n, k in takes.items()}

    def runs(self, graph: Graph) -> int:
        """How many runs of the model the samples are enough for."""
        return min(len(self.inputs[n]) // (k or 1) for n, k in self._takes(graph).items())

    def labelled(self, graph: Graph) -> Iterator[tuple[Feed, Array | None]]:
        """Pairs of what a run takes and the labels of its samples."""
        per_run = len(self) // max(self.runs(graph), 1)
        labels = self.labels
        for i, feed in enumerate(self.feeds(graph)):
            yield feed, None if labels is None else labels[i * per_run : (i + 1) * per_run]

    def _takes(self, graph: Graph) -> dict[str, int | None]:
        """Samples a run, by input (see `_per_run`)."""
        return {a.hint: self._per_run(a.type, self.inputs[a.hint]) for a in graph.args}

    @staticmethod
    def _per_run(type_: object, array: Array) -> int | None:
        """Samples a run along the batch axis; None: a sample is a whole input."""
        assert isinstance(type_, TensorType)
        rank = len(type_.shape or ())
        if array.ndim == rank + 1:
            return None
        batch = (type_.shape or (1,))[0]
        return batch if isinstance(batch, int) else 1

    @staticmethod
    def _cut(array: Array, i: int, per_run: int | None) -> Array:
        if per_run is None:
            return array[i]
        return array[i * per_run : (i + 1) * per_run]


def sample_shapes(samples: Samples, graph: Graph) -> dict[str, tuple[int, ...]]:
    """The shapes that samples give to inputs whose shape is dynamic beyond the batch.

    A sample without a batch axis gets one of 1.
    """
    found: dict[str, tuple[int, ...]] = {}
    for arg in graph.args:
        shape = arg.type.shape if isinstance(arg.type, TensorType) else None
        have: tuple[int, ...] = samples.inputs[arg.hint].shape
        if shape is None or all(isinstance(d, int) for d in shape[1:]):
            continue
        found[arg.hint] = have[1:] if len(have) == len(shape) + 1 else (1, *have[1:])
    return found


SIZES = (
    Defaults(), Defaults(64, 128, 64), Defaults(256, 256, 1), Defaults(512, 256, 1),
)  # fmt: skip


def seeded_runs(
    module: Module, run: Callable[[Feed], Mapping[str, Any]], samples: int
) -> tuple[list[Feed], list[Mapping[str, Any]]]:
    """Seeded inputs and what `run` makes of them; dynamic sizes grow until the model runs.

    Raises:
        InputError: it runs at no size.
    """
    first: InputError | None = None
    tried: list[dict[str, tuple[int, ...]]] = []
    for defaults in SIZES:
        feeds = [random_inputs(module, seed=s, defaults=defaults) for s in range(samples)]
        shapes = {name: np.shape(value) for name, value in feeds[0].items()}
        if shapes in tried:
            continue
        tried.append(shapes)
        try:
            return feeds, [run(f) for f in feeds]
        except InputError as why:  # too short a sequence for a window or a reflecting pad, say
            first = first or why
    assert first
    if "can't run it" in str(first):
        first.add_note("that was on seeded inputs: give samples that suit it (--data)")
    raise first


def load_samples(source: object, graph: Graph) -> Samples:
    """Read samples for a model's inputs and check them.

    Args:
        source: a path (.npz or folder of .npz) or an iterable of `{name: array}` without the
            leading sample axis.
        graph: the model's main graph.

    Raises:
        InputError: unreadable, wrong names, shapes, types, NaN, or labels that aren't one a sample.
    """
    if isinstance(source, str | Path):
        found = _from_path(Path(source))
        place = str(source)
    elif isinstance(source, Iterable):
        found = _stack([_sample(s) for s in cast("Iterable[object]", source)])
        place = "data"
    else:
        raise InputError(f"data is a path or an iterable of {{name: array}}, not {source!r}")
    labels = found.pop(LABELS, None)
    samples = Samples(_check(found, graph, place), labels)
    if labels is not None and labels.shape[:1] != (len(samples),):
        there = len(labels) if labels.ndim else "no list of"
        raise InputError(f"{place}: {there} labels for {len(samples)} samples")
    return samples


def _sample(given: object) -> dict[str, Array]:
    """One sample of an iterable.

    Raises:
        InputError: it isn't of the form {name: array}.
    """
    names = list(cast("Mapping[object, Array]", given)) if isinstance(given, Mapping) else [None]
    if not all(isinstance(name, str) for name in names):
        shown = repr(cast("object", given))
        raise InputError(
            "data is a path or an iterable of {name: array}, one for each sample, but it has "
            f"{shown if len(shown) < 80 else type(cast('object', given)).__name__}"
        )
    return dict(cast("Mapping[str, Array]", given))


def _from_path(path: Path) -> dict[str, Array]:
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise InputError(f"{path}: the folder has no .npz files")
        return _join([_read(f) for f in files], path)
    return _read(path)


def _read(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {k: file[k] for k in file.files}
    except (OSError, ValueError, EOFError, KeyError, AttributeError) as why:
        raise InputError(f"{path}: can't read it as .npz: {why}") from why
    except Exception as why:  # zipfile and zlib raise classes of their own
        raise InputError(f"{path}: broken .npz: {why}") from why


def _join(parts: list[dict[str, Array]], place: Path) -> dict[str, Array]:
    names = parts[0].keys()
    if any(p.keys() != names for p in parts):
        raise InputError(f"{place}: the .npz files don't have the same keys")
    try:
        return {n: np.concatenate([p[n] for p in parts]) for n in names}
    except ValueError as why:
        raise InputError(f"{place}: the .npz files don't fit together: {why}") from why


def _stack(samples: list[dict[str, Array]]) -> dict[str, Array]:
    if not samples:
        raise InputError("the data has no samples")
    try:
        return {n: np.stack([np.asarray(s[n]) for s in samples]) for n in samples[0]}
    except (KeyError, ValueError) as why:
        raise InputError(
            f"the samples of the data don't have the same names and shapes: {why}"
        ) from why


def _check(found: dict[str, Array], graph: Graph, place: str) -> dict[str, Array]:
    wanted = {a.hint: a.type for a in graph.args}
    missing = [n for n in wanted if n not in found]
    if missing:
        has = ", ".join(found) or "nothing"
        raise InputError(f"{place}: no data for input {missing[0]!r}; it has {has}")
    for name, type_ in wanted.items():
        if not isinstance(type_, TensorType):
            raise InputError(f"{place}: input {name!r} is {type_}, which an .npz can't hold")
        _check_one(name, found[name], type_, place)
    return {n: found[n] for n in wanted}


def _check_one(name: str, array: Array, type_: TensorType, place: str) -> None:
    shape = type_.shape
    try:
        dtype: object = DType.of(array)
    except KeyError:  # times, records
        dtype = array.dtype
    if dtype is not type_.dtype:
        raise InputError(f"{place}: {name!r} is {dtype}, but the model takes {type_.dtype}")
    if shape is not None:
        dims = array.shape[1:] if array.ndim == len(shape) + 1 else array.shape
        rest = shape if array.ndim == len(shape) + 1 else (-1, *shape[1:])
        fits = len(dims) == len(shape) and all(
            not isinstance(want, int) or want in (-1, have)
            for have, want in zip(dims, rest, strict=True)
        )
        if not fits:
            raise InputError(
                f"{place}: {name!r} has shape {list(array.shape)}, but a sample is {type_}"
            )
    if not len(array):
        raise InputError(f"{place}: {name!r} has no samples")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{place}: {name!r} has NaN or infinite values")
