"""`graphopt debug explain`: what became of an ONNX node, and why not more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import console
from graphopt.cli.options import Json, Model, Passes, Shapes, model_file, parse_shapes, read_passes
from graphopt.errors import InputError

if TYPE_CHECKING:
    from graphopt.ir.core import Module
    from graphopt.pipeline import Record


def explain(
    model: Model,
    node: Annotated[str, typer.Argument(metavar="NODE", show_default=False, help="Its ONNX name.")],
    passes: Passes = "default",
    target: Annotated[
        str | None,
        typer.Option(metavar="NAME[:CPU]", help="Lower for it too: layouts, kernels, fallbacks."),
    ] = None,
    input_shape: Shapes = None,
    json: Json = False,
) -> None:
    """Tell what each pass did to a node (`applied`) or declined to do (`missed: reason`)."""
    from graphopt import api
    from graphopt.analysis.bind import bind
    from graphopt.pipeline import run_pipeline

    chosen = api.parse_target(target) if target else None
    chain = read_passes(passes, chosen)
    module = api.load(model_file(model))
    bind(module, parse_shapes(input_shape))
    _known(module, node)
    records = run_pipeline(chain, module, api.context())
    told = {"node": node, "remarks": _remarks(records, node), "ops": _ops(module, node)}
    if chosen:
        told["kernels"] = _lowered(chosen, module, node)
    if json:
        console.show_json(told)
    else:
        _show(told)


def _known(module: Module, node: str) -> None:
    """Raise InputError unless an op comes from the node."""
    from graphopt.spec import nearest

    names = {n for op in module.main.walk() for n in op.loc.nodes}
    if node not in names:
        raise InputError(f"the model has no node named {node!r}{nearest(node, names)}")


def _remarks(records: Iterable[Record], node: str) -> list[dict[str, Any]]:
    return [
        {"pass": r.number, "text": r.text, "rule": m.rule, "applied": m.applied, "why": m.text,
         "nodes": list(m.loc.nodes)}
        for r in records for m in r.remarks if node in m.loc.nodes
    ]  # fmt: skip


def _ops(module: Module, node: str) -> list[str]:
    """The ops that the node lives on in."""
    from graphopt.ir.printer import Printer

    printer = Printer(elide=True)
    texts = ((op, "\n".join(printer.op(op, ""))) for op in module.main)
    return [text for op, text in texts if node in op.loc.nodes and op.kind.name != "const"]


def _lowered(target: Any, module: Module, node: str) -> list[dict[str, Any]]:
    """The steps of the program that compute the node."""
    from graphopt.targets.program import KernelCall

    program = target.lower(module)
    return [
        {"kernel": s.kernel, "nodes": list(s.nodes), "macs": s.macs} if isinstance(s, KernelCall)
        else {"kernel": "onnxruntime", "nodes": list(s.nodes), "macs": s.macs,
              "reasons": dict(s.reasons)}
        for s in program.steps if node in s.nodes
    ]  # fmt: skip


def _show(told: dict[str, Any]) -> None:
    rows = [
        (f"{r['pass']} {r['text']}", "applied" if r["applied"] else "missed", r["rule"], r["why"],
         " + ".join(r["nodes"])) for r in told["remarks"]
    ]  # fmt: skip
    head = ("pass", "", "rule", "why", "nodes")
    console.show(console.table(head, rows, left=5) if rows else "no rule looked at it")
    fate = "is now" if told["ops"] else "is gone"
    console.show("", f"{told['node']} {fate}", *told["ops"])
    for step in told.get("kernels", ()):
        why = "".join(f"; {kind}: {text}" for kind, text in step.get("reasons", {}).items())
        console.show(f"runs in {step['kernel']} ({' + '.join(step['nodes'])}){why}")
