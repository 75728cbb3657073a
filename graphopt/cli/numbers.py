"""Runs of the reference that commands compare with: the original model, unoptimized."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from graphopt.ir.core import Module
    from graphopt.ir.types import Array
    from graphopt.verify import Check, Tolerance

SEEDED_SAMPLES = 3
DATA_SAMPLES = 16


@dataclass(frozen=True)
class Trial:
    """Inputs, what the reference makes of them, and how far from that is still rounding.

    `data` says where the inputs come from: `given` or `seeded`.
    """

    data: str
    feeds: Sequence[Mapping[str, Array]]
    wanted: Sequence[Mapping[str, Any]]
    limit: Tolerance

    def check(self, what: str, run: Callable[[Mapping[str, Array]], Mapping[str, Any]]) -> Check:
        """Compare the runs of something with the reference's."""
        return self.hold(what, [run(f) for f in self.feeds])

    def hold(self, what: str, got: Sequence[Mapping[str, Any]]) -> Check:
        """Compare outputs for the first of the inputs with the reference's."""
        from graphopt.verify import compare

        return compare(what, self.data, self.limit, self.wanted[: len(got)], got)


def trial(source: Path, module: Module, data: str | None, samples: int = SEEDED_SAMPLES) -> Trial:
    """Run the reference (ONNX Runtime, its optimizer off) on given data or seeded inputs.

    Args:
        source: the model's file.
        module: what was read from it, with the input shapes to use.
        data: a path of samples; None: seeded.
        samples: how many seeded ones.

    Raises:
        InputError: data that doesn't fit, or a model that the reference can't run.
    """
    from graphopt.analysis.memory import check_memory
    from graphopt.data import seeded_runs
    from graphopt.ir.clone import clone_module
    from graphopt.verify import response, tolerance

    check_memory(module)
    run = reference(source, module)
    if data is None:
        what = "seeded"
        inputs, wanted = seeded_runs(module, run, samples)
    else:
        what, inputs = "given", given_feeds(module, data)
        wanted = [run(f) for f in inputs]
    original = clone_module(module)  # the passes change the module
    respond = lambda: response(original, inputs, wanted, run_all)  # noqa: E731
    return Trial(what, inputs, wanted, tolerance(module.main, respond))


def feeds(
    module: Module, data: str | None, samples: int = SEEDED_SAMPLES
) -> tuple[str, Sequence[Mapping[str, Any]]]:
    """Inputs that the model runs on, and where they come from.

    Raises:
        InputError: data that doesn't fit, or a model that the reference can't run.
    """
    from graphopt.data import seeded_runs

    if data is None:
        return "seeded", seeded_runs(module, lambda feed: run_module(module, feed), samples)[0]
    return "given", given_feeds(module, data)


def given_feeds(module: Module, data: str) -> list[dict[str, Array]]:
    """The samples of a file or folder, as the model takes them.

    Raises:
        InputError: data that doesn't fit the model.
    """
    from graphopt.data import load_samples

    given = list(load_samples(data, module.main).feeds(module.main, DATA_SAMPLES))
    if not given:
        raise InputError(f"{data}: too few samples for one run of the model")
    return given


def reference(
    source: Path, module: Module, **options: Any
) -> Callable[[Mapping[str, Array]], Mapping[str, Any]]:
    """ONNX Runtime on the original file; on the module where the original is IR text."""
    from graphopt import onnx as onnx_io

    return onnx_io.Reference(module if source.suffix == ".gir" else source, **options).run


def run_module(module: Module, feed: Mapping[str, Array]) -> Mapping[str, Any]:
    """The outputs of a module: as ONNX, in ONNX Runtime with its optimizer off.

    Ops that only lowering makes (minimal filtering, say) have no form in ONNX: then by numpy.
    """
    from graphopt import onnx as onnx_io
    from graphopt.analysis.interpret import interpret

    try:
        return onnx_io.Reference(module).run(feed)
    except UnsupportedError:
        return interpret(module, feed, opaque=onnx_io.evaluate_opaque)


def run_all(module: Module, feeds: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The outputs of a module for several inputs, as `run_module`."""
    from graphopt import onnx as onnx_io

    run = onnx_io.Reference(module).run
    return [run(feed) for feed in feeds]
