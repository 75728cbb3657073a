"""How sources, targets, tensors and builds are named in manifests, reports and messages."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from graphopt.analysis.cost import constants
from graphopt.ir.core import Module
from graphopt.ir.data import size
from graphopt.ir.types import TensorType
from graphopt.report.model import Fallback, Report, Storage
from graphopt.runtime.manifest import Manifest, TensorSpec
from graphopt.targets.base import Target
from graphopt.targets.program import Program


def describe_build(report: Report, module: Module, program: Program, manifest: Manifest) -> None:
    """Put what was compiled into a report."""
    report.kernels = len(program.kernels)
    report.calls = len(program.steps)
    report.arena_bytes = program.arena_bytes
    report.storage = Storage(
        sum(size(k.data) for k in constants(module.main)),
        manifest.weight_bytes, manifest.stored_bytes, len(manifest.extra.get("coded", ())),
    )  # fmt: skip
    report.versions = dict(manifest.versions)
    report.files = {name: info.bytes for name, info in manifest.files.items()}
    outside = list(program.fallbacks())
    if not outside:
        return
    total = sum(s.macs for s in program.steps) or 1
    why = {kind: reason for call in outside for kind, reason in call.reasons}
    share = sum(row["share"] for row in report.layers if row["kernel"] == "onnxruntime")
    report.fallback = Fallback(
        len(outside), sum(c.macs for c in outside) / total, why, share if report.layers else None
    )


def path_of(source: Any) -> Path | None:
    """The path that a source is, if it is one."""
    if isinstance(source, str):
        return Path(source)
    return source if isinstance(source, Path) else None


def is_gir(source: Any) -> bool:
    """Whether it is a file of IR text."""
    path = path_of(source)
    return path is not None and path.suffix == ".gir"


def name_of(source: Any) -> str:
    """What messages call it."""
    path = path_of(source)
    return path.name if path else "model"


def target_text(target: Target) -> str:
    """Its name, with the CPU."""
    return f"{target.name}:{target.cpu}" if target.cpu else target.name


def versions() -> dict[str, str]:
    """Of the packages that numbers depend on."""
    packages = ("graphopt", "apache-tvm", "onnx", "onnxruntime", "numpy")
    found: dict[str, str] = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def specs(module: Module, *, outputs: bool) -> tuple[TensorSpec, ...]:
    """What the manifest says of a module's inputs, or outputs."""
    graph = module.main
    if not outputs:
        return tuple(_spec(a.hint, a.type) for a in graph.args)
    names = getattr(graph.terminator.kind, "names", ())
    return tuple(_spec(n, v.type) for n, v in zip(names, graph.outputs, strict=True))


def _spec(name: str, type_: Any) -> TensorSpec:
    if not isinstance(type_, TensorType):
        return TensorSpec(name, None, None)
    if type_.shape is None:
        return TensorSpec(name, type_.dtype.value[0], None)
    dims = tuple(d if isinstance(d, int) else str(d) for d in type_.shape)
    return TensorSpec(name, type_.dtype.value[0], dims)
