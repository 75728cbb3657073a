"""`graphopt passes`: what may stand in a pipeline."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import TYPE_CHECKING, Any, cast

from graphopt.cli import console
from graphopt.cli.options import Json

if TYPE_CHECKING:
    from graphopt.pipeline import Pass


def passes(json: Json = False) -> None:
    """List the passes: what each does to the numbers, its options, what it does."""
    from graphopt.passes import PIPELINES
    from graphopt.pipeline import Pass

    found = [_about(cls) for cls in Pass.members().values()]
    if json:
        console.show_json({"pipelines": dict(PIPELINES), "passes": found})
        return
    shown = [
        (p["name"], p["effect"], ", ".join(f"{o['name']}={o['default']}" for o in p["options"]),
         p["summary"])
        for p in found
    ]  # fmt: skip
    console.show(console.table(("pass", "numbers", "options", "what it does"), shown, left=4))
    console.show("", *(f"{name}: {text}" for name, text in PIPELINES.items()))
    console.show("exact: the same numbers; reassociating: the same up to float rounding.")


def _about(cls: type[Pass]) -> dict[str, Any]:
    doc = inspect.cleandoc(cls.__doc__ or "")
    return {
        "name": cls.name,
        "effect": cls.effect,
        "options": [_option(cls, f) for f in dataclasses.fields(cast("Any", cls))],
        "summary": " ".join(doc.split("\n\n")[0].split()),
        "doc": doc,
    }


def _option(cls: type[Pass], field: dataclasses.Field[Any]) -> dict[str, str]:
    from graphopt.spec import describe, show

    wanted = typing.get_type_hints(cls)[field.name]
    needed = field.default is dataclasses.MISSING
    return {
        "name": field.name,
        "type": describe(wanted),
        "default": "(needed)" if needed else show(field.default),
    }
