"""`graphopt verify`: a bundle against the model it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.cli import console
from graphopt.cli.options import Bundle, Data, Json, Model, Threads, existing, model_file
from graphopt.errors import InputError, MismatchError

if TYPE_CHECKING:
    from graphopt.ir.core import Module
    from graphopt.runtime import Manifest
    from graphopt.verify import Check


def verify(
    bundle: Bundle, model: Model, data: Data = None, threads: Threads = None, json: Json = False
) -> None:
    """Compare a bundle (compiled, and its model.onnx) with the original; exit 1 if they differ.

    The reference is ONNX Runtime on MODEL with its optimizer off. The tolerance is what rounding
    explains; it is printed with its derivation.
    """
    from graphopt import api
    from graphopt.runtime import Manifest

    manifest = Manifest.load(existing(bundle))
    if data:
        existing(Path(data))
    module = api.load(model_file(model))
    _bind(module, manifest)
    checks = _checks(bundle, model, module, data, threads)
    if json:
        from graphopt.report.model import check_json

        told = [check_json(c) for c in checks]
        console.show_json({"verified": all(c.ok for c in checks), "checks": told})
    else:
        console.show(*(str(c) for c in checks if c.ok))
    wrong = [c for c in checks if not c.ok]
    if wrong:
        raise MismatchError("; ".join(map(str, wrong)))


def _checks(
    bundle: Path, model: Path, module: Module, data: str | None, threads: int | None
) -> list[Check]:
    from graphopt import onnx as onnx_io
    from graphopt.cli.numbers import trial
    from graphopt.runtime import Session

    t = trial(model, module, data)
    checks = [t.check("the bundle's model.onnx", onnx_io.Reference(bundle / "model.onnx").run)]
    with Session(bundle, threads=threads, verify=True) as session:
        return [*checks, t.check("the compiled bundle", session.run)]


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
