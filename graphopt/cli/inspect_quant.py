"""`graphopt inspect MODEL --quant ORIGINAL`: how far each quantized layer is from floats."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from graphopt.cli import console
from graphopt.cli.options import existing, model_file
from graphopt.errors import InputError

RUNS = 32  # samples that are enough to tell an error by


def inspect_quant(
    path: Path,
    original: Path,
    data: str | None,
    shapes: dict[str, tuple[int, ...]] | None,
    json: bool,
) -> None:
    """Show the layers of a quantized model or bundle against the float model.

    Raises:
        InputError: nothing is quantized, or the two models have no layer in common.
    """
    from graphopt import api
    from graphopt.analysis.bind import bind
    from graphopt.data import load_samples
    from graphopt.generate import sample_runs
    from graphopt.passes.quantize.account import layer_errors
    from graphopt.pipeline import run_pipeline

    place = path / "model.onnx" if path.is_dir() else path
    quantized = api.load(model_file(place), input_shapes=shapes)
    before = api.load(model_file(original), input_shapes=shapes)
    given = load_samples(str(existing(Path(data))), before.main) if data else None
    for module in (before, quantized):
        bind(module, shapes)
    samples = sample_runs(before, given, lambda: api.load(original), RUNS)
    run_pipeline(api.default_passes(None, None), before, api.context())
    rows = layer_errors(quantized, before, samples, RUNS)
    if not rows:
        raise InputError(f"{place}: no layer is quantized")
    if all(math.isnan(r.own_db) and math.isnan(r.total_db) for r in rows):
        raise InputError(f"{place}: none of its layers has the name of one of {original}")
    told = [{"name": " + ".join(r.nodes), **vars(r)} for r in rows]
    if json:
        console.show_json({"model": str(place), "original": str(original), "data": samples.data,
                           "layers": [_plain(row) for row in told]})  # fmt: skip
        return
    head = ("layer", "op", "own SQNR", "total SQNR", "cosine")
    shown = [(" + ".join(r.nodes[:1]), r.kind, _db(r.own_db), _db(r.total_db),
              "-" if math.isnan(r.cosine) else f"{r.cosine:.5f}") for r in rows]  # fmt: skip
    console.show(console.table(head, shown, left=2))
    on = f"on {min(samples.runs, RUNS)} {samples.data} samples"
    console.show("", f"{on}; own: with the float model's inputs, rounded; total: with all errors "
                 "before it")  # fmt: skip


def _db(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f} dB"


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    odd = {k: None for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)}
    return {**row, **odd}
