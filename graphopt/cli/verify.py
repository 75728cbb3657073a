"""`graphopt verify`: a bundle against the model it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.cli import console
from graphopt.cli.options import Bundle, Data, Json, Model, Threads, existing, model_file
from graphopt.errors import InputError, MismatchError, UnsupportedError

if TYPE_CHECKING:
    from graphopt.ir.core import Module
    from graphopt.loss import Loss
    from graphopt.runtime import Manifest
    from graphopt.verify import Check


def verify(
    bundle: Bundle, model: Model, data: Data = None, threads: Threads = None, json: Json = False
) -> None:
    """Compare a bundle (compiled, and its model.onnx) with the original; exit 1 if they differ.

    The reference is ONNX Runtime on MODEL with its optimizer off. The tolerance is what rounding
    explains; it is printed with its derivation. Of a bundle whose passes were lossy, the compiled
    library is held against model.onnx, and what that lost against the original is told.
    """
    from graphopt import api
    from graphopt.runtime import Manifest

    manifest = Manifest.load(existing(bundle))
    if data:
        existing(Path(data))
    module = api.load(model_file(model))
    _bind(module, manifest)
    lossy = bool(manifest.extra.get("losses"))
    told_losses = losses(bundle, model, module, data) if lossy else ()
    missed: list[str] = manifest.extra.get("missed", [])
    checks = _checks(bundle, model, module, data, threads, lossy)
    instructions = _instructions(bundle, manifest)
    if json:
        import dataclasses

        from graphopt.report.model import check_json, plain

        told = [check_json(c) for c in checks]
        lost = [plain(dataclasses.asdict(one)) for one in told_losses]
        console.show_json({"verified": all(c.ok for c in checks), "checks": told, "losses": lost,
                           "missed": missed, "instructions": instructions})  # fmt: skip
    else:
        proved = [instructions] if instructions else []
        limits = [f"a limit was missed when it was made: {text}" for text in missed]
        console.show(*(str(c) for c in checks if c.ok), *proved, *map(str, told_losses), *limits)
    wrong = [c for c in checks if not c.ok]
    if wrong:
        raise MismatchError("; ".join(map(str, wrong)))


def _checks(
    bundle: Path,
    model: Path,
    module: Module,
    data: str | None,
    threads: int | None,
    lossy: bool,
) -> list[Check]:
    from graphopt import api
    from graphopt import onnx as onnx_io
    from graphopt.cli.numbers import trial
    from graphopt.runtime import Manifest, Session
    from graphopt.targets.elsewhere import run as elsewhere
    from graphopt.targets.elsewhere import target_of

    own, checks = bundle / "model.onnx", list["Check"]()
    t = trial(own, api.load(own), data) if lossy else trial(model, module, data)
    if not lossy:
        checks = [t.check("the bundle's model.onnx", onnx_io.Reference(own).run)]
    manifest = Manifest.load(bundle)
    if target := target_of(manifest):
        got = elsewhere(bundle, manifest, t.feeds, threads)
        return [*checks, t.hold(f"the compiled bundle, {target.runner().how},", got)]
    with Session(bundle, threads=threads, verify=True) as session:
        return [*checks, t.check("the compiled bundle", session.run)]


def _instructions(bundle: Path, manifest: Manifest) -> str:
    """What reading the code of a bundle for another CPU proves; empty for this computer's."""
    from graphopt.targets.elsewhere import examine, target_of

    try:
        return examine(bundle, manifest) if target_of(manifest) else ""
    except UnsupportedError as why:
        return f"the compiled instructions were NOT CHECKED: {why}"


def losses(bundle: Path, model: Path, module: Module, data: str | None) -> tuple[Loss, ...]:
    """How far the bundle's model.onnx is from the original, on all samples."""
    from graphopt import api
    from graphopt.cli.numbers import reference
    from graphopt.data import load_samples
    from graphopt.generate import sample_runs
    from graphopt.judge import SampleJudge

    samples = load_samples(data, module.main) if data else None
    runs = sample_runs(module, samples, lambda: api.load(model))
    judge = SampleJudge(module, reference(model, module), samples, runs)
    return judge.verdict(api.load(bundle / "model.onnx"))


def _bind(module: Module, manifest: Manifest) -> None:
    """Give the model the shapes that the bundle was compiled for."""
    from graphopt.analysis.bind import bind

    mine, theirs = [a.hint for a in module.main.args], [s.name for s in manifest.inputs]
    if mine != theirs:
        raise InputError(
            f"the bundle was made from another model: it takes {', '.join(theirs) or 'nothing'}, "
            f"and the model takes {', '.join(mine) or 'nothing'}"
        )
    shapes = {s.name: _static(s.shape) for s in manifest.inputs}
    bind(module, {n: s for n, s in shapes.items() if s is not None})


def _static(shape: tuple[int | str | None, ...] | None) -> tuple[int, ...] | None:
    sizes = tuple(d for d in shape or () if isinstance(d, int))
    return sizes if shape is not None and len(sizes) == len(shape) else None
