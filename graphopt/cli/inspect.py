"""`graphopt inspect`: what a model or a bundle is made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import console
from graphopt.cli.options import Data, Either, Json, Shapes, existing, parse_shapes
from graphopt.errors import InputError
from graphopt.report.units import at_least, count, size

if TYPE_CHECKING:
    from graphopt.ir.core import Module, Op, Value
    from graphopt.runtime import Manifest


def inspect(
    path: Either,
    layers: Annotated[bool, typer.Option("--layers", help="A line for each op, or layer.")] = False,
    quant: Annotated[
        Path | None,
        typer.Option(metavar="ORIGINAL", help="The float model: how far is each quantized layer "
                     "from it, the worst first?"),
    ] = None,
    data: Data = None,
    input_shape: Shapes = None,
    json: Json = False,
) -> None:
    """Count ops, parameters, multiply-accumulates (MACs), bytes and memory."""
    if quant:
        from graphopt.cli.inspect_quant import inspect_quant

        inspect_quant(existing(path), quant, data, parse_shapes(input_shape), json)
        return
    if data:
        raise InputError("--data goes with --quant")
    if existing(path).is_dir():
        from graphopt.runtime import Manifest

        told = _bundle(path, Manifest.load(path))
    else:
        told = _model(path, parse_shapes(input_shape))
    if json:
        console.show_json(told)
    else:
        _show(told, layers)


def _model(path: Path, shapes: dict[str, tuple[int, ...]] | None) -> dict[str, Any]:
    from graphopt import api
    from graphopt.analysis.bind import bind
    from graphopt.report.model import Size

    module = api.load(path)
    ends = _ends(module)
    notes = bind(module, shapes)
    s = Size.of(module)
    return {
        "kind": "model", "name": module.name, "opsets": module.opsets, **ends,
        "operators": s.operators, "opaque": _opaque(module), "macs": s.macs, "dynamic": s.dynamic,
        "parameters": s.parameters, "weight_bytes": s.weight_bytes,
        "activation_bytes": s.activation_bytes, "file_bytes": path.stat().st_size,
        "ops": s.kinds, "notes": notes,
        "layers": [_layer(op) for op in module.main if op.kind.name not in ("const", "return")],
    }  # fmt: skip


def _ends(module: Module) -> dict[str, dict[str, str]]:
    """Inputs and outputs with their types, as the model has them."""
    end = module.main.terminator
    names = getattr(end.kind, "names", ())
    outputs = zip(names, module.main.outputs, strict=False)
    return {"inputs": {a.hint: str(a.type) for a in module.main.args},
            "outputs": {n: str(v.type) for n, v in outputs}}  # fmt: skip


def _opaque(module: Module) -> int:
    """Operators that pass through as they are: no kind of ours models them."""
    return sum(op.kind.name == "opaque" for op in module.main.walk())


def _layer(op: Op) -> dict[str, Any]:
    from graphopt.analysis import cost
    from graphopt.ir.builtin import Const

    constants = [v.op.kind.data for v in op.operands if v and v.op and isinstance(v.op.kind, Const)]
    return {
        "name": str(op.loc), "nodes": list(op.loc.nodes),
        "kind": getattr(op.kind, "op_type", op.kind.name),
        "output": ", ".join(str(r.type) for r in op.results), "macs": cost.macs(op),
        "parameters": sum(_elements(d.shape) for d in constants if d.dtype.is_float),
        "output_bytes": sum(_bytes(r) for r in op.results),
    }  # fmt: skip


def _elements(shape: tuple[int, ...]) -> int:
    import math

    return math.prod(shape)


def _bytes(value: Value) -> int:
    """Bytes of a static tensor; 0 where they depend on the run."""
    from graphopt.ir.types import TensorType

    type_ = value.type
    if not isinstance(type_, TensorType) or type_.static is None:
        return 0
    return _elements(type_.static) * type_.dtype.bits // 8


def _bundle(path: Path, m: Manifest) -> dict[str, Any]:
    import dataclasses

    outside = [n for n in m.layers if n.kernel == "onnxruntime"]
    total = sum(n.macs for n in m.layers)
    return {
        "kind": "bundle", "name": m.name, "target": m.target, "machine": m.extra.get("machine", ""),
        "arch": m.arch, "pipeline": m.pipeline,
        "cpu_features": list(m.cpu_features), "versions": m.versions,
        "inputs": {s.name: _spec(s.dtype, s.shape) for s in m.inputs},
        "outputs": {s.name: _spec(s.dtype, s.shape) for s in m.outputs},
        "kernel_calls": len(m.layers) - len(outside),
        "kernels": len({n.kernel for n in m.layers} - {"onnxruntime"}),
        "fallback_segments": len(outside),
        "fallback_macs_share": sum(n.macs for n in outside) / (total or 1),
        "macs": total, "weight_bytes": m.weight_bytes, "arena_bytes": m.arena_bytes,
        "files": {n: (path / n).stat().st_size for n in sorted(_files(path))},
        "layers": [dataclasses.asdict(n) for n in m.layers],
    }  # fmt: skip


def _files(path: Path) -> Iterator[str]:
    return (p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())


def _spec(dtype: str | None, shape: tuple[int | str | None, ...] | None) -> str:
    dims = "?" if shape is None else ",".join("?" if d is None else str(d) for d in shape)
    return f"{dtype or '?'}[{dims}]"


def _show(told: dict[str, Any], layers: bool) -> None:
    facts = console.table(("", ""), list(_facts(told)), left=2)
    console.show(f"{told['kind']} {told['name']}", facts)
    if told["kind"] == "model":
        ops = ", ".join(f"{k} {n}" for k, n in told["ops"].items())
        console.show(f"ops: {ops or 'none'}", *(f"note: {n}" for n in told["notes"]))
    if not layers:
        return
    if told["kind"] == "model":
        head = ("nodes", "op", "output", "MACs", "parameters")
        rows = [(n["name"], n["kind"], n["output"], count(n["macs"]), count(n["parameters"]))
                for n in told["layers"]]  # fmt: skip
        console.show("", console.table(head, rows, left=3))
    else:
        rows = [(n["name"], n["kernel"], count(n["macs"])) for n in told["layers"]]
        console.show("", console.table(("layer", "kernel", "MACs"), rows, left=2))


def _facts(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The label and text of each fact that there is."""
    for key in ("inputs", "outputs"):
        for name, type_ in told[key].items():
            yield key[:-1], f"{name}: {type_}"
    texts = {"target": str, "pipeline": str, "operators": str, "opaque": str, "kernel_calls": str,
             "fallback_segments": str, "macs": count, "parameters": count, "weight_bytes": size,
             "activation_bytes": size, "arena_bytes": size, "file_bytes": size}  # fmt: skip
    labels = {"opaque": "of them opaque", "macs": "MACs", "weight_bytes": "weights",
              "activation_bytes": "peak activations", "arena_bytes": "arena",
              "file_bytes": "file", "kernel_calls": "kernel calls",
              "fallback_segments": "ONNX Runtime segments"}  # fmt: skip
    if told.get("machine"):
        needs = ", ".join(told["cpu_features"])
        yield "machine", f"{told['machine']} ({told['arch']}{f', with {needs}' if needs else ''})"
    for key, text in texts.items():
        if key in told:
            bound = key in ("macs", "activation_bytes") and told.get("dynamic", False)
            yield labels.get(key, key), at_least(text(told[key]), bound)
    for name, number in told.get("files", {}).items():
        yield "file", f"{name}  {size(number)}"
